"""``task=collect``, and the end of every sweep: one table of all its jobs.

A row an arm (the swept choices but the seed): the mean over its seeds, how far the seeds spread, and a paired test
against the first arm over the queries, each query's value averaged over the seeds. ``<sweep>/table.md``, ``.csv``,
``.tex`` and ``summary.json``.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, ClassVar

from rearank.config import build
from rearank.evaluation import (
    Cell,
    Comparison,
    Scored,
    bootstrap_interval,
    compare,
    heading,
    paired_test,
    render_table,
    write_tables,
)
from rearank.runs.layout import write_json
from rearank.tasks.experiment import Run
from rearank.tasks.stage import differences
from rearank.tasks.sweep import ARM, UNTRAINED, Job, Sweep, failure_lines, measured_by

_ASIDE = re.compile(r"\.\d+$")  # what other settings made, moved aside
_NO_CHOICE = {"seed", "benchmark"}  # swept, but no arm: seeds are averaged, benchmarks have rows of their own
_FIRST = "first stage"
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


@dataclass(frozen=True)
class _Arm:
    """The finished jobs of one combination, and what each of them left."""

    label: str
    jobs: tuple[Job, ...]

    @property
    def seeds(self) -> list[str]:
        return [job.choices.get("seed", "") for job in self.jobs]

    def trained(self) -> dict[str, float]:
        """Of the trainings: validation nDCG and step of the checkpoint that was kept, means over seeds."""
        results = [found for job in self.jobs if (found := _read(job.folder / "training" / "result.json"))]
        best = [result["best_ndcg"] for result in results if result.get("best_ndcg") is not None]
        return {"validation": fmean(best), "step": fmean(r["best_step"] for r in results)} if best else {}


@dataclass(frozen=True)
class _Row:
    """An arm, or a reference, on a benchmark; ``seeds``: seed -> query -> value of the main measure."""

    benchmark: str
    label: str
    system: str
    measure: str
    seeds: Mapping[str, Mapping[str, float]]
    reference: bool = False

    @property
    def values(self) -> dict[str, float]:
        """query -> mean over the seeds, of the queries that all of them have."""
        found = list(self.seeds.values())
        shared = set.intersection(*(set(values) for values in found))
        return {query: fmean(values[query] for values in found) for query in sorted(shared)}

    @property
    def means(self) -> dict[str, float]:
        """seed -> mean over the queries."""
        return {seed: fmean(values.values()) for seed, values in self.seeds.items()}


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
    arms = _arms(jobs)
    if baseline is not None and baseline not in (names := [arm.label for arm in arms]):
        raise CollectError(f"task.baseline={baseline}: no arm has this name; there are {'; '.join(names)}")
    rows = [row for name in _benchmarks(arms) for row in (*_references(arms, name), *_measured(arms, name))]
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
        "commits": sorted({_commit(job) for job in finished}),
    }
    write_json(sweep.folder / "summary.json", summary)
    print(f"\n{text}\n\nthe table is in {sweep.folder}", flush=True)
    return summary


def track_sweep(sweep: Sweep, summary: Mapping[str, Any], tracking: Mapping[str, Any]) -> None:
    """The table and its means, as a run of the sweep's group and of job type ``sweep``."""
    name = sweep.folder.name
    told = build(tracking, "tracking").open(sweep.folder, name, {"overrides": list(sweep.overrides)}, "sweep", name)
    columns = ("benchmark", "arm", "mean", "seeds", "sd of seeds", "low", "high", "difference", "p (t-test)", "Holm")
    tests = {(one["benchmark"], one["b"]): one for one in summary["comparisons"]}
    rows = []
    for arm in summary["arms"]:
        test = tests.get((arm["benchmark"], arm["arm"]))
        ends = (test["test"]["mean_difference"], test["test"]["p_value"], test["holm"]) if test else (None, None, None)
        spread = (len(arm["seeds"]), arm["sd_of_seeds"], *arm["interval_95"])
        rows.append([arm["benchmark"], arm["arm"], arm["mean"], *spread, *ends])
    try:
        told.jsonl.rewind(-1)
        told.log({f"sweep/{arm['benchmark']}/{arm['arm']}": arm["mean"] for arm in summary["arms"]}, 0)
        told.table("ablation", columns, rows, 0)
    finally:
        told.close()


def _arms(jobs: Sequence[Job]) -> list[_Arm]:
    """Of the finished jobs, in their order. What all jobs share is no part of a name, unless nothing else is."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.choices if key not in _NO_CHOICE))
    varied = [key for key in keys if len({job.choices.get(key) for job in jobs}) > 1] or keys
    by_label: dict[str, list[Job]] = {}
    for job in (job for job in jobs if job.status == "finished"):
        label = ", ".join(_named(key, job.choices[key]) for key in varied if key in job.choices)
        by_label.setdefault(label or "all", []).append(job)
    return [_Arm(label, tuple(found)) for label, found in by_label.items()]


def _named(key: str, value: str) -> str:
    """A study's arms have names; other choices are named by key and value."""
    return value if key == ARM else f"{key}={value}"


def _benchmarks(arms: Sequence[_Arm]) -> list[str]:
    places = (place for arm in arms for job in arm.jobs for place in sorted(job.folder.glob("evaluation/*/")))
    return list(dict.fromkeys(place.name for place in places if list(place.glob("*/metrics.json"))))


def _systems(job: Job, benchmark: str) -> dict[str, dict[str, Any]]:
    """system -> its ``metrics.json``."""
    files = sorted(job.folder.glob(f"evaluation/{benchmark}/*/metrics.json"))
    return {file.parent.name: _read(file) for file in files if not _ASIDE.search(file.parent.name)}


def _measured(arms: Sequence[_Arm], benchmark: str) -> list[_Row]:
    """Each arm on ``benchmark``: its trained system, or its model."""
    rows = []
    for arm in arms:
        seeds, system, measure = {}, "", ""
        for job in arm.jobs:
            found = _systems(job, benchmark)
            if (name := measured_by(found)) is not None:
                system, measure = found[name]["system"], found[name]["measures"][0]
                seeds[job.choices.get("seed", "")] = found[name]["per_query"][measure]
        if seeds:
            rows.append(_Row(benchmark, arm.label, system, measure, seeds))
    return rows


def _references(arms: Sequence[_Arm], benchmark: str) -> list[_Row]:
    """The first stage, and the model before training: what the jobs measured alike, once."""
    rows: list[_Row] = []
    jobs = [job for arm in arms for job in arm.jobs]
    every = [found for job in jobs if (found := _systems(job, benchmark))]
    for name in dict.fromkeys(name for found in every for name in found):
        content = [found[name] for found in every if name in found]
        role = content[0].get("role")
        trained = name in UNTRAINED and all(measured_by(found) != name for found in every)
        if not (role == _FIRST or trained):
            continue
        measure = content[0]["measures"][0]
        values = [one["per_query"].get(measure) for one in content]
        if all(one == values[0] for one in values):
            row = _Row(benchmark, content[0]["system"], "", measure, {"": values[0]}, reference=True)
            rows.insert(0 if role == _FIRST else len(rows), row)
    return rows


def _tests(rows: Sequence[_Row], baseline: str) -> list[Comparison]:
    """Every arm against ``baseline``; a single arm against the model it was trained from, or the first stage."""
    found: list[Comparison] = []
    groups: list[tuple[str, list[_Row]]] = []
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        group = [row for row in rows if row.benchmark == benchmark and not row.reference]
        first = baseline
        if len(group) == 1:
            references = [row for row in rows if row.benchmark == benchmark and row.reference]
            group, first = [*references[-1:], *group], references[-1].label if references else first
        if len(group) > 1 and first in {row.label for row in group}:
            groups.append((first, group))
    for first, group in groups:
        scored = [Scored(row.label, row.benchmark, {row.measure: row.values}) for row in group]
        try:
            found += compare(scored, [group[0].measure], baseline=first)
        except ValueError as error:
            _log.warning("no test: %s", error)
    return _corrected(found)


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    """Holm's correction over all benchmarks together, as one family."""
    from dataclasses import replace

    from rearank.evaluation import holm

    by_t, by_flips = (holm([getattr(one.test, name) for one in found]) for name in ("p_value", "p_randomisation"))
    return [replace(one, holm=t, holm_randomisation=f) for one, t, f in zip(found, by_t, by_flips, strict=True)]


def _cells(rows: Sequence[_Row], tests: Sequence[Comparison], arms: Sequence[_Arm]) -> list[dict[str, Cell]]:
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


def _mean_cells(row: _Row) -> dict[str, Cell]:
    means = list(row.means.values())
    low, high = bootstrap_interval(list(row.values.values()))
    return {
        "arm": row.label,
        "seeds": None if row.reference else len(means),
        heading(row.measure): fmean(means),
        "sd of seeds": stdev(means) if len(means) > 1 else None,
        "95% interval": f"{low:.4f} to {high:.4f}",
    }


def _over_seeds(one: Comparison, rows: Sequence[_Row]) -> float | None:
    """p of the paired t-test over the seeds that both arms have: whether other trainings would show the same.

    ``None`` for fewer than two, and against what has no seeds.
    """
    a, b = (next(r for r in rows if (r.benchmark, r.label) == (one.benchmark, name)).means for name in (one.a, one.b))
    both = sorted(a.keys() & b.keys())
    return paired_test({s: a[s] for s in both}, {s: b[s] for s in both}).p_value if len(both) > 1 else None


def _test_cells(one: Comparison, rows: Sequence[_Row]) -> dict[str, Cell]:
    return {
        "difference": f"{one.test.mean_difference:+.4f}",
        "p (t-test)": one.test.p_value,
        "Holm": one.holm,
        "p (randomisation)": one.test.p_randomisation,
        "Holm (randomisation)": one.holm_randomisation,
        "p over seeds": _over_seeds(one, rows),
        "wins/ties/losses": f"{one.test.wins}/{one.test.ties}/{one.test.losses}",
    }


def _trained_cells(arm: _Arm) -> dict[str, Cell]:
    """Where nothing was evaluated."""
    return {"arm": arm.label, "seeds": len(arm.jobs), **arm.trained()}


def _summary(row: _Row) -> dict[str, Any]:
    values, means = row.values, row.means
    low, high = bootstrap_interval(list(values.values()))
    return {
        "benchmark": row.benchmark,
        "arm": row.label,
        "reference": row.reference,
        "system": row.system,
        "measure": row.measure,
        "mean": fmean(means.values()),
        "seeds": {} if row.reference else means,
        "sd_of_seeds": stdev(means.values()) if len(means) > 1 else None,
        "interval_95": [low, high],
        "queries": len(values),
    }


def _notes(sweep: Sweep, jobs: Sequence[Job], arms: Sequence[_Arm], measured: bool) -> list[str]:
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
    from omegaconf import OmegaConf

    path = job.folder / ".hydra" / "config.yaml"
    if not path.is_file():
        return {}
    config = OmegaConf.to_container(OmegaConf.load(path))
    left = {"seed", "name", "output_dir", "paths", "tracking", "benchmark"}
    return {str(key): value for key, value in dict(config).items() if key not in left}  # type: ignore[arg-type]


def _commit(job: Job) -> str:
    return str((_read(job.folder / "environment.json") or {}).get("commit"))


def _read(path: Path) -> dict[str, Any]:
    """Empty where the file is missing."""
    return json.loads(path.read_text()) if path.is_file() else {}
