"""The arms of a sweep: what its finished jobs tried, with every seed of it, on every benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from rearank.runs.reader import FIRST, UNTRAINED, Evaluated, RunFolder, by_benchmark, read_folder, stands_for
from rearank.runs.seeds import Seeds
from rearank.runs.sweeps import Job
from rearank.tasks.sweep.plan import ARM

_NO_CHOICE = {"seed", "benchmark"}  # swept, but no arm: seeds are averaged, benchmarks have rows of their own


@dataclass(frozen=True)
class SweepArm:
    """The finished jobs of one combination, and what each of them left."""

    label: str
    jobs: tuple[Job, ...]
    runs: tuple[RunFolder, ...]

    @property
    def seeds(self) -> list[str]:
        """Of its jobs; empty for one without."""
        return [job.choices.get("seed", "") for job in self.jobs]

    def trained(self) -> dict[str, float]:
        """Of the trainings: validation nDCG and step of the checkpoint that was kept, means over seeds."""
        results = [run.result for run in self.runs if run.result.get("best_ndcg") is not None]
        if not results:
            return {}
        return {name: fmean(one[key] for one in results) for name, key in _TRAINED.items()}


_TRAINED = {"validation": "best_ndcg", "step": "best_step"}


@dataclass(frozen=True)
class Row:
    """An arm, or a reference, on a benchmark, by the main measure.

    ``judged``: of each query the share of its first 10 that is judged, mean over seeds; ``failed`` of all its seeds.
    """

    benchmark: str
    label: str
    system: str
    measure: str
    seeds: Seeds
    reference: bool = False
    judged: Mapping[str, float] = field(default_factory=dict)
    failed: int = 0


def arms_of_jobs(jobs: Sequence[Job]) -> list[SweepArm]:
    """Of the finished jobs, in their order. What all jobs share is no part of a name, unless nothing else is."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.choices if key not in _NO_CHOICE))
    varied = [key for key in keys if len({job.choices.get(key) for job in jobs if job.choices}) > 1] or keys
    by_label: dict[str, list[Job]] = {}
    for job in (job for job in jobs if job.status == "finished"):
        label = ", ".join(_named(key, job.choices[key]) for key in varied if key in job.choices)
        by_label.setdefault(label or "all", []).append(job)
    return [
        SweepArm(label, tuple(found), tuple(read_folder(job.folder) for job in found))
        for label, found in by_label.items()
    ]


def rows_of(arms: Sequence[SweepArm]) -> list[Row]:
    """On each benchmark the references, then each arm."""
    runs = [by_benchmark(run.systems) for arm in arms for run in arm.runs]
    names = dict.fromkeys(name for run in runs for name in run)
    return [row for name in names for row in (*_references(runs, name), *_measured(arms, name))]


def _named(key: str, value: str) -> str:
    """A study's arms have names; other choices are named by key and value."""
    return value if key == ARM else f"{key}={value}"


def _measured(arms: Sequence[SweepArm], benchmark: str) -> list[Row]:
    """Each arm on ``benchmark``: its trained system, or its model."""
    rows = []
    for arm in arms:
        found: dict[str, Evaluated] = {}
        for seed, run in zip(arm.seeds, arm.runs, strict=True):
            if (one := stands_for(by_benchmark(run.systems).get(benchmark, []))) is not None:
                found[seed] = one
        if found:
            last = list(found.values())[-1]
            seeds = Seeds({seed: one.values[last.measure] for seed, one in found.items()})
            judged = Seeds({seed: one.judged for seed, one in found.items()}).values
            failed = sum(one.failed for one in found.values())
            rows.append(Row(benchmark, arm.label, last.label, last.measure, seeds, judged=judged, failed=failed))
    return rows


def _references(runs: Sequence[dict[str, list[Evaluated]]], benchmark: str) -> list[Row]:
    """The first stage, and the model before training: what the jobs measured alike, once."""
    rows: list[Row] = []
    every = [{one.name: one for one in run[benchmark]} for run in runs if benchmark in run]
    for name in dict.fromkeys(name for found in every for name in found):
        first, *others = [found[name] for found in every if name in found]
        untrained = name in UNTRAINED and all(_stands_for(found) != name for found in every)
        if not (first.role == FIRST or (untrained and name != "base_sampled")):
            continue
        if all(other.values.get(first.measure) == first.main for other in others):
            seeds = Seeds({"": first.main})
            row = Row(benchmark, first.label, "", first.measure, seeds, True, first.judged, first.failed)
            rows.insert(0 if first.role == FIRST else len(rows), row)
    return rows


def _stands_for(found: dict[str, Evaluated]) -> Any:
    one = stands_for(list(found.values()))
    return one.name if one is not None else None
