"""What a query must not be answered with: taken out of its candidates, and never a grade."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.data import Joined, Source, split_judgements
from rearank.data.benchmark import Benchmark
from rearank.data.trec import RunFile, TrecFiles


@pytest.fixture
def trec(tmp_path: Path) -> TrecFiles:
    """``a``: its best candidate is excluded. ``b``: its only one is. ``c``: nothing but an exclusion is judged."""
    (tmp_path / "docs").write_text("".join(f"{i}\ttext {i}\n" for i in ("a", "d1", "d2", "d3")))
    (tmp_path / "topics").write_text("a\tone\nb\ttwo\nc\tthree\n")
    (tmp_path / "qrels").write_text("a 0 d1 -100\na 0 d3 1\na 0 d2 -1\nb 0 d1 -100\nb 0 d3 1\nc 0 d1 -100\n")
    ranked = [("a", "d1 a d2 d3"), ("b", "d1"), ("c", "d1 d2")]
    rows = [f"{q} Q0 {d} {n} {9 - n} t\n" for q, docs in ranked for n, d in enumerate(docs.split(), 1)]
    (tmp_path / "run").write_text("".join(rows))
    return TrecFiles(*(str(tmp_path / name) for name in ("docs", "topics", "qrels")))


def ranked(source: Source | Joined, depth: int) -> dict[str, list[str]]:
    return {i.candidates.query.id: [p.id for p in i.candidates.passages] for i in source.judged(depth)}


def test_exclusion_comes_after_the_cut_and_nothing_moves_up(trec: TrecFiles, tmp_path: Path) -> None:
    run = RunFile(str(tmp_path / "run"))
    kept = Source("s", trec, run, on_empty="keep")
    assert ranked(kept, 3) == {"a": ["a", "d2"], "b": []}  # c isn't judged
    assert kept.judged(3)[0].grades == {"d2": -1, "d3": 1}
    assert kept.judged(3)[0].candidates.scores == (7.0, 6.0)
    assert ranked(Source("s", trec, run, on_empty="skip"), 4) == {"a": ["a", "d2", "d3"]}
    own = Source("s", trec, run, on_empty="skip", own_passage="exclude")
    assert ranked(own, 4) == {"a": ["d2", "d3"]}
    assert ranked(Joined("j", {"x": own}), 4) == {"s/a": ["d2", "d3"]}
    with pytest.raises(ValueError, match="own_passage must be 'keep' or 'exclude'"):
        Source("s", trec, run, own_passage="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize(("missing", "queries"), [("zero", "ab"), ("skip", "a")])
def test_a_benchmark_scores_without_what_is_excluded(
    trec: TrecFiles, tmp_path: Path, missing: str, queries: str
) -> None:
    """A query whose candidates were all excluded counts as one without results."""
    benchmark = Benchmark("b", trec, RunFile(str(tmp_path / "run")), measures=("recip_rank",), missing=missing)  # type: ignore[arg-type]
    assert [i.candidates.query.id for i in benchmark.judged()] == list(queries)
    # A run made elsewhere, with the excluded passage still first: it counts as if it weren't there.
    values = benchmark.score({"a": ["d1", "d3", "d2"], "b": ["d1"], "c": ["d1"]})["recip_rank"]
    assert values == ({"a": 1.0, "b": 0.0} if missing == "zero" else {"a": 1.0})


GRADES = st.dictionaries(
    st.sampled_from("pqrs"), st.dictionaries(st.sampled_from("pqrs"), st.integers(-200, 3), max_size=4), max_size=4
)


@given(GRADES, st.sampled_from(["keep", "exclude"]))
def test_every_judgement_is_a_grade_or_an_exclusion(qrels: Mapping[str, Mapping[str, int]], own: str) -> None:
    split = split_judgements(qrels, own)  # type: ignore[arg-type]
    for query, judged in qrels.items():
        grades, excluded = split.grades.get(query, {}), split.excluded.get(query, frozenset())
        assert not grades.keys() & excluded
        assert grades.keys() | (excluded & judged.keys()) == judged.keys()
        assert all(grade > -100 for grade in grades.values())
        assert split.allowed(query, judged) == [p for p in judged if p in grades]
