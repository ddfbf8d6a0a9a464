"""Training curves: runs that differ in their seed alone are one line with a band."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rearank.report.folder import RunFolder

_SEED = re.compile(r"(?:^|[,_/ -])seed[=_-]?\d+")
_MOST = 400  # points of a line
_DIGITS = 5
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
    """Label -> the runs (by place) that have it: one with every seed of the same settings."""
    groups: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        settings = {key: value for key, value in _settings(run).items() if key != "seed"}
        groups.setdefault(json.dumps(settings, sort_keys=True) if settings else str(number), []).append(number)
    named: dict[str, list[int]] = {}
    for members in groups.values():
        label = runs[members[0]].label
        if len(members) > 1:
            label = _SEED.sub("", label).strip(",_/ -") or "all seeds"
        while label in named:
            label += "′"
        named[label] = members
    return named


def _settings(run: RunFolder) -> Mapping[str, Any]:
    """What it was trained with, or else what its last system was evaluated with."""
    return run.training or (run.systems[-1].settings if run.systems else {})


def curves(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Lines for the page: ``panels``, and for each group of seeds every metric's mean, lowest and highest by step."""
    lines = []
    for label, members in seed_groups(runs).items():
        for job, addition in _JOBS.items():
            logs = [runs[number].curves[job] for number in members if job in runs[number].curves]
            if logs:
                metrics = dict.fromkeys(name for log in logs for line in log for name in line if name != "step")
                series = {name: line for name in metrics if (line := _line(logs, name)) is not None}
                lines.append({"label": label + addition, "seeds": len(logs), "series": series})
    panels = [{"title": title, "metrics": dict(metrics)} for title, metrics in PANELS]
    return {"panels": panels, "lines": lines}


def _line(logs: Sequence[Sequence[Mapping[str, Any]]], name: str) -> dict[str, list[float]] | None:
    """``None`` for what is no number anywhere."""
    at: dict[int, dict[int, float]] = {}
    for number, log in enumerate(logs):
        for line in log:
            value = line.get(name)
            if isinstance(value, (int, float)) and math.isfinite(value):
                at.setdefault(int(line["step"]), {})[number] = float(value)  # said again after a stop: the last counts
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
