"""The published number that a result of ours is compared with, and how the settings behind the two differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rearank.data import JudgedCandidates
from rearank.data.benchmark import Benchmark
from rearank.data.bm25 import Bm25
from rearank.data.bright import BrightArchiveRun
from rearank.data.pyserini import Pyserini
from rearank.data.trec import RunFile
from rearank.evaluation.published import MEASURE, Published, published
from rearank.ranking import SlidingWindow
from rearank.reranker.setup import Parts
from rearank.tasks.evaluate.systems import System

_BM25 = (Bm25, Pyserini, BrightArchiveRun)
_PAPER_BM25, _PAPER_STRATEGY = (0.9, 0.4), SlidingWindow(20, 10, 1)


@dataclass(frozen=True)
class PublishedRow:
    """A published number; ``differences`` say in words what isn't as it was there, and are empty where all is."""

    number: Published
    differences: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For ``summary.json``; the value is times 100, as printed."""
        found = self.number
        return {
            **{"row": found.row, "value": found.value, "source": found.source, "by": found.by},
            "differences": list(self.differences),
        }


def column(benchmark: Benchmark) -> str:
    """The benchmark's name in the published tables."""
    return benchmark.published or benchmark.name


def first_stage_row(benchmark: Benchmark) -> str | None:
    """``BM25``, where the first stage is one."""
    return "BM25" if isinstance(benchmark.retriever, _BM25) else None


def published_first_stage(benchmark: Benchmark, judged: Sequence[JudgedCandidates]) -> PublishedRow | None:
    """BM25's, where the first stage is BM25 and nDCG@10 is the main measure."""
    row = first_stage_row(benchmark)
    found = published(row, column(benchmark)) if row is not None else None
    if found is None or benchmark.measures[0] != MEASURE:
        return None
    depth = [f"{benchmark.depth} candidates"] if benchmark.depth < 10 else []
    return PublishedRow(found, (*_first_stage(benchmark), *depth, *_empty(benchmark, judged)))


def published_system(
    parts: Parts, chosen: Mapping[str, str], benchmark: Benchmark, judged: Sequence[JudgedCandidates], system: System
) -> PublishedRow | None:
    """The number of the system's row, where it has one and nDCG@10 is the main measure.

    ``chosen``: the option of each group, by which the model's own prompt and strategy are known.
    """
    if system.published is None or benchmark.measures[0] != MEASURE:
        return None
    found = published(system.published, column(benchmark))
    if found is None:
        return None
    differences = [] if found.depth != 100 and isinstance(benchmark.retriever, RunFile) else _first_stage(benchmark)
    if benchmark.depth != found.depth:
        differences.append(f"{benchmark.depth} candidates, not {found.depth}")
    differences += _protocol(parts, chosen)
    if any(sampling.temperature for sampling in system.samplings):
        differences.append(f"temperature {system.samplings[0].temperature:g}, not greedy")
    return PublishedRow(found, (*differences, *_empty(benchmark, judged)))


def _protocol(parts: Parts, chosen: Mapping[str, str]) -> list[str]:
    """The prompt and the strategy: the model's own are the published ones; a model that names none used the paper's."""
    model, found = parts.model, []
    prompt, strategy = (chosen.get(group) for group in ("prompt", "strategy"))
    if prompt is not None and prompt != model.prompt:
        found.append(f"prompt={prompt}" + (f", not {model.prompt}" if model.prompt else ""))
    if model.strategy is None:
        if parts.strategy != _PAPER_STRATEGY:
            found.append(f"strategy {_described(parts.strategy, strategy)}, not windows of 20 by steps of 10")
    elif strategy is not None and strategy != model.strategy:
        found.append(f"strategy={strategy}, not {model.strategy}")
    return found


def _described(strategy: Any, name: str | None) -> str:
    if isinstance(strategy, SlidingWindow):
        passes = f", {strategy.passes} passes" if strategy.passes > 1 else ""
        return f"windows of {strategy.size} by steps of {strategy.step}{passes}"
    return name or type(strategy).__name__


def _first_stage(benchmark: Benchmark) -> list[str]:
    retriever = benchmark.retriever
    if isinstance(retriever, BrightArchiveRun):  # the paper's own lists
        return []
    if not isinstance(retriever, (Bm25, Pyserini)):
        return [f"first stage {type(retriever).__name__.lower()}"]
    ours = retriever.k1, retriever.b
    return [] if ours == _PAPER_BM25 else [f"BM25 with k1={ours[0]:g}, b={ours[1]:g}, not k1=0.9, b=0.4"]


def _empty(benchmark: Benchmark, judged: Sequence[JudgedCandidates]) -> list[str]:
    """The paper leaves such queries out."""
    count = sum(not item.candidates.passages for item in judged)
    if benchmark.missing != "zero" or not count:
        return []
    queries = "1 query" if count == 1 else f"{count} queries"
    return [f"{queries} without candidates count 0 (the paper leaves them out: benchmark.missing=skip)"]
