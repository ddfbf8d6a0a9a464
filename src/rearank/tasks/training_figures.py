"""Curves of a training as pictures, PNG for a look and SVG for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rearank.tracking import read_jsonl

_FIGURES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "reward": (
        "reward",
        {
            "train/reward/total": "reward",
            "train/reward/rank": "rank term",
            "train/reward/format_list": "list format",
        },
    ),
    "ndcg": ("nDCG@10", {"rollout/ndcg@10": "sampled answers", "val/ndcg@10": "validation, greedy"}),
    "length": (
        "tokens an answer",
        {"rollout/length": "mean", "rollout/length_max": "longest", "val/length": "validation"},
    ),
}


def draw_curves(curves: Path, folder: Path) -> list[Path]:
    """One figure each for reward, nDCG and answer length; figures without data are left out."""
    lines = read_jsonl(curves)
    drawn = []
    for name, (label, series) in _FIGURES.items():
        found = {title: _series(lines, key) for key, title in series.items()}
        found = {title: points for title, points in found.items() if points}
        if found:
            drawn += _draw(folder / name, label, found)
    return drawn


def _series(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return sorted({line["step"]: line[key] for line in lines if key in line}.items())


def _draw(path: Path, label: str, series: Mapping[str, Sequence[tuple[int, float]]]) -> list[Path]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for title, points in series.items():
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=title, marker="o" if len(points) < 12 else None, markersize=4)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_suffix(ending) for ending in (".png", ".svg")]
    for file in written:
        figure.savefig(file, dpi=150)
    return written
