"""Training curves: runs that differ in their seed alone are one line with a band."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from rearank.evaluation import heading
from rearank.runs.reader import RunFolder, on_its_way

_SEED = re.compile(r"(?:^|[,_/ -])seed[=_-]?\d+")
_MOST = 400  # points of a line
_DIGITS = 5
_FEW = 3  # lines, up to which a panel shows several metrics of each
_BENCHMARK = "benchmark/"  # before a benchmark's name: the metric of its checkpoints
_JOBS = {"train": "", "sft": " (SFT)"}

PANELS: Sequence[tuple[str, Mapping[str, str]]] = (
    (
        "Reward",
        {
            "train/reward/total": "reward",
            "train/reward/rank": "rank term",
            "train/reward/format_list": "list format",
            "train/reward/format_tags": "tags",
        },
    ),
    ("nDCG@10", {"val/ndcg@10": "validation, greedy", "rollout/ndcg@10": "sampled answers"}),
    ("Tokens an answer", {"rollout/length": "sampled answers", "val/length": "validation"}),
    ("Answers in the right form", {"rollout/parse/ok": "sampled answers", "val/parse/ok": "validation"}),
    ("Loss", {"train/loss": "loss"}),
    ("Entropy", {"train/entropy": "entropy"}),
)
"""Title -> logged name -> what it is called: what is looked at first. Every other figure comes after."""


def seed_groups(runs: Sequence[RunFolder]) -> dict[str, list[int]]:
    """Label -> the runs (by place) that have it: one with every seed of the same arm, or of the same settings."""
    groups: dict[Hashable, list[int]] = {}
    for number, run in enumerate(runs):
        settings = _without_seeds(_settings(run))
        key = run.arm or (json.dumps(settings, sort_keys=True) if settings else number)
        groups.setdefault(key, []).append(number)
    named: dict[str, list[int]] = {}
    for members in groups.values():
        first = runs[members[0]]
        label = first.label
        if len(members) > 1:
            label = first.arm.label if first.arm else _SEED.sub("", label).strip(",_/ -") or "all seeds"
        named[untaken(label, named)] = members
    return named


def untaken(label: str, taken: Container[str]) -> str:
    """``label``, with as many primes as tell it from those that are taken."""
    while label in taken:
        label += "′"
    return label


def seed_of(run: RunFolder) -> str:
    """The seed of its job, or of its settings; empty where neither says."""
    return run.seed or str(_settings(run).get("seed", ""))


def _settings(run: RunFolder) -> Mapping[str, Any]:
    """What it was trained with, or else what its last system was evaluated with."""
    return run.training or (run.systems[-1].settings if run.systems else {})


def _without_seeds(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without the run's seed and its groups' own, which follow it; a built-in collection's makes another collection."""
    own = {key: value for key, value in settings.items() if key != "seed"}
    return {
        k: {n: v for n, v in node.items() if n != "seed"} if isinstance(node, dict) else node for k, node in own.items()
    }


def curves(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Lines for the page: ``panels``, and for each group of seeds every metric's mean, lowest and highest by step.

    More than a few lines have a panel for each metric, not four metrics of each in one. Where checkpoints on the way
    were measured on a benchmark, that is a curve, too.
    """
    lines = []
    for label, members in seed_groups(runs).items():
        for job, addition in _JOBS.items():
            logs = _logs([runs[number] for number in members], job)
            if logs:
                metrics = dict.fromkeys(name for log in logs for line in log for name in line if name != "step")
                series = {name: line for name in metrics if (line := _line(logs, name)) is not None}
                lines.append({"label": label + addition, "seeds": len(logs), "series": series})
    panels = [*_benchmark_panels(runs), *PANELS]
    if len(lines) > _FEW:
        panels = [one for title, metrics in panels for one in _one_each(title, metrics)]
    return {"panels": [{"title": title, "metrics": dict(metrics)} for title, metrics in panels], "lines": lines}


def _logs(runs: Sequence[RunFolder], job: str) -> list[list[Mapping[str, Any]]]:
    """One for each training: that of an arm's seed is the same one whichever benchmark a job looks at."""
    logs: dict[Hashable, list[Mapping[str, Any]]] = {}
    for number, run in enumerate(runs):
        if job in run.curves:
            log = logs.setdefault(run.seed if run.arm else number, list(run.curves[job]))
            if job == "train":
                log += _checkpoints(run)
    return list(logs.values())


def _checkpoints(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Lines of a log: each benchmark's mean before training, on the way, and at the end (of the checkpoint kept)."""
    last = max(int(line["step"]) for line in run.curves["train"])
    for benchmark in {one.benchmark: None for one in run.systems}:
        systems = {one.name: one for one in run.systems if one.benchmark == benchmark}
        steps = {name: way for name in systems if (way := on_its_way(name)) is not None}
        if steps:
            begun = "sft" if "sft" in systems else "base"
            at: dict[str, int] = {
                **({begun: 0} if begun in systems else {}),
                **{name: step for name, (_, step) in steps.items()},
                **{trained: last for trained, _ in steps.values() if trained in systems},
            }
            for name, step in at.items():
                yield {"step": step, f"{_BENCHMARK}{benchmark}": systems[name].mean}


def _benchmark_panels(runs: Sequence[RunFolder]) -> list[tuple[str, Mapping[str, str]]]:
    ways = [one for run in runs if "train" in run.curves for one in run.systems if on_its_way(one.name)]
    measures = {one.benchmark: heading(next(iter(one.values))) for one in ways}
    meaning = "on the way; the last point is the checkpoint that was kept"
    return [
        (f"{measure} on {name}, by checkpoint", {f"{_BENCHMARK}{name}": meaning}) for name, measure in measures.items()
    ]


def _one_each(title: str, metrics: Mapping[str, str]) -> list[tuple[str, Mapping[str, str]]]:
    if len(metrics) == 1:
        return [(title, metrics)]
    plain = title.lower()
    return [(title if metric == plain else f"{title}: {metric}", {name: metric}) for name, metric in metrics.items()]


def _line(logs: Sequence[Sequence[Mapping[str, Any]]], name: str) -> dict[str, list[float]] | None:
    """``None`` for what is no number anywhere."""
    at: dict[int, dict[int, float]] = {}
    for number, log in enumerate(logs):
        for line in log:
            value = line.get(name)
            if isinstance(value, (int, float)) and math.isfinite(value):
                # Logged again after a stop: the last counts.
                at.setdefault(int(line["step"]), {})[number] = float(value)
    if not at:
        return None
    steps = sorted(at)
    apart = -(-len(steps) // _MOST)
    steps = [step for place, step in enumerate(steps) if place % apart == 0 or place == len(steps) - 1]
    values = [list(at[step].values()) for step in steps]
    found: dict[str, list[float]] = {"steps": [*steps], "mean": [_short(fmean(one)) for one in values]}
    if len(logs) > 1:
        found |= {"low": [_short(min(one)) for one in values], "high": [_short(max(one)) for one in values]}
    return found


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
