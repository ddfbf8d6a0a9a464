"""What is missing is counted, logged and kept; where it is all, nothing is measured."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rearank.data import DataError, Source
from rearank.data.beir import BeirFolder
from rearank.data.benchmark import Benchmark
from rearank.data.bm25 import Bm25
from rearank.data.coverage import Coverage, coverage_of
from rearank.data.rankllm import RankLlmCandidates, RankLlmFile
from rearank.data.trec import RunFile, TrecFiles
from rearank.types import MAX_GRADE, Candidates, Passage, Query


@pytest.fixture
def trec(tmp_path: Path) -> TrecFiles:
    """Of five judged queries ``2`` has no candidate, ``3`` no relevant passage, ``8`` and ``9`` no text."""
    (tmp_path / "docs").write_text("d1\tred apples\nd2\tgreen pears\n")
    (tmp_path / "topics").write_text("1\tapples\n2\tpears\n3\tplums\n4\tnobody judged\n")
    (tmp_path / "qrels").write_text("1 0 d1 1\n2 0 d2 2\n3 0 d2 0\n9 0 d1 1\n8 0 d7 1\n")
    (tmp_path / "run").write_text("1 Q0 d2 1 2 t\n1 Q0 d1 2 1 t\n3 Q0 d1 1 1 t\n4 Q0 d1 1 1 t\n")
    return TrecFiles(*(str(tmp_path / name) for name in ("docs", "topics", "qrels")), check_qrels=False)


@pytest.fixture
def five(trec: TrecFiles, tmp_path: Path) -> Benchmark:
    return Benchmark("b", trec, RunFile(str(tmp_path / "run")), measures=("recip_rank",))


OF_FIVE = Coverage(
    judged=5,
    without_text=2,
    without_candidates=1,
    without_relevant=1,
    unjudged=1,
    passages=3,
    absent=1,
    first_missing="9",
)


@pytest.mark.parametrize(
    ("missing", "mean", "words"), [("zero", 0.1, "count 0 in every mean"), ("skip", 0.25, "left out")]
)
def test_a_few_are_counted_and_logged(
    five: Benchmark, caplog: pytest.LogCaptureFixture, missing: str, mean: float, words: str
) -> None:
    benchmark = replace(five, missing=missing)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        judged = benchmark.judged()
    assert benchmark.coverage == OF_FIVE
    assert OF_FIVE.missing == 3
    (line,) = caplog.messages  # coverage is not worked out again
    assert line.startswith("b: 3 of 5 judged queries can't be ranked (2 not among the topics, 1 without a candidate")
    assert "the first is '9'" in line
    assert words in line
    assert "1 of 3 judged passages aren't in the collection" in line
    assert "1 of 5 judged queries have no grade above 0: they score 0 whatever the order" in line
    values = benchmark.score({one.candidates.query.id: [p.id for p in one.candidates.passages] for one in judged})
    assert sum(values["recip_rank"].values()) / len(values["recip_rank"]) == mean
    assert json.loads(json.dumps(benchmark.coverage.as_json()))["without_text"] == 2


def test_coverage_is_there_before_anything_is_asked(five: Benchmark) -> None:
    assert five.coverage == OF_FIVE


def test_nothing_is_logged_where_nothing_is_missing(
    trec: TrecFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path(trec.qrels_file).write_text("1 0 d1 1\n")
    assert len(Source("s", trec, RunFile(str(tmp_path / "run"))).judged(5)) == 1
    assert not caplog.messages


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("qrels", "51 0 d1 1\n", r"no query has a judgement.*the first are '51' and '1'"),
        ("run", "4 Q0 d1 1 1 t\n", r"run: no list for any of the 3 queries"),
        ("qrels", "1 0 d1 0\n2 0 d2 -1\n", "no passage has a grade above 0"),
        ("qrels", "1 0 e1 1\n2 0 e2 1\n", "none of the 2 judged passages is in the collection.*'e1'"),
        (
            "qrels",
            "1 0 d1 -100\n1 0 d2 -100\n1 0 d3 1\n",
            "none of the 1 judged queries has a candidate; check .*, and that not every candidate is excluded$",
        ),
    ],
)
def test_an_error_where_it_is_all(five: Benchmark, tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        five.judged()


def test_a_collection_without_a_topic(trec: TrecFiles) -> None:
    with pytest.raises(DataError) as refused:
        coverage_of("s", trec, {}, {"1": {"d1": 1}}, {})
    assert str(refused.value) == (
        "s: no query has a judgement; check that topics and qrels belong together (1 queries are judged, none of them "
        "is among the 0 topics)"
    )


def test_all_is_there(trec: TrecFiles) -> None:
    queries = {"1": Query("1", "apples")}
    lists = {"1": Candidates(queries["1"], (Passage("d1", "red apples"),))}
    found = coverage_of("s", trec, queries, {"1": {"d1": 1}}, lists)
    assert found == Coverage(1, 0, 0, 0, 0, 1, 0)
    assert (found.missing, found.first_missing, found.line(zero=True)) == (0, "", "")


def test_the_line_of_what_is_missing_in_full() -> None:
    fruitful = replace(OF_FIVE, without_relevant=0)
    ranked, found = replace(fruitful, absent=0), replace(fruitful, without_text=0, without_candidates=0)
    fruitless = "1 of 5 judged queries have no grade above 0: they score 0 whatever the order"
    unranked = (
        "3 of 5 judged queries can't be ranked (2 not among the topics, 1 without a candidate; the first is '9'): they "
    )
    absent = (
        "1 of 3 judged passages aren't in the collection, so nothing can find them; are judgements and documents of "
        "one version?"
    )
    assert ranked.line(zero=False) == unranked + "are left out"
    assert ranked.line(zero=True) == (unranked + "count 0 in every mean (benchmark.missing=skip leaves them out)")
    assert found.line(zero=True) == absent
    assert OF_FIVE.line(zero=False) == f"{unranked}are left out; {absent}; {fruitless}"
    assert replace(found, absent=None).line(zero=True) == ""


def test_candidates_of_another_collection(tmp_path: Path) -> None:
    path, qrels = str(tmp_path / "c"), tmp_path / "qrels"
    rows = [{"query": {"text": "q", "qid": n}, "candidates": [{"docid": "a", "doc": "x"}]} for n in (1, 2)]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    qrels.write_text("1 0 z 1\n2 0 y 1\n3 0 a 1\n")
    source = Source("s", RankLlmFile(path, str(qrels)), RankLlmCandidates(path))
    with pytest.raises(DataError, match=r"none of the 3 judged passages .* among the candidates"):
        source.judged(5)
    qrels.write_text("1 0 z 1\n2 0 a 1\n3 0 a 1\n")
    assert source.covered(5).coverage == Coverage(3, 1, 0, 0, 0, 2, None, "3")


def test_half_a_character_in_a_text_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "Fruit \\ud83d", "text": "red \\ud83d apples"}\n{"_id": "d2", "text": "pears"}\n'
    )
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "apples \\udc4d"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("q\td1\t1\n")
    benchmark = Benchmark("b", BeirFolder(str(tmp_path)), Bm25(cache_dir=str(tmp_path / "cache")))
    (row,) = benchmark.judged()
    assert row.candidates.query.text == "apples ?"
    assert row.candidates.passages == (Passage("d1", "red ? apples", "Fruit ?"),)
    assert benchmark.score({"q": ["d1"]}) == {"ndcg_cut_10": {"q": 1.0}}


@dataclass(frozen=True)
class Own:
    """A user's own first stage: it has a list for the first query alone."""

    passages: tuple[Passage, ...]

    def retrieve(self, collection: object, queries: Mapping[str, Query], depth: int) -> dict[str, Candidates]:
        first = next(iter(queries))
        return {first: Candidates(queries[first], self.passages)}


def test_a_users_own_first_stage_is_held_to_the_same(trec: TrecFiles) -> None:
    found = Source("s", trec, Own((Passage("d1", "a \ud83d"), Passage("d2", "é"))), on_empty="skip").judged(5)
    assert [row.candidates.passages for row in found] == [(Passage("d1", "a ?"), Passage("d2", "é"))]
    for bad in ("d\ud83d", "a b", "", "d\0"):
        with pytest.raises(DataError, match=r"s: the passage id .* give it another one"):
            Source("s", trec, Own((Passage(bad, "text"),)), on_empty="skip").judged(5)


@pytest.mark.parametrize("grade", [MAX_GRADE + 1, -MAX_GRADE - 1, 2**31 - 1, float("nan")])
def test_grades_of_a_users_own_collection(five: Benchmark, grade: int) -> None:
    class Collection(TrecFiles):
        def qrels(self) -> dict[str, dict[str, int]]:
            return {"1": {"d1": grade}}

    own = Collection(five.collection.docs, five.collection.topics)
    with pytest.raises(DataError, match=r"query '1': grade .* of passage 'd1' is beyond"):
        replace(five, collection=own).judged()
