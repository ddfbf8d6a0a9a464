"""What a system's run over a benchmark comes to, and what it leaves on disk.

``run.trec`` and ``metrics.json`` follow from settings and answers alone: a run that was killed and continued leaves
the same bytes as an undisturbed one. What is of one command (time, machine, calls paid) lies apart from them, in
``environment.json`` and ``cost.jsonl``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from rearank.config import node_of
from rearank.data.benchmark import Benchmark
from rearank.data.trec import write_run
from rearank.engines.account import Unread, describe_unread, unread_of
from rearank.evaluation import JUDGED, bootstrap_interval
from rearank.runs import CONTENT, code_of, files_of
from rearank.runs.layout import METRICS, RUN, write_json
from rearank.runs.reader import marked
from rearank.runs.seal import seal
from rearank.runs.stage import Stage
from rearank.tasks.evaluate.published import PublishedRow


@dataclass(frozen=True)
class SystemScores:
    """A system on a benchmark: measure -> query -> value, averaged over its samples; the main measure first.

    ``role`` is ``first stage``, ``system`` or ``ideal``; ``row`` its row in the published tables; ``cost`` is what all
    its answers cost, in US dollars, and ``failed`` how many queries have no ranking. ``judged``: of each query that
    has one, the share of its first 10 that is judged.
    Of ``calls`` answers those in ``unread`` named nothing, by cause; ``unreadable``: more than
    ``evaluation.max_unread`` of them.
    """

    name: str
    label: str
    role: str
    per_query: Mapping[str, Mapping[str, float]]
    row: str | None = None
    published: PublishedRow | None = None
    cost: float = 0.0
    failed: int = 0
    judged: Mapping[str, float] = field(default_factory=dict)
    calls: int = 0
    unread: Counter[Unread] = field(default_factory=Counter)
    unreadable: bool = False

    @property
    def marked(self) -> str:
        """The label as tables show it."""
        return marked(self.label, self.failed) + (" (unread)" if self.unreadable else "")

    @property
    def mean_judged(self) -> float | None:
        """``None`` where nothing was ranked."""
        return fmean(self.judged.values()) if self.judged else None

    @property
    def note(self) -> str:
        """What a table says below itself of a row whose answers were mostly unread; ``""`` for any other."""
        if not self.unreadable:
            return ""
        return f"{self.label}: its numbers are mostly the given order's: {describe_unread(self.unread, self.calls)}"

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


def score_and_write(
    place: Path,
    benchmark: Benchmark,
    runs: Sequence[Mapping[str, Sequence[str]]],
    *,
    label: str,
    role: str,
    figures: Mapping[str, float] | None = None,
    row: str | None = None,
    published: PublishedRow | None = None,
    unreadable: bool = False,
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
        unreadable: more of its answers were unread than is allowed.
    """
    scored = [benchmark.score(ranked, (*benchmark.measures, JUDGED)) for ranked in runs]
    per_query = {measure: _over_samples([one[measure] for one in scored]) for measure in benchmark.measures}
    judged = _over_samples([one[JUDGED] for one in scored]) if any(any(ranked.values()) for ranked in runs) else {}
    names = [RUN] if len(runs) == 1 else [f"run-{number}.trec" for number in range(len(runs))]
    for name, ranked in zip(names, runs, strict=True):
        write_run(place / name, ranked, f"rearank-{place.name}")
    counts = dict(figures or {})
    cost, failed = counts.get("cost", 0.0), int(counts.get("failed", 0))
    calls = int(counts.get("calls", 0))
    found = SystemScores(
        *(place.name, label, role, per_query, row, published, cost, failed, judged),
        *(calls, unread_of(counts), unreadable),
    )
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
            "coverage": benchmark.coverage.as_json(),
            "calls": counts,
            "judged": {JUDGED: found.mean_judged},
            **({"note": found.note} if found.note else {}),
            "per_query": per_query,
            "judged_per_query": {JUDGED: judged},
        },
    )
    seal(place, [METRICS, *names])
    return found


def _over_samples(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each query's mean over the samples that have a value: one that failed has none where it is left out."""
    queries = sorted({query for values in samples for query in values})
    return {query: fmean(values[query] for values in samples if query in values) for query in queries}
