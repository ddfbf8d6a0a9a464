"""Whatever a file holds, a reader gives what can be measured, or an error that names the file and the line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearank.data import DataError
from rearank.data.rankllm import RankLlmFile, read_candidates
from rearank.data.rows.conversations import ConversationColumns, ConversationRows
from rearank.data.rows.graded import GradedRows
from rearank.data.topics import read_topics
from rearank.data.trec import read_documents, read_qrels, read_run
from rearank.sections import RerankColumns
from rearank.tasks.rerank.rows import BadRow, TextRows
from rearank.types import MAX_GRADE, scorable

PIECES = st.sampled_from(
    [
        *(
            "q1",
            "d1",
            "0",
            "Q0",
            "1",
            "-1",
            "2.5",
            "nan",
            "1e999",
            "99999999999",
            "\ud83d",
            "\0",
            "é",
            "\u00a0",
            "a b",
            "",
        ),
        *("\t", "\t", " ", "\n", "\n", "\r\n", "query-id\tcorpus-id\tscore\n", "\ufeff"),
        *(
            "<DOC>",
            "</DOC>",
            "<DOCNO>d1</DOCNO>",
            "<top>",
            "</top>",
            "<num>1",
            "<title>a",
            "<topic number='1'>",
            "</topic>",
        ),
        *(
            "<query>",
            "</query>",
            "<topics>",
            "<![CDATA[",
            "]]>",
            "<!--",
            '{"_id": "',
            '"text": "x"}',
            "{",
            "}",
            "[",
            "]",
            '"',
        ),
    ]
)
KEYS = (
    *("_id", "id", "qid", "docid", "text", "query", "title", "candidates", "hits", "doc", "score", "passages"),
    *("grade", "messages", "role", "content"),
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["\ud83d", "a b", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=12,
)
CONTENTS = (
    st.binary(max_size=200)
    | st.lists(PIECES, max_size=30).map(lambda parts: "".join(parts).encode("utf-8", "replace"))
    | st.lists(VALUES, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
    | VALUES.map(lambda row: json.dumps([row]).encode())
    | st.binary(max_size=60).map(lambda tail: b"\x1f\x8b\x08" + tail)
)


def _run(path: str) -> Iterable[str]:
    found = read_run(path)
    return [*found, *(docid for ranked in found.values() for docid, _ in ranked)]


def _qrels(path: str) -> Iterable[str]:
    found = read_qrels(path)
    assert all(abs(grade) <= MAX_GRADE for grades in found.values() for grade in grades.values())
    return [*found, *(docid for grades in found.values() for docid in grades)]


def _candidates(path: str) -> Iterable[str]:
    RankLlmFile(path).scoreddocs()
    found = read_candidates(path)
    return [*found, *(passage.id for listed in found.values() for passage in listed.passages)]


def _rows(path: str) -> Iterable[str]:
    found = list(TextRows(path, RerankColumns(), parquet=False, plain_ids=True).lists())
    lists = [one for one in found if not isinstance(one, BadRow)]
    if bad := [one for one in found if isinstance(one, BadRow)]:
        assert all(str(one.error).startswith(f"{path}:") for one in bad)
        raise bad[0].error
    return [name for one in lists for name in (one.query.id, *(passage.id for passage in one.passages))]


def _graded(path: str) -> Iterable[str]:
    found = GradedRows("rows", path).judged(5)
    assert all(max(item.grades.values()) > 0 for item in found)
    return [name for item in found for name in (item.candidates.query.id, *item.grades)]


def _conversations(path: str) -> Iterable[str]:
    columns = ConversationColumns(id="id", query="query", passages="passages", grades="hits")
    windows = [one.window for one in ConversationRows("rows", path, columns).rows().windows]
    return [name for window in windows for name in (window.query.id, *(passage.id for passage in window.passages))]


READERS: dict[str, Callable[[str], Iterable[Any]]] = {
    "documents": lambda path: [passage.id for passage in read_documents(path)],
    "topics": lambda path: list(read_topics(path)),
    "qrels": _qrels,
    "run": _run,
    "candidates": _candidates,
    "rows": _rows,
    "graded rows": _graded,
    "conversations": _conversations,
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_gives_ids_that_can_be_scored_or_an_error(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp(name) / "file"

    @settings(max_examples=200, deadline=None)
    @given(CONTENTS)
    def read(content: bytes) -> None:
        path.write_bytes(content)
        ids, fault = [], ""
        try:
            ids = list(READERS[name](str(path)))
        except DataError as error:
            fault = str(error)
        assert all(one.split() == [one] and scorable(one) for one in ids), ids
        if fault:
            assert fault.startswith(f"{path}:")
            assert fault.count(str(path)) == 1, "the place is named twice"
            assert scorable(fault), "it can't be printed"

    read()
