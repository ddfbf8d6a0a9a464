"""What a run is measured on: a collection, the first-stage list of each query, and the measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from annotated_types import Ge

from rearank.checks import check_fields
from rearank.data.base import Fits
from rearank.data.coverage import Coverage
from rearank.data.source import JudgedCandidates, Judgements, Source, split_judgements
from rearank.evaluation import check_measures, score
from rearank.runs import INCIDENTAL


@dataclass(frozen=True)
class Benchmark:
    """One test collection.

    Args:
        name: short name, in tables and folder names.
        collection: a ``rearank.data.Collection``.
        retriever: a ``rearank.data.Retriever``, the first stage.
        depth: number of candidates retrieved for each query; excluded ones are taken out of these (see ``Source``).
        measures: trec_eval's names or ir_measures' (``rearank.evaluation.measures``); the first is the main one.
        missing: what a judged query without text or candidates counts: ``zero``, or ``skip`` as the paper's scripts do.
        relevant_from: the lowest grade that measures without grades (MAP, recall...) call relevant: 2 in TREC DL.
        own_passage: ``exclude`` where queries are passages of the collection and must not find themselves.
        language: of the passages, as an ISO 639-1 code; the first stage's analyzer follows it.
        lucene_index: Pyserini's prebuilt index of this collection, for ``retriever=pyserini``; empty where none is.
        known: nDCG@10 of BM25 here (a fraction), by where the figure comes from: to check a first stage against.
        published: the benchmark's column in published tables; empty where that is ``name``.
    """

    name: str
    collection: Any
    retriever: Any
    depth: Annotated[int, Ge(1)] = 100
    measures: tuple[str, ...] = ("ndcg_cut_10",)
    missing: Literal["zero", "skip"] = "zero"
    relevant_from: Annotated[int, Ge(1)] = 1
    own_passage: Literal["keep", "exclude"] = "keep"
    language: str = "en"
    lucene_index: str = ""
    known: dict[str, float] = field(default_factory=dict, metadata=INCIDENTAL)
    published: str = field(default="", metadata=INCIDENTAL)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty: tables and output folders are named after it")
        check_fields(self)
        for source, value in self.known.items():
            if not 0 <= value <= 1:
                raise ValueError(f"known.{source} is an nDCG@10 and must lie in [0, 1] (0.5058 for 50.58), not {value}")
        # Here and not after hours of reranking.
        object.__setattr__(self, "measures", check_measures(self.measures))

    @property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """This one alone, so that one benchmark and a list of them are run by the same loop."""
        return (self,)

    def preflight(self) -> list[str]:
        """What the first stage lacks on this machine; and the judgements, where no file of them is named."""
        lacking = list(self.retriever.preflight()) if hasattr(self.retriever, "preflight") else []
        if getattr(self.collection, "qrels_file", None) == "":
            lacking.append(
                f"benchmark={self.name}: no judgements, and nothing is measured without; set "
                "benchmark.collection.qrels_file=... (task=rerank needs none)"
            )
        return lacking

    @property
    def first_stage(self) -> Any:
        """The retriever, fitted to this benchmark's language and prebuilt index where it cares about them."""
        fits = isinstance(self.retriever, Fits)
        return self.retriever.fitted(self.lucene_index, self.language) if fits else self.retriever

    @cached_property
    def judgements(self) -> Judgements:
        """Grades apart from exclusions, read once."""
        return split_judgements(self.collection.qrels(), self.own_passage)

    def judged(self, depth: int | None = None) -> list[JudgedCandidates]:
        """Every judged query with its candidates and grades; raises ``DataError`` where none can be measured.

        ``depth`` replaces the benchmark's own.
        """
        on_empty: Literal["keep", "skip"] = "keep" if self.missing == "zero" else "skip"
        source = Source(self.name, self.collection, self.first_stage, on_empty, self.own_passage)
        found = source.covered(depth or self.depth)
        vars(self)["coverage"] = found.coverage
        return list(found.items)

    @cached_property
    def coverage(self) -> Coverage:
        """What is missing of the judged queries; known from the last call of ``judged``, which is made if need be."""
        self.judged()
        return self.coverage

    @property
    def gaps(self) -> str:
        """One line on what is missing, for below a table; empty where nothing is."""
        return self.coverage.line(self.missing == "zero")

    def score(
        self, run: Mapping[str, Sequence[str]], measures: Sequence[str] | None = None
    ) -> dict[str, dict[str, float]]:
        """measure -> query id -> value, of a run with query id -> passage ids, best first.

        What is excluded for a query counts neither as found nor as judged. ``measures``: others than the benchmark's.
        """
        allowed = {query: self.judgements.allowed(query, ranked) for query, ranked in run.items()}
        return score(allowed, self.judgements.grades, measures or self.measures, self.missing, self.relevant_from)


@dataclass(frozen=True)
class BenchmarkList:
    """Several benchmarks, each with its own line in the table.

    ``members`` are benchmarks, or lists of them, by the name under which the config composes them
    (``benchmark.members.dl19.depth=20``). ``published`` is the column of averages in published tables; empty where
    that is ``name``.
    """

    name: str
    members: Mapping[str, Any]
    published: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.members, Mapping) or not self.members:
            raise ValueError("members must map names to benchmarks, at least one")
        names = [member.name for member in self.benchmarks]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two benchmarks are named {sorted(twice)[0]!r}; give each its own name")

    @property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """All members, those of nested lists included."""
        return tuple(benchmark for member in self.members.values() for benchmark in member.benchmarks)

    def preflight(self) -> list[str]:
        """What the first stages lack, where none of the members can be measured here: one that can't is left out."""
        lacking = [benchmark.preflight() for benchmark in self.benchmarks]
        return [line for lines in lacking for line in lines] if all(lacking) else []
