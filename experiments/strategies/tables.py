"""results.json -> table.md and figure: means, differences to the sliding window, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from rearank.evaluation import bootstrap_interval, holm, paired_test

BASELINE = "sliding_window"
_QUALITIES = ("good", "medium", "poor")
_LEVEL = 0.05
_BEGIN, _END = "<!-- tables: made by tables.py from results.json -->", "<!-- end of tables -->"


def against(arms: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[float, tuple[float, float], float]]:
    """label -> (mean difference to the baseline, its 95% interval, p after Holm's correction within this column)."""
    base = arms[BASELINE]
    others = [label for label in arms if label != BASELINE]
    tests = [paired_test(base, arms[label]) for label in others]
    corrected = holm([test.p_randomisation for test in tests])
    return {
        label: (
            test.mean_difference,
            bootstrap_interval([arms[label][query] - base[query] for query in sorted(base)]),
            p,
        )
        for label, test, p in zip(others, tests, corrected, strict=True)
    }


def _cell(values: Mapping[str, float], compared: tuple[float, tuple[float, float], float] | None) -> str:
    mean = fmean(values.values())
    if compared is None:
        low, high = bootstrap_interval(list(values.values()))
        return f"{mean:.4f} [{low:.4f}, {high:.4f}]"
    difference, (low, high), p = compared
    return f"{mean:.4f} ({difference:+.4f}{'*' if p < _LEVEL else ''} [{low:+.4f}, {high:+.4f}])"


def _count(value: float) -> str:
    return f"{value:,.0f}" if abs(value - round(value)) < 0.005 else f"{value:,.1f}"


def _range(values: list[float]) -> str:
    low, high = _count(min(values)), _count(max(values))
    return low if low == high else f"{low}-{high}"


def oracle_table(part: Mapping[str, Any]) -> list[str]:
    """A line a strategy; calls, chain and words are means a query, from the best oracle to the worst."""
    columns = {q: {label: arm["noise"][q]["ndcg"] for label, arm in part["arms"].items()} for q in _QUALITIES}
    compared = {quality: against(column) for quality, column in columns.items()}
    heads = " | ".join(f"nDCG@10, {q} oracle (noise {part['noises'][q]})" for q in _QUALITIES)
    lines = [f"| strategy | calls | chain | words read + written | {heads} |", f"|---|---:|---:|---:|{'---|' * 3}"]
    for label, arm in part["arms"].items():
        of = [arm["noise"][quality] for quality in _QUALITIES]
        words = round(fmean(one["prompt_tokens"] + one["completion_tokens"] for one in of))
        cells = [_cell(columns[q][label], compared[q].get(label)) for q in _QUALITIES]
        figures = [
            _range([one["calls"] for one in of]),
            _range([one["chain"] for one in of]),
            _count(words),
        ]
        lines.append(f"| {label} | {' | '.join(figures + cells)} |")
    return lines


def tiny_table(part: Mapping[str, Any]) -> list[str]:
    """A line a strategy, with how often an answer could be read."""
    columns = {label: arm["ndcg"] for label, arm in part["arms"].items()}
    compared = against(columns)
    lines = [
        "| strategy | calls | chain | tokens read + written | answers as asked | naming nothing | cut at the limit | "
        "nDCG@10 |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for label, arm in part["arms"].items():
        total = sum(arm["statuses"].values())
        shares = [
            arm["statuses"].get("ok", 0) / total,
            arm["unparsed"] / arm["calls"],
            arm["cut_answers"] / arm["calls"],
        ]
        figures = [
            _count(arm["calls"]),
            _count(arm["chain"]),
            _count(round(arm["prompt_tokens"] + arm["completion_tokens"])),
        ]
        cells = [*figures, *(f"{share:.1%}" for share in shares), _cell(columns[label], compared.get(label))]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def short_table(results: Mapping[str, Any]) -> list[str]:
    """For the project's README: means alone; an asterisk where the difference to the sliding window is sure."""
    oracles, tiny = results["oracles"], results["tiny"]
    columns = {q: {label: arm["noise"][q]["ndcg"] for label, arm in oracles["arms"].items()} for q in _QUALITIES}
    columns["tiny"] = {label: arm["ndcg"] for label, arm in tiny["arms"].items()}
    compared = {name: against(column) for name, column in columns.items()}

    def value(name: str, label: str) -> str:
        if label not in columns[name]:
            return ""
        sure = label != BASELINE and compared[name][label][2] < _LEVEL
        return f"{fmean(columns[name][label].values()):.4f}{'*' if sure else ''}"

    lines = [
        "| strategy | calls | chain | words | good oracle | medium | poor | tiny: calls | chain | tokens | nDCG@10 |",
        f"|---|{'---:|' * 10}",
    ]
    for label in dict.fromkeys((*oracles["arms"], *tiny["arms"])):
        row = [label]
        if label in oracles["arms"]:
            of = [oracles["arms"][label]["noise"][quality] for quality in _QUALITIES]
            words = fmean(one["prompt_tokens"] + one["completion_tokens"] for one in of)
            row += [_range([one["calls"] for one in of]), _range([one["chain"] for one in of]), _count(round(words))]
        else:
            row += [""] * 3
        row += [value(quality, label) for quality in _QUALITIES]
        if label in tiny["arms"]:
            arm = tiny["arms"][label]
            tokens = arm["prompt_tokens"] + arm["completion_tokens"]
            row += [_count(arm["calls"]), _count(arm["chain"]), _count(round(tokens)), value("tiny", label)]
        else:
            row += [""] * 4
        lines.append(f"| {' | '.join(row)} |")
    return lines


def draw(results: Mapping[str, Any], out: Path) -> None:
    """nDCG@10 against calls (size: chain), one panel an oracle and one for the small model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    oracles, tiny = results["oracles"], results["tiny"]
    panels = [
        (f"{quality} oracle, noise {oracles['noises'][quality]}",
         {label: arm["noise"][quality] for label, arm in oracles["arms"].items()}, oracles)
        for quality in _QUALITIES
    ] + [("small model, trained", tiny["arms"], tiny)]  # fmt: skip
    figure = Figure(figsize=(13, 8.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, arms, part) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for number, (label, arm) in enumerate(arms.items()):
            value, colour = fmean(arm["ndcg"].values()), f"C{number % 10}"
            axes.scatter(arm["calls"], value, s=20 + 2.5 * arm["chain"], color=colour, alpha=0.6)
            axes.annotate(label, (arm["calls"], value), fontsize=6.5, xytext=(4, 4), textcoords="offset points")
        for name, style in (("first_stage", ":"), ("ideal", "--")):
            axes.axhline(fmean(part[name].values()), color="grey", linestyle=style, linewidth=1, label=name)
        axes.set_xscale("log")
        axes.margins(x=0.3)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("calls a query (area: the longest chain)")
        axes.set_ylabel("nDCG@10")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7, loc="center right")
    figure.savefig(out / "strategies.png", dpi=120)


def write(results: Mapping[str, Any], out: Path) -> None:
    """table.md, the README's tables, strategies.png, and the tables on screen; what is not measured yet is left out."""
    lines: list[str] = []
    if oracles := results.get("oracles"):
        first, ideal = (fmean(oracles[name].values()) for name in ("first_stage", "ideal"))
        lines += [
            f"{oracles['data']}, {oracles['queries']} queries, BM25's first {oracles['depth']} ({first:.4f}; their "
            f"best order {ideal:.4f}), mean of seeds {', '.join(map(str, oracles['seeds']))}, "
            f"commit {oracles['commit']}",
            "",
            *oracle_table(oracles),
            "",
        ]
    if tiny := results.get("tiny"):
        first, ideal = (fmean(tiny[name].values()) for name in ("first_stage", "ideal"))
        lines += [
            f"Trained small model, built-in collection, {tiny['queries']} test queries, BM25's first {tiny['depth']} "
            f"({first:.4f}; their best order {ideal:.4f}), commit {tiny['commit']}",
            "",
            *tiny_table(tiny),
            "",
        ]
    if oracles and tiny:
        lines += ["In short:", "", *short_table(results), ""]
        draw(results, out)
    text = "\n".join(lines)
    (out / "table.md").write_text(text)
    readme = out / "README.md"
    if readme.is_file():
        before, _, rest = readme.read_text().partition(_BEGIN)
        _, _, after = rest.partition(_END)
        readme.write_text(f"{before}{_BEGIN}\n\n{text}\n{_END}{after}")
    print(text)
