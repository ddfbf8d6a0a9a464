"""``task=collect``, and the end of every sweep: one table of all its jobs.

A row an arm (the swept choices but the seed): the mean over its seeds, how far the seeds spread, and a paired test
against the first arm over the queries, each query's value averaged over the seeds. ``<sweep>/table.md``, ``.csv``,
``.tex`` and ``summary.json``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from omegaconf import OmegaConf

from rearank.evaluation import (
    JUDGED,
    Cell,
    Comparison,
    Scored,
    bootstrap_interval,
    compare,
    for_terminal,
    heading,
    holm,
    render_table,
    write_tables,
)
from rearank.evaluation.published import MEASURE
from rearank.experiment import Run
from rearank.runs.declared import differences
from rearank.runs.layout import FAILURE, SUMMARY, write_json
from rearank.runs.reader import marked
from rearank.runs.seeds import p_over_seeds
from rearank.runs.sweeps import Job, Sweep
from rearank.tasks.sweep.arms import Row, SweepArm, arms_of_jobs, rows_of
from rearank.tracking import TrackingNode
from rearank.tracking.run_trackers import RunTrackers

_log = logging.getLogger(__name__)


class CollectError(ValueError):
    """A sweep folder without anything to tabulate; the message says why."""


@dataclass(frozen=True)
class CollectTask:
    """Make a sweep's table again; asks no model anything.

    Args:
        sweep: the sweep's folder, ``outputs/rewards-sweep``.
        baseline: the arm that all others are compared with, as the table names it; ``null`` for the first.
    """

    sweep: str
    baseline: str | None = None
    needs: ClassVar[tuple[str, ...]] = ()

    def run(self, run: Run) -> None:
        """Into the sweep's folder."""
        sweep = Sweep.read(Path(self.sweep))
        collect(sweep, self.baseline)
        print("\n".join(failure_lines(sweep.jobs())), flush=True)


def collect(sweep: Sweep, baseline: str | None = None) -> dict[str, Any]:
    """Tabulate the finished jobs of ``sweep``; prints, writes and returns the summary.

    Raises:
        CollectError: where there is no such sweep, nothing is finished, or the baseline is no arm.
    """
    jobs = sweep.jobs()
    if not jobs:
        raise CollectError(f"{sweep.folder}: no sweep's folder (no {'*/job.json'} in it); set task.sweep=outputs/...")
    finished = [job for job in jobs if job.status == "finished"]
    if not finished:
        raise CollectError(f"{sweep.folder}: none of its {len(jobs)} jobs is finished")
    arms = arms_of_jobs(jobs)
    if baseline is not None and baseline not in (names := [arm.label for arm in arms]):
        raise CollectError(f"task.baseline={baseline}: no arm has this name; there are {'; '.join(names)}")
    rows = rows_of(arms)
    tests = _tests(rows, baseline or arms[0].label)
    cells = _cells(rows, tests, arms)
    notes = _notes(sweep, jobs, arms, bool(rows))
    text = "\n".join([*notes, "", render_table(cells)])
    (sweep.folder / "table.md").write_text(text + "\n", encoding="utf-8")
    write_tables(sweep.folder / "table", cells)
    summary = {
        "arms": [_summary(row) for row in rows],
        "trainings": {arm.label: arm.trained() for arm in arms if arm.trained()},
        "comparisons": [
            {**asdict(one), "test": one.test.as_json(), "p_over_seeds": _over_seeds(one, rows)} for one in tests
        ],
        "jobs": [{**asdict(job), "folder": job.folder.name} for job in jobs],
        "commits": sorted({str(run.environment.get("commit")) for arm in arms for run in arm.runs}),
    }
    write_json(sweep.folder / SUMMARY, summary)
    print(f"\n{for_terminal(text, 'table.md')}\n\nthe table is in {sweep.folder}", flush=True)
    return summary


def track_sweep(sweep: Sweep, summary: Mapping[str, Any], node: TrackingNode) -> None:
    """The table and its means, as a run of the sweep's group and of job type ``sweep``."""
    name = sweep.folder.name
    trackers = RunTrackers(node, name, name, {"overrides": list(sweep.overrides)})
    columns = ("benchmark", "arm", "mean", "seeds", "sd of seeds", "low", "high", "difference", "p (t-test)", "Holm")
    tests = {(one["benchmark"], one["b"]): one for one in summary["comparisons"]}
    rows = []
    for arm in summary["arms"]:
        test = tests.get((arm["benchmark"], arm["arm"]))
        ends = (test["test"]["mean_difference"], test["test"]["p_value"], test["holm"]) if test else (None, None, None)
        spread = (len(arm["seeds"]), arm["sd_of_seeds"], *arm["interval_95"])
        rows.append([arm["benchmark"], arm["arm"], arm["mean"], *spread, *ends])
    with trackers.open(sweep.folder, "sweep") as tracker:
        tracker.jsonl.rewind(-1)
        tracker.log({f"sweep/{arm['benchmark']}/{arm['arm']}": arm["mean"] for arm in summary["arms"]}, 0)
        tracker.table("ablation", columns, rows, 0)


def _tests(rows: Sequence[Row], baseline: str) -> list[Comparison]:
    """Every arm against ``baseline``; a single arm against the model it was trained from, or the first stage."""
    found: list[Comparison] = []
    groups: list[tuple[str, list[Row]]] = []
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        group = [row for row in rows if row.benchmark == benchmark and not row.reference]
        first = baseline
        if len(group) == 1:
            references = [row for row in rows if row.benchmark == benchmark and row.reference]
            group, first = [*references[-1:], *group], references[-1].label if references else first
        if len(group) > 1 and first in {row.label for row in group}:
            groups.append((first, group))
    for first, group in groups:
        scored = [Scored(row.label, row.benchmark, {row.measure: row.seeds.values}) for row in group]
        try:
            found += compare(scored, [group[0].measure], baseline=first)
        except ValueError as error:
            _log.warning("no test: %s", error)
    return _corrected(found)


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    """Holm's correction over all benchmarks together, as one family."""
    by_t, by_flips = (holm([getattr(one.test, name) for one in found]) for name in ("p_value", "p_randomisation"))
    return [replace(one, holm=t, holm_randomisation=f) for one, t, f in zip(found, by_t, by_flips, strict=True)]


def _cells(rows: Sequence[Row], tests: Sequence[Comparison], arms: Sequence[SweepArm]) -> list[dict[str, Cell]]:
    by_place = {(one.benchmark, one.b): one for one in tests}
    trained = {arm.label: arm.trained() for arm in arms}
    several = len({row.benchmark for row in rows}) > 1
    if not rows:
        return [_trained_cells(arm) for arm in arms]
    return [
        {
            **({"benchmark": row.benchmark} if several else {}),
            **_mean_cells(row),
            **({"validation": trained[row.label]["validation"]} if trained.get(row.label) else {}),
            **(_test_cells(by_place[row.benchmark, row.label], rows) if (row.benchmark, row.label) in by_place else {}),
        }
        for row in rows
    ]


def _mean_cells(row: Row) -> dict[str, Cell]:
    low, high = bootstrap_interval(list(row.seeds.values.values()))
    return {
        "arm": marked(row.label, row.failed),
        "seeds": None if row.reference else len(row.seeds.each),
        heading(row.measure): row.seeds.mean,
        "sd of seeds": row.seeds.deviation,
        "95% interval": f"{low:.4f} to {high:.4f}",
        **({heading(JUDGED): fmean(row.judged.values()) if row.judged else None} if row.measure == MEASURE else {}),
    }


def _over_seeds(one: Comparison, rows: Sequence[Row]) -> float | None:
    a, b = (next(r for r in rows if (r.benchmark, r.label) == (one.benchmark, name)).seeds for name in (one.a, one.b))
    return p_over_seeds(a.means, b.means)


def _test_cells(one: Comparison, rows: Sequence[Row]) -> dict[str, Cell]:
    return {
        "difference": f"{one.test.mean_difference:+.4f}",
        "p (t-test)": one.test.p_value,
        "Holm": one.holm,
        "p (randomisation)": one.test.p_randomisation,
        "Holm (randomisation)": one.holm_randomisation,
        "p over seeds": _over_seeds(one, rows),
        "wins/ties/losses": f"{one.test.wins}/{one.test.ties}/{one.test.losses}",
    }


def _trained_cells(arm: SweepArm) -> dict[str, Cell]:
    """Where nothing was evaluated."""
    return {"arm": arm.label, "seeds": len(arm.jobs), **arm.trained()}


def _summary(row: Row) -> dict[str, Any]:
    values = row.seeds.values
    low, high = bootstrap_interval(list(values.values()))
    return {
        "benchmark": row.benchmark,
        "arm": row.label,
        "reference": row.reference,
        "system": row.system,
        "measure": row.measure,
        "mean": row.seeds.mean,
        "seeds": {} if row.reference else row.seeds.means,
        "sd_of_seeds": row.seeds.deviation,
        "interval_95": [low, high],
        "queries": len(values),
        **({"failed": row.failed} if row.failed else {}),
    }


def _notes(sweep: Sweep, jobs: Sequence[Job], arms: Sequence[SweepArm], measured: bool) -> list[str]:
    """What the table is of, and whatever makes its rows less than comparable."""
    lines = [f"{sweep.folder.name}: {sum(len(arm.jobs) for arm in arms)} of {len(jobs)} jobs finished"]
    if measured:
        lines += [
            "Means over seeds and queries; intervals (95% bootstrap) and tests are over the queries, each averaged "
            "over the seeds; differences are to the first arm, Holm's correction is over all of them. They speak of "
            "these trainings; p over seeds (paired, uncorrected) asks whether others would show the same"
        ]
    seeds = {arm.label: sorted(arm.seeds) for arm in arms}
    if len(set(map(tuple, seeds.values()))) > 1:
        lines.append("Arms differ in their seeds: " + "; ".join(f"{name}: {', '.join(s)}" for name, s in seeds.items()))
    fixed = {arm.label: sorted({" ".join(job.fixed) for job in arm.jobs}) for arm in arms}
    if len({line for lines_ in fixed.values() for line in lines_}) > 1:
        lines.append("Jobs were run by commands that differ beyond what is swept: " + json.dumps(fixed))
    for arm in arms:
        configs = [_config(job) for job in arm.jobs]
        mixed = [line for config in configs[1:] for line in differences(configs[0], config)]
        if mixed:
            lines.append(f"{arm.label}: its seeds differ in more than the seed: {', '.join(dict.fromkeys(mixed))}")
    return lines


def _config(job: Job) -> dict[str, Any]:
    """What a job's result depends on, but for its seed and the benchmark."""
    path = job.folder / ".hydra" / "config.yaml"
    if not path.is_file():
        return {}
    config = OmegaConf.to_container(OmegaConf.load(path))
    left = {"seed", "name", "output_dir", "paths", "tracking", "benchmark"}
    return {str(key): value for key, value in dict(config).items() if key not in left}  # type: ignore[arg-type]


def failure_lines(jobs: Sequence[Job]) -> list[str]:
    """What failed, why, and the command that runs it again alone."""
    failed = [job for job in jobs if job.failed]
    if not failed:
        return []
    lines = [f"\n{len(failed)} of {len(jobs)} jobs failed; the same command runs them again, and only them. One alone:"]
    alike: dict[str, list[Job]] = {}
    for job in failed:  # what a machine lacks, every job says: once is enough
        alike.setdefault(job.cause.replace(str(job.folder), "its folder"), []).append(job)
    for job, *others in alike.values():
        trace = f" ({path})" if (path := job.folder / FAILURE).is_file() else ""
        lines += [f"  {job.folder.name}: {job.cause}{trace}", f"    {job.command}"]
        if others:
            names = ", ".join(other.folder.name for other in others)
            lines.append(f"  and for the same reason: {names}")
    return lines
