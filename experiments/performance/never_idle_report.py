"""The table and the figure of ``never_idle``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from rearank.evaluation import render_table


def report(data: Mapping[str, Any]) -> str:
    best = {name: min(row["seconds"]) for name, row in data["schemes"].items()}
    rows = [
        {
            "scheme": name,
            "seconds": ", ".join(f"{s:.1f}" for s in row["seconds"]),
            "occupancy": f"{fmean(row['occupancy']):.1f}",
            "steps": f"{fmean(row['steps']):,.0f}",
            "own CPU s": f"{min(row['own']):.1f}",
            "tokens/s": f"{row['tokens'][0] / min(row['seconds']):,.0f}",
            "over the floor": f"{best[name] / best['floor']:.2f}",
            "over ours": f"{best[name] / best['ours']:.2f}",
        }
        for name, row in data["schemes"].items()
    ]
    curve = [{"in flight": str(count), "tokens/s": f"{value:,.0f}"} for count, value in data["curve"].items()]
    return f"{render_table(rows)}\n\n{render_table(curve)}"


def draw(data: Mapping[str, Any], folder: Path) -> None:
    """The saturation curve with each scheme's own point on it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    counts, values = zip(*((int(c), v) for c, v in data["curve"].items()), strict=True)
    axes.plot(counts, values, marker="o", markersize=4, color="0.5", label="so many requests at all times")
    for name, row in data["schemes"].items():
        axes.plot(fmean(row["occupancy"]), row["tokens"][0] / min(row["seconds"]), "D", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("requests in vLLM's batch")
    axes.set_ylabel("tokens a second")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    for ending in ("png", "svg"):
        figure.savefig(folder / f"never_idle.{ending}", dpi=120)
