"""What all figures share: colours, panels, and files that come out the same, byte for byte, from the same data.

The colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4d4d4d")
GREY = "#6b6b6b"


def panels(count: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure of ``width`` by ``height`` inches with ``count`` plots side by side, each with a light grid."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    plots = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in plots:
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, plots


def save(figure: Any, stem: Path) -> list[Path]:
    """``<stem>.png`` for a look and ``<stem>.svg`` for a paper; the folder is made where it is missing."""
    import matplotlib

    stem.parent.mkdir(parents=True, exist_ok=True)
    written = [stem.with_name(f"{stem.name}{ending}") for ending in (".png", ".svg")]
    with matplotlib.rc_context({"svg.hashsalt": stem.name}):
        figure.savefig(written[0], dpi=150)
        figure.set_layout_engine("none")  # where things lie is known now, and finding it out takes half the time
        figure.savefig(written[1], metadata={"Date": None})
    return written
