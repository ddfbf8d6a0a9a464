"""What ``task=rerank`` reads: rows of one's own, RankLLM's, parquet, runs and topics; and what it says of bad ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rearank.data import DataError
from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.data.bm25 import Bm25
from rearank.data.trec import TrecFiles
from rearank.ranking import SlidingWindow
from rearank.sections import Rerank, RerankColumns
from rearank.tasks.rerank.inputs import Counted, Formats, collection_of, count, formats_of, make_input, refuse_bad
from rearank.tasks.rerank.lists import FoundLists, RunLists
from rearank.tasks.rerank.rows import BadRow, SeenIds, TextRows
from rearank.types import Candidates, Passage, Query

OWN = {"query": "rain", "passages": ["wet", {"id": 7, "text": "dry", "title": "T"}]}


def jsonl(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def read(path: str, columns: RerankColumns | None = None, *, plain_ids: bool = False) -> list[Candidates | BadRow]:
    return list(TextRows(path, columns or RerankColumns(), path.endswith(".parquet"), plain_ids).lists())


@pytest.fixture
def local(tmp_path: Path) -> Benchmark:
    """Four documents and three topics, no judgements."""
    docs, topics = tmp_path / "docs.tsv", tmp_path / "topics.tsv"
    docs.write_text("d1\train and clouds\nd2\tcats\nd3\train in may\nq3\tcats like may\n")
    topics.write_text("q1\train\nq2\tnothing known\nq3\tmay cats\n")
    return Benchmark("local", TrecFiles(str(docs), str(topics)), Bm25(cache_dir=str(tmp_path / "cache")))


def test_a_row_of_ones_own(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows", OWN, "", {**OWN, "id": "q"})
    passages = (Passage("0", "wet"), Passage("7", "dry", "T"))
    assert read(path) == [Candidates(Query("1", "rain"), passages), Candidates(Query("q", "rain"), passages)]


def test_columns_are_named(tmp_path: Path) -> None:
    row = {"qid": 5, "question": {"body": "rain"}, "docs": [{"docid": "a b", "body": "wet", "head": None}]}
    columns = RerankColumns("qid", "question", "docs", "docid", "body", "head")
    wanted = Candidates(Query("5", "rain"), (Passage("a b", "wet"),))
    assert read(jsonl(tmp_path / "rows", row), columns) == [wanted]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    assert read(str(tmp_path / "rows.parquet"), columns) == [wanted]
    [plain] = read(str(tmp_path / "rows.parquet"), columns, plain_ids=True)
    assert isinstance(plain, Candidates)
    assert plain.passages[0].id == "a_b", "a TREC run can't hold a space"


def test_a_row_of_rankllms(tmp_path: Path) -> None:
    row = {"query": {"text": "cats", "qid": 9}, "candidates": [{"docid": "d", "score": 2.5, "doc": {"text": "a cat"}}]}
    assert read(jsonl(tmp_path / "rows", row)) == [Candidates(Query("9", "cats"), (Passage("d", "a cat"),), (2.5,))]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "a JSON object is expected, not list"),
        ({"query": "x"}, "no list of passages under 'passages'; the row has query: set rerank.columns.passages=..."),
        ({"text": "x", "passages": []}, "no text under 'query'; the row has text, passages: set rerank.columns.query="),
        ({"query": " ", "passages": []}, "the query is empty"),
        ({"query": "x", "passages": [1]}, "passage 0 is 1; write a text"),
        ({"query": "x", "passages": [{"doc": "y"}]}, "passage 0: no text under 'text'; it has doc: set rerank.columns"),
        ({"query": "x", "passages": [{"text": "y", "title": 1}]}, "passage 0: the title is 1"),
        ({"query": "x", "passages": [{"text": "y", "id": True}]}, "the passage id is True"),
        ({"query": "x", "passages": [], "id": ""}, "the query id is empty"),
        ({"query": "x", "passages": [{"text": "y", "id": "1"}, "z"]}, "a passage id occurs twice"),
        ({"id": "q", "query": "x", "passages": []}, "query id 'q' occurs twice"),
    ],
)
def test_a_bad_row_is_named_and_the_next_is_read(tmp_path: Path, row: Any, said: str) -> None:
    path = jsonl(tmp_path / "rows", {**OWN, "id": "q"}, row, OWN)
    first, bad, last = read(path)
    assert isinstance(first, Candidates)
    assert isinstance(last, Candidates)
    assert isinstance(bad, BadRow)
    assert str(bad.error).startswith(f"{path}:2: ")
    assert said in str(bad.error)
    assert bad.row == (row if isinstance(row, str) else json.dumps(row))


def test_a_bad_row_of_a_parquet_file_has_its_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"query": "x", "passages": ["y"]}, {"query": None, "passages": ["y"]}, {"query": "z", "passages": ["y"]}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    _, bad, last = read(str(path))
    assert isinstance(bad, BadRow)
    assert str(bad.error).startswith(f"{path}: row 2: no text under 'query'")
    assert last == Candidates(Query("3", "z"), (Passage("0", "y"),))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"rows\.parquet: after row 0: can't be read"):
        read(str(path))


def test_a_run_over_a_collection(tmp_path: Path, local: Benchmark) -> None:
    path = tmp_path / "my.trec"
    path.write_text("q3 Q0 d3 1 1.0 x\nq3 Q0 d2 2 2.0 x\nq1 Q0 d1 2 1 x\nq1 Q0 d3 1 1 x\n")
    given = RunLists(str(path), local.collection.queries, local.collection)
    texts = {one.id: one for one in local.collection.iter_passages()}
    assert list(given.lists()) == [
        Candidates(Query("q3", "may cats"), (texts["d2"], texts["d3"]), (2.0, 1.0)),
        Candidates(Query("q1", "rain"), (texts["d3"], texts["d1"]), (1.0, 1.0)),
    ], "by score and then rank, queries as they come"
    assert list(given.lengths()) == [2, 2]


@dataclass(frozen=True)
class Unknowing:
    """A collection that can't tell cheaply which passages it has."""

    inner: TrecFiles
    name: str = "unknowing"

    def passages(self, ids: Any) -> dict[str, Passage]:
        return self.inner.passages(ids)


@pytest.mark.parametrize("knows", [True, False])
def test_what_is_wrong_in_a_run_costs_no_other_query(tmp_path: Path, local: Benchmark, knows: bool) -> None:
    path = tmp_path / "my.trec"
    lines = ["q1 Q0 d1 1 3 x", "q1 Q0 d1 2 2 x", "q1 Q0 d2 3 z x", "q9 Q0 d1 1 1 x", "q2 Q0 d2 1 2 x", "q2 Q0 dx 2 1 x"]
    path.write_text("\n".join([*lines, "q3 Q0 d1 1 1 x", "q1 Q0 d3 9 1 x"]))
    collection = local.collection if knows else Unknowing(local.collection)
    given = RunLists(str(path), local.collection.queries, collection)
    found = list(given.lists())
    assert [one.query.id for one in found if isinstance(one, Candidates)] == ["q1", "q3"]
    said = [str(one.error) for one in found if isinstance(one, BadRow)]
    wanted = (
        (2, "query 'q1': document 'd1' occurs twice"),
        (3, "rank '3' or score 'z' isn't a number"),
        (4, "query 'q9' isn't among the topics; it has 3 queries, the first is 'q1': give the topics"),
        (6, f"passage 'dx' isn't in the collection '{collection.name}'"),
        (8, "query 'q1' has lines further up, too; put its lines together (sort -s -k1,1)"),
    )
    assert len(said) == len(wanted)
    for line, (number, words) in zip(said, wanted, strict=True):
        assert line.startswith(f"{path}:{number}: {words}")
    lengths = [one if isinstance(one, int) else str(one.error) for one in given.lengths()]
    assert [one for one in lengths if isinstance(one, int)] == ([1, 1] if knows else [1, 2, 1])
    assert [one for one in lengths if isinstance(one, str)] == [one for one in said if knows or "'dx'" not in one]


def test_topics_are_searched_for(local: Benchmark) -> None:
    def found(own: str) -> list[list[str]]:
        given = FoundLists(local.collection.queries, local.collection, local.retriever, 2, own)
        assert list(given.lengths()) == [2, 2, 2], "as many as are asked for"
        return [[one.id for one in item.passages] for item in given.lists() if isinstance(item, Candidates)]

    assert found("keep") == [["d1", "d3"], [], ["q3", "d2"]], "equal scores in the collection's order"
    assert found("exclude")[2] == ["d2"], "nothing moves up from below, as in evaluation"


@pytest.mark.parametrize(
    ("name", "content", "is_a"),
    [
        ("a", '{"query": 1}\n', "jsonl"),
        ("a", "q1 Q0 d1 1 2.5 tag\n", "trec"),
        ("a", "q1\tQ0\td 1\t1\t2.5\ttag\n", "trec"),
        ("a.trec", "q1 Q0\n", "trec"),
        ("a", "q1\twhat is the cause of rain\n", "topics"),
        ("a", "\n<top><num> 1 <title> rain </top>\n", "topics"),
        ("a", "PAR1....", "parquet"),
    ],
)
def test_an_input_is_told_by_its_content(tmp_path: Path, name: str, content: str, is_a: str) -> None:
    (tmp_path / name).write_text(content)
    assert formats_of(Rerank(input=str(tmp_path / name), output="x.run")) == Formats(is_a, "trec")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Rerank(), "rerank.output: a value is missing"),
        (Rerank(output="-"), "rerank.input: a value is missing"),
        (Rerank(input="nowhere", output="-"), "nowhere: no such input"),
        (Rerank(input="-", format="parquet", output="-"), "parquet can't be read from standard input"),
        (Rerank(format="topics", output="out"), "rerank.output=out: its name says no format; end it with .trec, .run,"),
    ],
)
def test_what_is_not_said_is_asked_for(settings: Rerank, said: str) -> None:
    with pytest.raises(DataError, match=said):
        formats_of(settings)


def test_an_output_is_told_by_its_name_or_the_input(tmp_path: Path) -> None:
    for output, chosen, wanted in (
        ("a.JSONL", "auto", "jsonl"),
        ("a.parquet", "auto", "parquet"),
        ("a", "trec", "trec"),
    ):
        settings = Rerank(format="topics", output=output, output_format=chosen)  # type: ignore[arg-type]
        assert formats_of(settings).output == wanted
    assert formats_of(Rerank(format="topics", output="-")).output == "trec"
    assert formats_of(Rerank(input=jsonl(tmp_path / "a", OWN), output="-")).output == "jsonl"


def test_texts_of_several_collections_are_refused_where_they_are_needed(tmp_path: Path, local: Benchmark) -> None:
    several = BenchmarkList("both", {"a": local, "b": Benchmark("b", local.collection, local.retriever)})
    rows = Rerank(input=jsonl(tmp_path / "a", OWN), output="-")
    assert len(list(make_input(rows, formats_of(rows), several).lists())) == 1
    with pytest.raises(DataError, match=r"benchmark=both: several collections.*benchmark=local"):
        make_input(Rerank(format="topics", output="-"), Formats("topics", "trec"), several)
    assert collection_of(BenchmarkList("one", {"a": local})) is local


class Lengths:
    """An input whose lists are so long."""

    def __init__(self, *lengths: int | BadRow) -> None:
        self._lengths = lengths

    def lengths(self) -> Iterator[int | BadRow]:
        return iter(self._lengths)

    def asked(self) -> int:
        return 6

    def lists(self) -> Iterator[Candidates | BadRow]:
        raise AssertionError("counting looks no text up")


def test_queries_and_windows_are_counted() -> None:
    bad = BadRow(DataError("a:2: bad"), "")
    found = count(Lengths(30, bad, 0, 120, 1, bad), 100, SlidingWindow(20, 10))
    assert found == Counted(queries=4, windows=2 + 9 + 0, chain=9, empty=1, longer=1, unlisted=2, bad=2, first_bad=bad)
    assert found.line("x") == (
        "x: 4 queries, 11 windows, at most 9 of them in a row, 1 without a passage, 1 lists go on below rerank.depth, "
        "2 more topics without a list, 2 rows that can't be used"
    )
    with pytest.raises(DataError, match=r"a:2: bad \(1 more rows can't be used\); or leave such rows out: rerank.bad_"):
        refuse_bad(found)
    assert count(Lengths(3), 100, object()).windows is None, "a strategy that doesn't know"


def test_ids_that_were_seen() -> None:
    seen = SeenIds()
    assert [seen.add(one) for one in ("a", "b", "a", "A")] == [True, True, False, True]


def test_names_that_cannot_be_printed_are_escaped(tmp_path: Path) -> None:
    [bad] = read(jsonl(tmp_path / "rows", '{"a\\ud83d\\u0000": 1}'))
    assert isinstance(bad, BadRow)
    assert r"the row has a\ud83d\x00: set" in str(bad.error)
