"""What a run is measured on: a collection, the first-stage list of each query, and the measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rearank.data import JudgedCandidates, Source
from rearank.evaluation import check_measures, score


@dataclass(frozen=True)
class Benchmark:
    """One test collection.

    Args:
        name: short name, in tables and folder names.
        collection: a ``rearank.data.Collection``.
        retriever: a ``rearank.data.Retriever``, the first stage.
        depth: number of candidates reranked for each query.
        measures: trec_eval's names; the first is the main one.
        missing: what a judged query without candidates counts: ``zero``, or ``skip`` as the paper's scripts do.
    """

    name: str
    collection: Any
    retriever: Any
    depth: int = 100
    measures: tuple[str, ...] = ("ndcg_cut_10",)
    missing: Literal["zero", "skip"] = "zero"

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty: tables and output folders are named after it")
        if self.depth < 1:
            raise ValueError(f"depth is the number of candidates a query and must be at least 1, not {self.depth}")
        if self.missing not in ("zero", "skip"):
            raise ValueError(f"missing must be 'zero' or 'skip', not {self.missing!r}")
        # Here and not after hours of reranking.
        check_measures(self.measures)

    @property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """This one alone, so that one benchmark and a list of them are run by the same loop."""
        return (self,)

    def judged(self) -> list[JudgedCandidates]:
        """Every judged query with its candidates and grades; raises ``DataError`` where none is judged."""
        on_empty: Literal["keep", "skip"] = "keep" if self.missing == "zero" else "skip"
        return Source(self.name, self.collection, self.retriever, on_empty).judged(self.depth)

    def score(self, run: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        """measure -> query id -> value, of a run with query id -> passage ids, best first."""
        return score(run, self.collection.qrels(), self.measures, self.missing)


@dataclass(frozen=True)
class BenchmarkList:
    """Several benchmarks, each with its own line in the table."""

    name: str
    members: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("members must list at least one benchmark")
        names = [member.name for member in self.benchmarks]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two benchmarks are named {sorted(twice)[0]!r}; give each its own name")

    @property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """All members, those of nested lists included."""
        return tuple(benchmark for member in self.members for benchmark in member.benchmarks)
