"""Benchmarks: the right queries, the right denominators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from rearank.data import JudgedCandidates
from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.data.bm25 import Bm25
from rearank.data.trec import TrecFiles
from rearank.tasks.evaluate.measuring import _first_order
from rearank.types import Candidates, Passage, Query

PASSAGES = {f"d{i}": Passage(f"d{i}", f"text {i}") for i in range(6)}


class Small:
    """Three topics; ``b`` finds nothing, ``c`` isn't judged."""

    name = "small"

    def queries(self) -> dict[str, Query]:
        return {q: Query(q, q) for q in "abc"}

    def qrels(self) -> dict[str, dict[str, int]]:
        return {"a": {"d0": 1, "d1": -1}, "b": {"d2": 2}}

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        return {i: PASSAGES[i] for i in ids}

    def iter_passages(self) -> Iterable[Passage]:
        return iter(PASSAGES.values())

    def fingerprint(self) -> str:
        return "small"


class First:
    def retrieve(self, collection: object, queries: Mapping[str, Query], depth: int) -> dict[str, Candidates]:
        every = tuple(PASSAGES.values())[:depth]
        return {q: Candidates(query, every if q != "b" else ()) for q, query in queries.items()}


def small(**changes: object) -> Benchmark:
    return Benchmark(**{"name": "small", "collection": Small(), "retriever": First(), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("missing", "queries", "mean"), [("zero", "ab", 0.5), ("skip", "a", 1.0)])
def test_a_query_without_candidates_counts_as_asked(missing: str, queries: str, mean: float) -> None:
    benchmark = small(missing=missing, depth=4)
    judged = benchmark.judged()
    assert [item.candidates.query.id for item in judged] == list(queries)
    assert len(judged[0].candidates.passages) == 4
    values = benchmark.score({i.candidates.query.id: [p.id for p in i.candidates.passages] for i in judged})
    assert sum(values["ndcg_cut_10"].values()) / len(values["ndcg_cut_10"]) == mean


def test_a_list_is_flat_and_its_names_differ() -> None:
    one, other, third = small(), small(name="other"), small(name="third")
    nested = BenchmarkList("y", {"b": other, "c": third})
    assert BenchmarkList("x", {"a": one, "y": nested}).benchmarks == (one, other, third)
    with pytest.raises(ValueError, match="'small'"):
        BenchmarkList("x", {"a": one, "y": BenchmarkList("y", {"b": other, "c": one})})
    with pytest.raises(ValueError, match="at least one"):
        BenchmarkList("x", {})


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"name": ""}, "name"),
        ({"depth": 0}, "depth"),
        ({"relevant_from": 0}, "relevant_from"),
        ({"missing": "drop"}, "missing"),
        ({"measures": ("ndgc_10",)}, "ndgc_10"),
        ({"measures": ()}, "none given"),
    ],
)
def test_bad_parameters_name_themselves(change: dict[str, object], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        small(**change)


def test_vaswani(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "vaswani"
    collection = TrecFiles(*(str(folder / name) for name in ("doc-text.trec", "query-text.trec", "qrels")))
    benchmark = Benchmark("vaswani", collection, Bm25(cache_dir=str(tmp_path)), measures=("ndcg_cut_10", "map"))
    values = benchmark.score(
        {item.candidates.query.id: [p.id for p in item.candidates.passages] for item in benchmark.judged()}
    )
    assert len(values["map"]) == 93
    assert sum(values["ndcg_cut_10"].values()) / 93 == pytest.approx(0.4368, abs=0.0015)


def test_ties_of_a_first_stage_are_trec_evals_on_request() -> None:
    """A first stage's own row; without scores there are no ties."""
    passages = tuple(Passage(one, one) for one in ("a", "c", "b"))
    item = JudgedCandidates(Candidates(Query("q", "q"), passages, (2.0, 1.0, 1.0 + 1e-12)), {})
    assert _first_order(item, "rank") == ["a", "c", "b"]
    assert _first_order(item, "trec_eval") == ["a", "c", "b"]
    other = JudgedCandidates(Candidates(Query("q", "q"), passages, (1.0, 1.0, 1.0)), {})
    assert _first_order(other, "trec_eval") == ["c", "b", "a"]
    unscored = JudgedCandidates(Candidates(Query("q", "q"), passages), {})
    assert _first_order(unscored, "trec_eval") == ["a", "c", "b"]
