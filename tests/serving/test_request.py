"""What comes in is untrusted: every body gives checked values or a status and the key that is wrong."""

from __future__ import annotations

import json
import tracemalloc
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
    assert [json.loads(document) for document in read.documents] == [{"text": "a"}, documents[1]]
    assert parse({**GOOD, "return_documents": False}).documents == ()
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
        assert len(read.documents) == (len(read.passages) if read.return_documents else 0)
        assert len(read.passages) > 0
    assert status in (200, 400, 404, 413, 422)


def large(body: bytes) -> tuple[RerankRequest, int, int]:
    """What is read of a body with the default limits, and the memory that it takes afterwards and at most."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        read = parse_request(body, Serving(), frozenset(("tiny",)))
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return read, after - before, peak - before


@pytest.mark.parametrize("unit", ["[],", "{},", "[[]],", '"a",', '"\\"",', '{"a":0},', "1,", '"a""a"', "\\,", '","","'])
@pytest.mark.parametrize("kept", ["true", "false"])
def test_a_body_of_many_values_is_refused_before_it_is_parsed(unit: str, kept: str) -> None:
    listed = unit * (15_000_000 // len(unit))
    body = f'{{"query":"q","return_documents":{kept},"documents":[{{"text":"a","x":[{listed}0]}}]}}'.encode()
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="more than the 200000 strings") as refused:
            parse_request(body, Serving(), frozenset(("tiny",)))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert refused.value.status == 413


def test_as_many_values_as_are_allowed_are_read() -> None:
    few = Serving(max_values=10)  # {, "query", "q", a comma, "documents", [, "a", a comma, "b": 9
    assert len(parse_request(json.dumps(GOOD).encode(), few, frozenset()).passages) == 2
    with pytest.raises(RequestError, match="more than the 10"):
        parse_request(json.dumps({**GOOD, "documents": ["a", "b", "c"]}).encode(), few, frozenset())
    marks = {"query": 'a, [b] {c} "d" ' * 10, "documents": ["a, [b] {c}\\" * 10, "b"]}
    assert parse_request(json.dumps(marks).encode(), few, frozenset()).passages[0].text == marks["documents"][0]


def test_what_is_not_asked_back_is_not_kept() -> None:
    values = ",".join(f'{{"k":{number}}}' for number in range(20_000))
    body = b'{"query":"q","documents":[{"text":"a","title":"t","x":[%b],"y":"%b"}]' % (
        values.encode(),
        b"y" * 3_000_000,
    )
    read, held, _ = large(body + b"}")
    assert read.passages == (Passage("0", "a", "t"),)
    assert held < 20_000
    read, held, _ = large(body + b',"return_documents":true}')
    assert [json.loads(one)["x"][7] for one in read.documents] == [{"k": 7}]
    assert read.size - 100 < held < len(body) + 20_000


def test_the_size_of_a_request_is_what_its_texts_take() -> None:
    text = "\U0001f600" + "a" * 500_000  # four bytes a character in memory
    body = json.dumps({"query": "q", "documents": [text, {"text": "b", "title": text}]}, ensure_ascii=False).encode()
    read, held, peak = large(body)
    assert 4_000_000 < read.size <= held + 1000 < read.size + 10_000
    assert peak < 20_000_000
