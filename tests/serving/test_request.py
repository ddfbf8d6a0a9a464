"""What comes in is untrusted: every body gives checked values or a status and the key that is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.serving import Serving
from rearank.serving.request import RequestError, RerankRequest, parse_request
from rearank.types import Passage

SMALL = Serving(max_documents=3, max_characters=40)
GOOD: dict[str, Any] = {"query": "q", "documents": ["a", "b"]}


def parse(body: Any) -> RerankRequest:
    return parse_request(body if isinstance(body, bytes) else json.dumps(body).encode(), SMALL, frozenset(("tiny",)))


def test_coheres_and_jinas_bodies_are_read() -> None:
    documents = ["a", {"text": "b", "title": "B", "id": 7}]
    read = parse({"model": "tiny", "query": "q", "documents": documents, "top_n": 1, "return_documents": True})
    assert read.passages == (Passage("0", "a"), Passage("1", "b", "B"))
    assert read.documents == ("a", {"text": "b", "title": "B", "id": 7})
    assert (read.top_n, read.return_documents, read.return_reasoning, read.warnings) == (1, True, False, ())
    fields = parse({"query": "q", "documents": [{"head": "H", "body": "B"}], "rank_fields": ["head", "body"]})
    assert fields.passages == (Passage("0", "H\nB"),)


def test_keys_without_a_meaning_here_are_named() -> None:
    read = parse({**GOOD, "max_chunks_per_doc": 10, "max_tokens_per_doc": None, "x\n": 1})
    assert len(read.warnings) == 2
    assert "'max_chunks_per_doc'" in read.warnings[0]
    assert "'x\\n'" in read.warnings[1]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "no JSON"),
        (b"\xff\xfe", 400, "no JSON"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b'{"query": NaN}', 400, "NaN is no JSON value"),
        (b'{"query": ' + b"1" * 5000 + b"}", 400, "no JSON"),
        ([GOOD], 400, "no JSON object"),
        ({**GOOD, "model": "rerank-v3.5"}, 404, "'rerank-v3.5' is not served here; this server's is tiny"),
        ({**GOOD, "model": []}, 422, "model"),
        ({"documents": ["a"]}, 422, "query"),
        ({**GOOD, "query": "  "}, 422, "query"),
        ({**GOOD, "query": ["q"]}, 422, "query"),
        ({"query": "q"}, 422, "documents"),
        ({**GOOD, "documents": []}, 422, "documents"),
        ({**GOOD, "documents": "a"}, 422, "documents"),
        ({**GOOD, "documents": ["a", 1]}, 422, r"documents\[1\]"),
        ({**GOOD, "documents": [{"image": "x"}]}, 422, r"documents\[0\]: its 'text' is missing"),
        ({**GOOD, "documents": [{"text": "x"}], "rank_fields": ["y"]}, 422, r"documents\[0\]: its 'y'"),
        ({**GOOD, "rank_fields": []}, 422, "rank_fields"),
        ({**GOOD, "documents": ["a"] * 4}, 413, "4 are more than the 3"),
        ({**GOOD, "documents": ["a" * 40]}, 413, "41 characters are more than the 40"),
        ({**GOOD, "top_n": 0}, 422, "top_n"),
        ({**GOOD, "top_n": True}, 422, "top_n"),
        ({**GOOD, "top_n": "3"}, 422, "top_n"),
        ({**GOOD, "return_documents": "yes"}, 422, "return_documents"),
        ({**GOOD, "return_reasoning": 1}, 422, "return_reasoning"),
    ],
)
def test_what_is_wrong_is_named_with_its_status(body: Any, status: int, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        parse(body)
    assert caught.value.status == status


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["text", "title"]), inner),
    max_leaves=8,
)
KEYS = ["query", "documents", "top_n", "return_documents", "return_reasoning", "rank_fields", "model", "other"]


@given(st.dictionaries(st.sampled_from(KEYS), VALUES) | st.binary(max_size=40))
def test_any_body_is_read_or_refused(body: Any) -> None:
    try:
        read = parse(body)
    except RequestError as refused:
        status = refused.status
    else:
        status = 200
        assert len(read.documents) == len(read.passages) > 0
    assert status in (200, 400, 404, 413, 422)
