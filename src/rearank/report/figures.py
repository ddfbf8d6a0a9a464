"""The report's figures as PNG for a look and SVG for a paper: curves, change by query, how answers were read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rearank.evaluation import bootstrap_interval
from rearank.pictures import COLOURS, GREY, panels, save

_IN_AXES = 6  # lines whose legend leaves room for them
_STYLES = ("-", "--", ":", "-.")
_BETTER, _WORSE = COLOURS[:2]
_WIDTH, _HEIGHT = 6.0, 3.5  # inches
_LONGEST = 60  # characters of a label in a file's name
_STATUS_COLOURS = {
    "ok": "#0072B2", "partial": "#56B4E9", "duplicates": "#009E73", "out_of_range": "#E69F00",
    "no_answer_tag": "#D55E00", "unclosed_think": "#CC79A7", "empty": "#4d4d4d",
}  # fmt: skip


def draw_curves(curves: Mapping[str, Any], folder: Path) -> list[Path]:
    """A figure for each panel that has data; a band from the lowest to the highest seed."""
    written = []
    for panel in curves["panels"]:
        shown = [
            (line, name, title)
            for line in curves["lines"]
            for name, title in panel["metrics"].items()
            if name in line["series"]
        ]
        if shown:
            written += _draw_panel(panel["title"], shown, folder)
    return written


def _draw_panel(title: str, shown: Sequence[tuple[Mapping[str, Any], str, str]], folder: Path) -> list[Path]:
    labels = list(dict.fromkeys(line["label"] for line, _, _ in shown))
    names = list(dict.fromkeys(name for _, name, _ in shown))
    below = -(-len(shown) // 2) if len(shown) > _IN_AXES else 0  # rows of a legend that would cover the lines
    figure, (axes,) = panels(1, _WIDTH, _HEIGHT + 0.17 * below)
    for line, name, metric in shown:
        series = line["series"][name]
        run, kind = labels.index(line["label"]), names.index(name)
        # Several runs: colours tell them apart and dashes the metrics; one run: colours tell the metrics apart.
        colour = COLOURS[(run if len(labels) > 1 else kind) % len(COLOURS)]
        dashes = run // len(COLOURS) if len(names) == 1 else kind
        style = _STYLES[(dashes if len(labels) > 1 else 0) % len(_STYLES)]
        label = f"{line['label']}: {metric}" if len(labels) > 1 and len(names) > 1 else line["label"]
        label = label if len(labels) > 1 else metric
        marker = "o" if len(series["steps"]) < 12 else None
        axes.plot(
            *(series["steps"], series["mean"], style),
            **{"color": colour, "label": _plain(label), "marker": marker, "markersize": 4},
            linewidth=1.6 + 1.2 * min(4, len(labels) - 1 - run),  # an equal one above hides none
        )
        if "low" in series:
            axes.fill_between(series["steps"], series["low"], series["high"], color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="step", ylabel=title)
    if below:
        figure.legend(fontsize=7, frameon=False, ncols=2, loc="outside lower center")
    else:
        axes.legend(fontsize=7, frameon=False)
    return save(figure, folder / f"curve_{_file_name(title)}")


def draw_change(benchmark: str, a: tuple[str, Mapping[str, float]], b: tuple[str, Mapping[str, float]],
                measure: str, folder: Path) -> list[Path]:  # fmt: skip
    """Each query's change from ``a`` to ``b`` (label, query -> value), sorted, with the mean and its 95% interval."""
    shared = sorted(a[1].keys() & b[1].keys())
    changes = sorted((b[1][query] - a[1][query] for query in shared), reverse=True)
    if not changes:
        return []
    figure, (axes,) = panels(1, _WIDTH, _HEIGHT)
    colours = [_BETTER if change > 0 else _WORSE for change in changes]
    axes.bar(range(1, len(changes) + 1), changes, width=1.0, color=colours, linewidth=0)
    mean = sum(changes) / len(changes)
    low, high = bootstrap_interval(changes)
    axes.axhspan(low, high, color=GREY, alpha=0.25, linewidth=0)
    axes.axhline(mean, color="black", linewidth=1, label=f"mean {mean:+.4f}, 95% interval {low:+.4f} to {high:+.4f}")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(xlabel=f"{len(changes)} queries of {benchmark}, by change", ylabel=f"change of {measure}")
    axes.set_title(_plain(f"{b[0]} against {a[0]}"), fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return save(figure, folder / f"change_{_file_name(benchmark)}_{_file_name(b[0])}")


def draw_statuses(benchmark: str, counts: Mapping[str, Mapping[str, float]], folder: Path) -> list[Path]:
    """Shares of parse statuses by system."""
    shown = {_plain(label): found for label, found in counts.items() if sum(found.values())}
    if not shown:
        return []
    longest = max(map(len, shown))
    figure, (axes,) = panels(1, max(_WIDTH, 4.0 + 0.07 * longest), 1.0 + 0.3 * len(shown))
    left = dict.fromkeys(shown, 0.0)
    for status, colour in _STATUS_COLOURS.items():
        shares = {label: found.get(status, 0) / sum(found.values()) for label, found in shown.items()}
        if any(shares.values()):
            axes.barh(list(shown), list(shares.values()), left=list(left.values()), color=colour, label=status)
            left = {label: left[label] + share for label, share in shares.items()}
    axes.set(xlabel=f"share of answers, {benchmark}", xlim=(0, 1))
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    figure.legend(fontsize=7, frameon=False, ncols=4, loc="outside upper right")
    return save(figure, folder / f"statuses_{_file_name(benchmark)}")


def _plain(text: str) -> str:
    """A dollar is a dollar, not the start of mathematics."""
    return text.replace("$", r"\$")


def _file_name(text: str) -> str:
    """A hash tells long ones apart."""
    name = "".join(c if c.isalnum() else "_" for c in text.lower()).strip("_")
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 9]}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
