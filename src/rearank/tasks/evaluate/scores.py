"""What a system's run over a benchmark comes to, and what it leaves on disk.

``run.trec`` and ``metrics.json`` follow from settings and answers alone: a run that was killed and continued leaves
the same bytes as an undisturbed one. What is of one command (time, machine, calls paid) lies apart from them, in
``environment.json`` and ``cost.jsonl``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from rearank.config import node_of
from rearank.data.benchmark import Benchmark
from rearank.data.trec import write_run
from rearank.evaluation import bootstrap_interval
from rearank.runs import CONTENT, code_of, files_of
from rearank.runs.layout import METRICS, RUN, write_json
from rearank.runs.seal import seal
from rearank.runs.stage import Stage
from rearank.tasks.evaluate.published import PublishedRow


@dataclass(frozen=True)
class SystemScores:
    """A system on a benchmark: measure -> query -> value, averaged over its samples; the main measure first.

    ``role`` is ``first stage``, ``system`` or ``ideal``; ``row`` its row in the published tables; ``cost`` is what all
    its answers cost, in US dollars, and ``failed`` how many queries have no ranking.
    """

    name: str
    label: str
    role: str
    per_query: Mapping[str, Mapping[str, float]]
    row: str | None = None
    published: PublishedRow | None = None
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
class SystemWeights:
    """Where a system's model lies."""

    path: str = field(metadata=CONTENT)


@dataclass(frozen=True)
class Places:
    """Where the systems' results lie: ``<evaluation>/<benchmark>/<system>``.

    Args:
        stage: of the evaluation; it holds what every system depends on.
        cache: of digests of large files.
    """

    stage: Stage
    cache: Path

    def open(self, benchmark: Benchmark, name: str, weights: SystemWeights | None = None) -> Path:
        """A system's folder; what other settings, code or files left there is moved aside.

        The other benchmarks of a list decide nothing here.
        """
        files = files_of(self.cache, benchmark=benchmark, weights=weights)
        place = f"{benchmark.name}/{name}"
        return self.stage.part(place, {"benchmark": node_of(benchmark)}, code_of(benchmark), files).open()


def keep(
    place: Path,
    benchmark: Benchmark,
    runs: Sequence[Mapping[str, Sequence[str]]],
    *,
    label: str,
    role: str,
    figures: Mapping[str, float] | None = None,
    row: str | None = None,
    published: PublishedRow | None = None,
) -> SystemScores:
    """Score the runs of a system and write them; several runs are samples, whose values are averaged.

    Args:
        place: the system's folder, named after it.
        benchmark: scores.
        runs: query id -> passage ids, best first.
        label: in tables.
        role: as ``SystemScores`` says.
        figures: of the answers; they follow from them alone.
        row: in the published tables.
        published: the published number.
    """
    scored = [benchmark.score(ranked) for ranked in runs]
    per_query = {
        measure: {query: fmean(sample[measure][query] for sample in scored) for query in scored[0][measure]}
        for measure in benchmark.measures
    }
    names = [RUN] if len(runs) == 1 else [f"run-{number}.trec" for number in range(len(runs))]
    for name, ranked in zip(names, runs, strict=True):
        write_run(place / name, ranked, f"rearank-{place.name}")
    counts = dict(figures or {})
    cost, failed = counts.get("cost", 0.0), int(counts.get("failed", 0))
    found = SystemScores(place.name, label, role, per_query, row, published, cost, failed)
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
    seal(place, [METRICS, *names])
    return found
