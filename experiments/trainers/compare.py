"""Two trainers side by side: their curves as a picture, their held-out results as a table.

    python experiments/trainers/compare.py outputs/trainers/trl-* outputs/trainers/verl-* --out experiments/trainers

A run's trainer is read from its settings; runs of the same trainer are its seeds.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rearank.tracking import read_jsonl

_PANELS = (
    ("train/reward/total", "reward of sampled answers"),
    ("val/ndcg@10", "nDCG@10 on validation windows, greedy"),
    ("rollout/length", "tokens an answer"),
    ("train/entropy", "entropy, nats a token"),
)
_COLOURS = {"TRL": "tab:orange", "verl": "tab:blue"}


def trainer_of(run: Path) -> str:
    """``TRL`` or ``verl``, by the class in its settings."""
    target = json.loads((run / "training" / "settings.json").read_text())["trainer"]["_target_"]
    return "verl" if target.endswith("VerlTrainer") else "TRL"


def series(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """(step, value) of a figure."""
    return [(line["step"], line[name]) for line in lines if name in line]


def draw(runs: Mapping[str, Sequence[Path]], out: Path) -> None:
    """One panel a figure, one line a run, as PNG and SVG."""
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for trainer, folders in runs.items():
            for number, folder in enumerate(folders):
                points = series(read_jsonl(folder / "training" / "train.jsonl"), name)
                label = trainer if not number else None
                axes.plot(*zip(*points, strict=True), color=_COLOURS[trainer], label=label, alpha=0.8, linewidth=1.3)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    for ending in (".png", ".svg"):
        figure.savefig(out / f"curves{ending}", dpi=130)


def table(runs: Mapping[str, Sequence[Path]]) -> str:
    """A line a run: steps' rewards at both ends, validation, and the held-out benchmark."""
    lines = [
        "| trainer | seed | reward, first 5 steps | last 5 | validation nDCG@10, before | best | test nDCG@10, BM25 "
        "| base | trained | difference to base | p (t-test) |",
        f"|{'---|' * 11}",
    ]
    for trainer, folders in runs.items():
        for folder in folders:
            curve = read_jsonl(folder / "training" / "train.jsonl")
            rewards = [value for _, value in series(curve, "train/reward/total")]
            validation = [value for _, value in series(curve, "val/ndcg@10")]
            summary = json.loads((folder / "summary.json").read_text())
            cells = [
                trainer,
                str(summary["seed"]),
                f"{fmean(rewards[:5]):.3f}",
                f"{fmean(rewards[-5:]):.3f}",
                *(f"{value:.4f}" for value in (validation[0], max(validation))),
                *(f"{summary[name]:.4f}" for name in ("bm25", "base", "grpo")),
                f"{summary['test']['mean_difference']:+.4f}",
                f"{summary['p_value']:.1g}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def means(runs: Mapping[str, Sequence[Path]]) -> str:
    """Mean and spread over seeds of what was held out."""
    lines = []
    for trainer, folders in runs.items():
        values = [json.loads((folder / "summary.json").read_text())["grpo"] for folder in folders]
        spread = f", standard deviation {stdev(values):.4f}" if len(values) > 1 else ""
        lines.append(f"{trainer}: mean of {len(values)} seeds {fmean(values):.4f}{spread}")
    return "; ".join(lines) + "."


def main() -> None:
    """Runs in, picture and table out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    runs: dict[str, list[Path]] = defaultdict(list)
    for run in given.runs:
        runs[trainer_of(run)].append(run)
    draw(runs, given.out)
    text = f"{table(runs)}\n\n{means(runs)}"
    (given.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
