"""What a system's run over a benchmark leaves on disk.

``run.trec`` and ``metrics.json`` follow from settings and answers alone: a run that was killed and continued leaves
the same bytes as an undisturbed one. What is of one command (time, machine, calls paid) stands beside them, in
``environment.json`` and ``cost.jsonl``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from rearank.config import TARGET, node_of
from rearank.data.trec import write_run
from rearank.evaluation import bootstrap_interval
from rearank.runs import CONTENT, code_of, files_of
from rearank.runs.layout import write_json
from rearank.tasks.benchmark import Benchmark
from rearank.tasks.beside import Beside
from rearank.tasks.environment import environment
from rearank.tasks.experiment import Run
from rearank.tasks.stage import CODE, FILES, open_stage

RUN, METRICS, ENVIRONMENT = "run.trec", "metrics.json", "environment.json"
FIRST, SYSTEM, IDEAL = "first stage", "system", "ideal"
_DEPENDS_ON = ("model", "prompt", "strategy", "engine", "evaluation", "retriever", "seed")
# Change no number: how fast, how patient, for how much money, where an index lies, what a table shows beside.
_INCIDENTAL = {
    "engine": {
        *("max_concurrent", "max_concurrent_calls", "connect_seconds", "timeout_seconds", "retries", "first_wait"),
        *("longest_wait", "key_variable", "budget"),
    },
    "evaluation": {"max_concurrent_queries", "max_failed", "trained", "depth", "measures"},  # the benchmark's hold
    "benchmark": {"known", "published", "cache_dir", "backend", "threads"},
    "retriever": {"cache_dir", "backend", "threads"},
}


@dataclass(frozen=True)
class Measured:
    """A system on a benchmark: measure -> query -> value, averaged over its samples; the main measure first.

    ``role`` is ``first stage``, ``system`` or ``ideal``; ``row`` its row in the published tables; ``cost`` is what all
    its answers cost, in US dollars, and ``failed`` how many queries have no ranking.
    """

    name: str
    label: str
    role: str
    per_query: Mapping[str, Mapping[str, float]]
    row: str | None = None
    beside: Beside | None = None
    cost: float = 0.0
    failed: int = 0

    @property
    def values(self) -> Mapping[str, float]:
        """Of the main measure."""
        return next(iter(self.per_query.values()))

    @property
    def means(self) -> dict[str, float]:
        """measure -> mean over queries."""
        return {measure: fmean(values.values()) for measure, values in self.per_query.items()}

    @property
    def mean(self) -> float:
        """Of the main measure."""
        return fmean(self.values.values())


@dataclass(frozen=True)
class Weights:
    """Where a system's model lies."""

    path: str = field(metadata=CONTENT)


def open_place(run: Run, benchmark: Benchmark, name: str, weights: Weights | None = None) -> Path:
    """``<output_dir>/evaluation/<benchmark>/<name>``; what other settings, code or files left there is moved aside."""
    settings: dict[str, Any] = run.settings(*_DEPENDS_ON)
    settings["benchmark"] = node_of(benchmark)
    kept = {key: _without(value, _INCIDENTAL.get(key, set())) for key, value in settings.items()}
    # This benchmark's alone: the others of a list decide nothing here.
    kept[CODE] = run.code("prompt", "strategy", "retriever") | code_of(benchmark)
    kept[FILES] = files_of(run.cache, retriever=run.experiment.retriever, benchmark=benchmark, weights=weights)
    accept = run.experiment.accept_changed_code
    return open_stage(run.folder / "evaluation" / benchmark.name / name, kept, accept_changed_code=accept)


def keep(
    place: Path,
    benchmark: Benchmark,
    runs: Sequence[Mapping[str, Sequence[str]]],
    *,
    label: str,
    role: str,
    figures: Mapping[str, float] | None = None,
    row: str | None = None,
    beside: Beside | None = None,
) -> Measured:
    """Score the runs of a system and write them; several runs are samples, whose values are averaged.

    Args:
        place: the system's folder, named after it.
        benchmark: scores.
        runs: query id -> passage ids, best first.
        label: in tables.
        role: as ``Measured`` says.
        figures: of the answers; they follow from them alone.
        row: in the published tables.
        beside: the published number.
    """
    scored = [benchmark.score(ranked) for ranked in runs]
    per_query = {
        measure: {query: fmean(sample[measure][query] for sample in scored) for query in scored[0][measure]}
        for measure in benchmark.measures
    }
    for number, ranked in enumerate(runs):
        write_run(place / (RUN if len(runs) == 1 else f"run-{number}.trec"), ranked, f"rearank-{place.name}")
    counts = dict(figures or {})
    cost, failed = counts.get("cost", 0.0), int(counts.get("failed", 0))
    found = Measured(place.name, label, role, per_query, row, beside, cost, failed)
    write_json(
        place / METRICS,
        {
            "system": label,
            "role": role,
            "benchmark": benchmark.name,
            "measures": list(benchmark.measures),
            "mean": found.means,
            "interval_95": {m: bootstrap_interval(list(values.values())) for m, values in per_query.items()},
            "queries": {m: len(values) for m, values in per_query.items()},
            "calls": counts,
            "per_query": per_query,
        },
    )
    write_json(place / ENVIRONMENT, {**_machine(), "time": datetime.now(UTC).isoformat(timespec="seconds")})
    return found


@cache
def _machine() -> dict[str, Any]:
    """Versions and commit don't change while a command runs, and finding them takes a tenth of a second."""
    return environment()


def _without(value: Any, keys: set[str]) -> Any:
    """A config without ``keys``, wherever in it they stand."""
    if isinstance(value, Mapping):
        return {key: _without(inner, keys) for key, inner in value.items() if key not in keys or key == TARGET}
    return [_without(inner, keys) for inner in value] if isinstance(value, (list, tuple)) else value
