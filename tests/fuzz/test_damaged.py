"""Good files, replies and answers, damaged by hypothesis: an error of ours in a line, or a value; never a traceback.

Bytes are changed, cut, repeated, swapped for hostile pieces. Seconds in all; a failure prints the input that hypothesis
shrank it to. ``test_fuzzed_files`` makes files of nothing but pieces, ``tests/serving/test_hostile.py`` requests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rearank.data import DataError
from rearank.data.rankllm import read_candidates
from rearank.data.trec import documents_by_id, read_qrels, read_run, read_topics
from rearank.engines.openai.replies import read_reply
from rearank.engines.openai.retries import Trouble, read_failure
from rearank.evaluation import score
from rearank.parsing import parse_ranking
from rearank.runs.reader import FolderError, read_folder
from rearank.types import Permutation

FUZZED = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
HOSTILE = (
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\xbd", b"\r", b"\n", b"\t", b" ", b"\x1f\x8b", b"", b"-1"),
    *(b"1e999", b"NaN", b"Infinity", b"99999999999", b"null", b"true", b"[]", b"{}", b'"', b"\\ud83d", b"</top>"),
    *(b"<top>", b"<topic number=", b"&#x0;", b"=1+1", b"\xe2\x80\x8b", b"Q0", b"0", b"1.5", b"'"),
)


HOSTILE_SPACE = b"\xef\xbb\xbf \t\r\n"


def outcome(work: Callable[[], Any], refusal: type[Exception]) -> tuple[Any, str | None]:
    """What ``work`` gives, or the words with which it refuses; any other error passes through."""
    try:
        return work(), None
    except refusal as error:
        return None, str(error)


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """``good`` after one to four damages."""
    data = good
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + 12)))
        match draw(st.sampled_from(["hostile", "random", "cut", "repeat"])):
            case "hostile":
                data = data[:begin] + draw(st.sampled_from(HOSTILE)) + data[end:]
            case "random":
                data = data[:begin] + draw(st.binary(max_size=6)) + data[end:]
            case "cut":
                data = data[:begin]
            case _:
                data = data[:end] + data[begin:end] * 2 + data[end:]
    return data


TOPICS = (
    b"q1\tfirst query\nq2\tsecond query\n",
    b'{"_id": "q1", "text": "first"}\n{"_id": "q2", "text": "second"}\n',
    b"<top>\n<num> Number: 1\n<title> first\n</top>\n",
    b'<topics><topic number="1"><query>first</query><question>why</question></topic></topics>\n',
)
QRELS = (b"q1 0 d1 1\nq1 0 d2 0\nq2 0 d1 2\n", b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t0\n")
DOCUMENTS = (
    b"d1\tfirst passage\nd2\tsecond passage\n",
    b'{"_id": "d1", "title": "t", "text": "first"}\n{"_id": "d2", "text": "second"}\n',
    b"<DOC>\n<DOCNO>d1</DOCNO>\n<TEXT>first</TEXT>\n</DOC>\n",
)
RUNS = (b"q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 1.5 tag\nq2 Q0 d1 1 1 tag\n",)
RANKLLM = (
    b'{"query": {"text": "first", "qid": "1"}, "candidates": [{"docid": "d1", "score": 2, "doc": {"text": "a"}}]}\n',
    b'{"query": "first", "hits": [{"qid": 1, "docid": "d1", "rank": 1, "score": 2.0, "content": "a"}]}\n',
)


@pytest.mark.parametrize(
    ("read", "goods"),
    [
        (read_topics, TOPICS),
        (read_qrels, QRELS),
        (documents_by_id, DOCUMENTS),
        (read_run, RUNS),
        (read_candidates, RANKLLM),
    ],
    ids=["topics", "qrels", "documents", "run", "rankllm"],
)
@FUZZED
@given(data=st.data())
def test_a_file_is_read_or_refused_by_name(
    read: Callable[[str], Any], goods: tuple[bytes, ...], data: st.DataObject, tmp_path: Path
) -> None:
    good = data.draw(st.sampled_from(goods))
    content = data.draw(damaged(good))
    path = tmp_path / "file"
    path.write_bytes(content)
    found, refusal = outcome(lambda: read(str(path)), DataError)
    if refusal is not None:
        assert str(path) in refusal
        assert "\n" not in refusal, "one line"
    else:
        assert found or not content.strip(HOSTILE_SPACE), "nothing at all was read"


@FUZZED
@given(qrels=damaged(QRELS[0]), run=damaged(RUNS[0]))
def test_what_was_read_can_be_scored(qrels: bytes, run: bytes, tmp_path: Path) -> None:
    """What the readers let through doesn't bring the C scorer down, and no value is made up."""
    (tmp_path / "qrels").write_bytes(qrels)
    (tmp_path / "run").write_bytes(run)
    judged, refused = outcome(lambda: read_qrels(tmp_path / "qrels"), DataError)
    ranked, also_refused = outcome(lambda: read_run(tmp_path / "run"), DataError)
    if refused is not None or also_refused is not None:
        return
    run = {query: [passage for passage, _ in rows] for query, rows in ranked.items()}
    found = score(run, judged, ("ndcg_cut_10", "map", "P_5"))
    assert all(0 <= value <= 1 for values in found.values() for value in values.values())


@FUZZED
@given(
    body=damaged(
        json.dumps(
            {
                "choices": [{"message": {"content": "[2] > [1]", "reasoning_content": "x"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 3},
                "model": "m",
            }
        ).encode()
    )
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["choices", "message", "content", "usage", "error", "finish_reason", "prompt_tokens"]),
                inner,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
def test_a_reply_is_read_or_is_trouble(body: bytes) -> None:
    text = body.decode("utf-8", "replace")
    try:
        reply = read_reply(text)
    except Trouble:
        return
    assert isinstance(reply.text, str)


@FUZZED
@given(
    status=st.integers(400, 599),
    body=st.text(max_size=200)
    | damaged(b'{"error": {"message": "m", "code": 1}}').map(lambda raw: raw.decode("utf-8", "replace")),
    retry=st.text(max_size=12),
)
def test_a_refusal_is_read_whatever_it_says(status: int, body: str, retry: str) -> None:
    assert isinstance(read_failure(status, {"retry-after": retry}, body, "KEY"), Trouble)


ANSWERS = st.lists(
    st.sampled_from(
        [
            *("<think>", "</think>", "<answer>", "</answer>", "[1]", "[2]", "[3]", " > ", "2", "3", "\n", "because"),
            *("[99]", "[1, 2]", "[\u200b1]", "①", "[A]", "A > B", "<|im_end|>", "\ud83d", "[1] > [1]", "9" * 400),
        ]
    )
    | st.text(max_size=8),
    max_size=30,
).map("".join)


@FUZZED
@given(answer=ANSWERS, size=st.integers(1, 20))
def test_any_answer_parses_to_a_whole_permutation(answer: str, size: int) -> None:
    parsed = parse_ranking(answer, size)
    assert isinstance(parsed.permutation, Permutation)
    assert sorted(parsed.permutation.order) == list(range(size))


@FUZZED
@given(
    content=damaged(
        b'{"system": "x", "role": "system", "measures": ["ndcg_cut_10"], "mean": {"ndcg_cut_10": 0.5}, '
        b'"interval_95": {"ndcg_cut_10": [0.4, 0.6]}, "calls": {}, "per_query": {"ndcg_cut_10": {"q": 0.5}}}'
    )
)
def test_an_output_folder_is_read_or_refused_by_name(content: bytes, tmp_path: Path) -> None:
    place = tmp_path / "run" / "evaluation" / "b" / "base"
    place.mkdir(parents=True, exist_ok=True)
    (place / "metrics.json").write_bytes(content)
    _, refusal = outcome(lambda: read_folder(tmp_path / "run"), FolderError)
    assert refusal is None or "metrics.json" in refusal
