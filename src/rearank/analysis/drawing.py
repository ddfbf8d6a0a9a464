"""The analyses as pictures, PNG for a look and SVG for a paper, drawn from the tables' rows.

No figure depends on colour alone: each system has a marker of its own, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rearank.evaluation import Cell
from rearank.pictures import COLOURS, GREY, panels, save

Rows: TypeAlias = Sequence[Mapping[str, Cell]]

_MARKERS = ("o", "s", "^", "D", "v", "P")
_COLOURS = COLOURS[: len(_MARKERS)]
_WIDTH, _HEIGHT = 9.6, 3.6  # inches of two panels


def draw_length(folder: Path, queries: Mapping[str, Rows], windows: Mapping[str, Rows], measure: str) -> list[Path]:
    """Two panels of ``length.bin_rows`` by system: whole rankings, and single windows."""
    figure, (left, right) = panels(2, _WIDTH, _HEIGHT)
    for axes, series in ((left, queries), (right, windows)):
        for number, (label, rows) in enumerate(series.items()):
            centres = [(_number(row, "from") + _number(row, "to")) / 2 for row in rows]
            _with_intervals(axes, centres, rows, "mean", number, label)
    right.axhline(0, color=GREY, linewidth=0.8)
    left.set(xlabel="mean tokens of a query's answers", ylabel=measure, title="whole rankings")
    right.set(xlabel="tokens of an answer", ylabel="change of nDCG@10", title="single windows")
    return _save(figure, folder / "length")


def draw_faithfulness(folder: Path, taus: Mapping[str, Rows], summary: Mapping[str, Mapping[str, Cell]]) -> list[Path]:
    """How tau-b is spread (``faithfulness.tau_rows``), and the shares of ``faithfulness_row``."""
    figure, (left, right) = panels(2, _WIDTH, _HEIGHT)
    shares = ("passages mentioned", "coverage", "best first", "contradicting", "contradicting, as given")
    height = 0.8 / max(len(taus), 1)
    for number, (label, rows) in enumerate(taus.items()):
        width = (_number(rows[0], "to") - _number(rows[0], "from")) * height
        starts = [_number(row, "from") + width * (number + 0.125) for row in rows]
        colour = _COLOURS[number % len(_COLOURS)]
        left.bar(starts, [_number(row, "share") for row in rows], width, align="edge", color=colour, label=label)
        places = [place + height * (number - (len(taus) - 1) / 2) for place in range(len(shares))]
        values = [_number(summary[label], share) for share in shares]
        right.barh(places, values, height * 0.95, color=colour, label=label)
        for place, value in zip(places, values, strict=True):
            right.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=7)
    left.set(xlabel="tau-b of implied and answered order", ylabel="share of answers", xlim=(-1.02, 1.02))
    right.set(yticks=range(len(shares)), yticklabels=shares, xlim=(0, 1.12), xlabel="mean over queries")
    right.invert_yaxis()
    return _save(figure, folder / "faithfulness")


def draw_position(
    folder: Path, ranks: Mapping[str, Rows], ndcgs: Mapping[str, Rows], yardstick: Mapping[str, Rows] | None = None
) -> list[Path]:
    """Final rank by initial position, and nDCG by initial order, of ``position``'s rows; ``yardstick``: more ranks."""
    figure, (left, right) = panels(2, _WIDTH, _HEIGHT)
    size = max((len(rows) for rows in ranks.values()), default=0)
    if size:
        left.plot([1, size], [1, size], ":", color=GREY, linewidth=1, label="order kept")
        left.plot([1, size], [(size + 1) / 2] * 2, "--", color=GREY, linewidth=1, label="place plays no part")
    for label, rows in (yardstick or {}).items():
        places = [_number(row, "initial position") for row in rows]
        left.plot(places, [_number(row, "mean rank") for row in rows], "-.", color=GREY, linewidth=1, label=label)
    for number, (label, rows) in enumerate(ranks.items()):
        _with_intervals(left, [_number(row, "initial position") for row in rows], rows, "mean rank", number, label)
    for number, (label, rows) in enumerate(ndcgs.items()):
        places = [place + 0.12 * (number - (len(ndcgs) - 1) / 2) for place in range(len(rows))]
        _with_intervals(right, places, rows, "nDCG after", number, label, line="none")
        right.set_xticks(range(len(rows)), [str(row["initial order"]).replace(" ", "\n", 1) for row in rows])
    left.set(xlabel="place in the window as shown", ylabel="mean rank in the answer")
    left.locator_params(axis="both", integer=True)
    left.invert_yaxis()
    right.set(ylabel="window nDCG@10 after")
    return _save(figure, folder / "position")


def draw_attack(folder: Path, rows: Rows) -> list[Path]:
    """Rank gain and success by attack, of ``attack_row`` with ``system``, ``attack`` and ``neutralise`` before it."""
    attacks = list(dict.fromkeys(str(row["attack"]) for row in rows))
    series = list(dict.fromkeys((str(row["system"]), str(row["neutralise"])) for row in rows))
    systems = list(dict.fromkeys(system for system, _ in series))
    figure, (left, right) = panels(2, _WIDTH, 1.2 + 0.45 * len(attacks))
    for number, (system, neutralised) in enumerate(series):
        shown = {str(r["attack"]): r for r in rows if (r["system"], r["neutralise"]) == (system, neutralised)}
        colour = _COLOURS[systems.index(system) % len(_COLOURS)]
        marker = _MARKERS[systems.index(system) % len(_MARKERS)]
        face = "white" if neutralised == "yes" else colour
        label = f"{system}, {'neutralised' if neutralised == 'yes' else 'verbatim'}"
        shift = 0.7 / len(series) * (number - (len(series) - 1) / 2)
        for axes, key in ((left, "gain"), (right, "success")):
            points = {attacks.index(name) + shift: row for name, row in shown.items() if row[key] is not None}
            x, spans = _spans(list(points.values()), key, f"{key} ")
            axes.errorbar(
                x, list(points), xerr=spans, fmt=marker, color=colour, markerfacecolor=face,
                markersize=5, elinewidth=1, label=label,
            )  # fmt: skip
    for axes in (left, right):
        axes.set_yticks(range(len(attacks)), attacks)
        axes.invert_yaxis()
    left.axvline(0, color=GREY, linewidth=0.8)
    left.set(xlabel="ranks gained by the attacked passage")
    right.set(xlabel="share brought to rank 1", xlim=(-0.03, 1.03), yticklabels=[])
    return _save(figure, folder / "attack")


def _with_intervals(
    axes: Any, x: Sequence[float], rows: Rows, key: str, number: int, label: str, line: str = "-"
) -> None:
    """One system's means with their intervals, hollow where there is none; rows without a mean are left out."""
    points = [(place, row) for place, row in zip(x, rows, strict=True) if row[key] is not None]
    if not points:
        return
    sure = [(place, row) for place, row in points if row["low"] is not None]
    style: dict[str, Any] = {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
    axes.plot(
        *([place for place, _ in points], [_number(row, key) for _, row in points]),
        **(style | {"linestyle": line, "linewidth": 1.2, "markersize": 5, "markerfacecolor": "white"}),
        label=None if sure else label,
    )
    axes.errorbar(
        *([place for place, _ in sure], *_spans([row for _, row in sure], key)),
        **(style | {"linestyle": "none", "markersize": 5, "elinewidth": 1, "capsize": 2}),
        label=label if sure else None,
    )


def _spans(rows: Rows, key: str, interval: str = "") -> tuple[list[float], list[list[float]]]:
    """Means, and how far their intervals reach below and above them."""
    means = [_number(row, key) for row in rows]
    below = [mean - _number(row, f"{interval}low") for mean, row in zip(means, rows, strict=True)]
    above = [_number(row, f"{interval}high") - mean for mean, row in zip(means, rows, strict=True)]
    return means, [below, above]


def _number(row: Mapping[str, Cell], key: str) -> float:
    value = row[key]
    return 0.0 if value is None or isinstance(value, str) else float(value)


def _save(figure: Any, stem: Path) -> list[Path]:
    """With one legend below the panels."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        found |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if found:
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return save(figure, stem)
