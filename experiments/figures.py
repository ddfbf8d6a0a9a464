"""``results.json`` -> the figure of a study's README."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from textwrap import wrap
from typing import Any

from results import GAIN
from studies import Study
from tables import WHEN, against

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4d4d4d")  # Okabe and Ito's
_STYLES = ("-", "--", ":", "-.")


def draw(study: Study, results: Mapping[str, Any]) -> None:
    """``figure.png`` and ``figure.svg``: curves, or nDCG@10 against a number; and every arm's difference by seed."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "rearank"  # the same data writes the same bytes
    panels: list[Any] = []
    if study.trains and study.curves:
        panels.append(lambda axes: _draw_curves(axes, study, results, GAIN, "validation nDCG@10 gained"))
    if study.lengths:
        panels.append(lambda axes: _draw_curves(axes, study, results, "rollout/length", "tokens an answer"))
    names = list(results["benchmarks"])
    if study.across:
        panels.append(lambda axes: _draw_across(axes, study, results["benchmarks"][names[0]]))
    if results["analysis"]:
        panels.append(lambda axes: _draw_length(axes, results))
    if len(study.labels) > 1:
        panels += [
            partial(_draw_differences, study=study, benchmark=results["benchmarks"][name], name=name) for name in names
        ]
    height = max(4.0, 0.42 * len(study.labels) + 1.6)
    figure = Figure(figsize=(6.2 * len(panels), height), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axes)
    for ending in ("png", "svg"):
        metadata = {"Date": None} if ending == "svg" else {}
        figure.savefig(study.folder / f"figure.{ending}", dpi=110, metadata=metadata)


def _draw_curves(axes: Any, study: Study, results: Mapping[str, Any], name: str, label: str) -> None:
    for number, (arm, title) in enumerate(study.labels.items()):
        series = results["curves"].get(arm, {}).get(name)
        if not series:
            continue
        steps = [int(step) for step in series]
        mean, low, high = zip(*series.values(), strict=True)
        colour, style = _COLOURS[number % len(_COLOURS)], _STYLES[number % len(_STYLES)]
        axes.plot(steps, mean, style, color=colour, label=title, linewidth=1.4)
        axes.fill_between(steps, low, high, color=colour, alpha=0.06, linewidth=0)
    axes.set(xlabel="step (bands: lowest to highest seed)", ylabel=label)
    axes.grid(alpha=0.3)
    _legend_below(axes)


def _legend_below(axes: Any) -> None:
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)


def _draw_across(axes: Any, study: Study, benchmark: Mapping[str, Any]) -> None:
    for number, (title, arms) in enumerate(study.across.items()):
        for when, style in (("early", "--"), ("end", "-")):
            if when not in benchmark:
                continue
            rows = [benchmark[when][arm] for arm in arms]
            below = [row["mean"] - min(row["seeds"].values()) for row in rows]
            above = [max(row["seeds"].values()) - row["mean"] for row in rows]
            label = f"{title}, {WHEN[when]}" if "early" in benchmark else title
            drawn = {"fmt": f"o{style}", "color": _COLOURS[number], "label": label, "capsize": 3, "markersize": 4}
            axes.errorbar(list(arms.values()), [row["mean"] for row in rows], [below, above], **drawn)
    values = sorted({value for arms in study.across.values() for value in arms.values()})
    if values[-1] / values[0] > 10:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set(xlabel=f"{study.axis} (bars: lowest to highest seed)", ylabel="nDCG@10")
    axes.grid(alpha=0.3)
    _legend_below(axes)


def _draw_length(axes: Any, results: Mapping[str, Any]) -> None:
    for number, (seed, benchmarks) in enumerate(results["analysis"].items()):
        for analysis in benchmarks.values():
            for rows in analysis["curves"]["length_query"].values():
                rows = [row for row in rows if row["points"]]
                centres = [(row["from"] + row["to"]) / 2 for row in rows]
                sizes = [6 + row["points"] ** 0.5 for row in rows]
                axes.plot(centres, [row["mean"] for row in rows], "-", color=_COLOURS[number], label=f"seed {seed}")
                axes.scatter(centres, [row["mean"] for row in rows], s=sizes, color=_COLOURS[number])
    axes.set(xlabel="tokens an answer, mean of a ranking (20 bins of equal width)", ylabel="nDCG@10")
    axes.grid(alpha=0.3)
    _legend_below(axes)


def _draw_differences(axes: Any, study: Study, benchmark: Mapping[str, Any], name: str) -> None:
    """A band an arm: each seed's difference to the baseline, their mean and its interval."""
    arms = [arm for arm in study.labels if arm != study.baseline][::-1]
    for place in range(0, len(arms), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="#000000", alpha=0.05, linewidth=0)
    shown = (("early", 0.17, "#E69F00"), ("end", -0.17, "#0072B2")) if study.trains else (("end", 0.0, "#0072B2"),)
    for when, offset, colour in shown:
        label: str | None = WHEN[when] if study.trains else None
        for place, arm in enumerate(arms):
            if when not in benchmark or (test := against(study, benchmark, when, arm, study.baseline)) is None:
                continue
            low, high = test["interval_95"]
            y = place + offset
            axes.plot([low, high], [y, y], color=colour, linewidth=1.6)
            axes.scatter([test["difference"]], [y], s=30, color=colour, zorder=3, label=label)
            axes.scatter(list(test["by_seed"].values()), [y] * len(test["by_seed"]), s=7, color="#222222", zorder=4)
            label = None
    axes.axvline(0, color="#4d4d4d", linewidth=0.8)
    axes.set_yticks(range(len(arms)), ["\n".join(wrap(study.labels[arm], 30)) for arm in arms], fontsize=7)
    axes.set_ylim(-0.5, len(arms) - 0.5)
    axes.set(xlabel=f"nDCG@10 on {name}, less that of: {study.labels[study.baseline]}\n(small dots: seeds; line: 95%)")
    axes.grid(alpha=0.3, axis="x")
    if study.trains:
        axes.legend(fontsize=7)
