"""``results.json`` -> the tables and the figure of a study's README, and the table of effects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

from results import GAIN, deciding_p
from studies import EFFECTS, HERE, ROOT, STUDIES, Effect, Study

BEGIN, END = "<!-- made by experiments/run.py from results.json -->", "<!-- end of what is made -->"
LEVEL = 0.05
MARGIN = 0.005
"""Half a point of nDCG@10: an effect whose interval lies within it is called none."""
_WHEN = {"early": "early", "end": "at the end"}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4d4d4d")  # Okabe and Ito's
_STYLES = ("-", "--", ":", "-.")


def stored(study: Study) -> dict[str, Any]:
    """What ``results.json`` says; raises ``FileNotFoundError`` where the study was not run."""
    found: dict[str, Any] = json.loads((study.folder / "results.json").read_text())
    return found


def sure(test: Mapping[str, Any]) -> bool:
    """Whether other trainings would show it, too: p over the seeds, corrected over the study's tests."""
    return test.get("holm") is not None and test["holm"] < LEVEL


def suggestive(test: Mapping[str, Any]) -> bool:
    """As ``sure``, without the correction."""
    p = deciding_p(test)
    return p is not None and p < LEVEL


def against(study: Study, benchmark: Mapping[str, Any], when: str, arm: str, other: str) -> dict[str, Any] | None:
    """The test of ``arm`` - ``other``; turned round where it was made of ``other`` - ``arm``."""
    for test in benchmark["tests"]:
        if test["when"] == when and {test["arm"], test["other"]} == {arm, other}:
            if test["arm"] == arm:
                return dict(test)
            low, high = test["interval_95"]
            by_seed = {seed: -value for seed, value in test["by_seed"].items()}
            return {**test, "difference": -test["difference"], "interval_95": [-high, -low], "by_seed": by_seed}
    return None


def study_table(study: Study, results: Mapping[str, Any]) -> str:
    """Every arm on every benchmark, and where it comes from."""
    parts = [_provenance(study, results)]
    for name, benchmark in results["benchmarks"].items():
        parts.append(_references(study, name, benchmark))
        parts.append("\n".join(_benchmark_lines(study, benchmark)))
    if study.trains:
        parts.append("What each arm was trained on (means of the seeds):")
        parts.append(windows_table(study, results))
    if study.name == "length":
        parts.append("\n".join(_length_lines(results)))
    parts.append(f"![{study.title}: {study.question}](figure.png)")
    return "\n\n".join(parts)


def _provenance(study: Study, results: Mapping[str, Any]) -> str:
    packages = results["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "trl") if name in packages)
    shared = results["taken_from_other_studies"]
    elsewhere = f", {shared} of them taken from other studies where the same job had been done" if shared else ""
    seeds = sorted({seed for arm in results["arms"].values() for seed in arm["seeds"]})
    return (
        f"`{results['command']}`: {results['jobs']} jobs{elsewhere}; seeds {', '.join(map(str, seeds))}; "
        f"{results['core_hours']:.2f} core-hours; commit {', '.join(results['commits'])}; Python {results['python']}, "
        f"{versions}."
    )


def _references(study: Study, name: str, benchmark: Mapping[str, Any]) -> str:
    given = benchmark["references"]
    low, high = benchmark["end"][study.baseline]["interval_95_over_queries"]
    return (
        f"`{name}`, {benchmark['queries']} test queries, nDCG@10; first stage (BM25) {given['first stage']:.4f}, ideal "
        f"order of its 20 candidates {given['ideal']:.4f}. Differences are to the first arm, whose 95% "
        f"interval over the queries is [{low:.4f}, {high:.4f}] at the end."
    )


def _benchmark_lines(study: Study, benchmark: Mapping[str, Any]) -> list[str]:
    whens = [when for when in _WHEN if when in benchmark and (study.trains or when == "end")]
    heads = {"early": f"early (step {benchmark['early_step']})", "end": "at the end" if study.trains else "nDCG@10"}
    columns = [f"{heads[when]} | difference | p (Holm)" for when in whens]
    if not study.trains:
        columns.append("calls a query | tokens a query | complete answers")
    count = sum(column.count("|") + 1 for column in columns)
    lines = [f"| arm | seeds | {' | '.join(columns)} |", f"|---|---:|{'---:|' * count}"]
    for arm, label in study.labels.items():
        seeds = len(benchmark["end"][arm]["seeds"])
        cells = [cell for when in whens for cell in _cells(study, benchmark, when, arm)]
        if not study.trains:
            answers = benchmark["answers"][arm]
            cells += [f"{answers['calls_a_query']:.1f}", f"{answers['tokens_a_query']:,.0f}"]
            cells.append(f"{answers['complete']:.1%}")
        lines.append(f"| {label} | {seeds} | {' | '.join(cells)} |")
    return lines


def _cells(study: Study, benchmark: Mapping[str, Any], when: str, arm: str) -> list[str]:
    """Mean and spread of the seeds, difference with its interval, p."""
    if (row := benchmark[when].get(arm)) is None:
        return ["", "", ""]
    spread = f" ± {row['sd_of_seeds']:.4f}" if row["sd_of_seeds"] is not None else ""
    test = against(study, benchmark, when, arm, study.baseline) if arm != study.baseline else None
    if test is None:
        return [f"{row['mean']:.4f}{spread}", "", ""]
    low, high = test["interval_95"]
    difference = f"{test['difference']:+.4f}{'*' if sure(test) else ''} [{low:+.4f}, {high:+.4f}]"
    p = deciding_p(test)
    return [f"{row['mean']:.4f}{spread}", difference, "" if p is None else f"{_p(p)} ({_p(test['holm'])})"]


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< .001"


def windows_table(study: Study, results: Mapping[str, Any]) -> str:
    """What the training windows of each arm were; for studies whose arms draw other windows."""
    lines = [
        "| arm | training windows | nDCG@10 to gain | with nothing to gain | groups without spread |",
        f"|---|{'---:|' * 4}",
    ]
    for arm, label in study.labels.items():
        given = results["arms"][arm]
        if "reachable_gain" in given:
            shares = (given["windows_with_nothing_to_gain"], given.get("groups_without_spread"))
            cells = [f"{given['training_windows']:,.0f}", f"{given['reachable_gain']:.4f}"]
            cells += [f"{share:.1%}" if share is not None else "" for share in shares]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _length_lines(results: Mapping[str, Any]) -> list[str]:
    lines = [
        "| seed | of | rankings or windows | mean tokens | Spearman's rho | 95% interval | rho within queries |",
        "|---:|---|---:|---:|---:|---|---:|",
    ]
    for seed, benchmarks in results["analysis"].items():
        for analysis in benchmarks.values():
            for row in analysis["tables"]["length"]:
                rho = row["Spearman's rho"]
                interval = f"[{row['low']:+.3f}, {row['high']:+.3f}]" if rho is not None else ""
                shown = f"{rho:+.3f}" if rho is not None else ""
                cells = [seed, row["unit"], f"{row['points']:,}", f"{row['mean tokens']:.1f}", shown, interval]
                within = row["rho within queries"]
                lines.append(f"| {' | '.join(cells)} | {'' if within is None else f'{within:+.3f}'} |")
    return lines


def effects_table() -> str:
    """The direction of each effect: the paper's and ours."""
    lines = [
        "| effect | paper (TREC-DL / BEIR / BRIGHT) | ours, early | ours, at the end | the paper's direction? |",
        "|---|---|---|---|---|",
    ]
    for effect in EFFECTS:
        study = next(one for one in STUDIES if one.name == effect.study)
        if not (study.folder / "results.json").is_file():
            continue
        benchmark = stored(study)["benchmarks"][effect.benchmark]
        found = {when: against(study, benchmark, when, effect.arm, effect.other) for when in _WHEN if when in benchmark}
        tests = {when: test for when, test in found.items() if test is not None}
        shown = [_points(tests[when]) if when in tests and (study.trains or when == "end") else "" for when in _WHEN]
        link = f"[{effect.what}](experiments/{effect.study}/README.md)"
        lines.append(f"| {link} | {effect.paper} | {' | '.join(shown)} | {verdict(effect, tests)} |")
    lines.append(_length_effect())
    return "\n".join(line for line in lines if line)


def _points(test: Mapping[str, Any]) -> str:
    """In points, as the paper prints them."""
    low, high = (100 * end for end in test["interval_95"])
    return f"{100 * test['difference']:+.2f}{'*' if sure(test) else ''} [{low:+.2f}, {high:+.2f}]"


def verdict(effect: Effect, tests: Mapping[str, Mapping[str, Any]]) -> str:
    """In words, by the end of training and, where it shows nothing, by the early checkpoint."""
    end, early = tests["end"], tests.get("early")
    low, high = end["interval_95"]
    none = "none within half a point" if low >= -MARGIN and high <= MARGIN else "can't tell"
    if effect.direction == 0:
        better = "better" if end["difference"] > 0 else "worse"
        return f"{_how_sure(end)}no, {better}" if suggestive(end) else none.replace("none", "yes, none")
    if suggestive(end):
        return _how_sure(end) + _same(effect, end)
    if early is not None and suggestive(early):
        return f"{_how_sure(early)}{_same(effect, early)}, early alone"
    return none


def _how_sure(test: Mapping[str, Any]) -> str:
    return "" if sure(test) else "suggestive: "


def _same(effect: Effect, test: Mapping[str, Any]) -> str:
    return "yes" if (test["difference"] > 0) == (effect.direction > 0) else "no, the opposite"


def _length_effect() -> str:
    study = next(one for one in STUDIES if one.name == "length")
    if not (study.folder / "results.json").is_file():
        return ""
    rows = [
        row
        for benchmarks in stored(study)["analysis"].values()
        for analysis in benchmarks.values()
        for row in analysis["tables"]["length"]
        if row["unit"] == "query" and row["Spearman's rho"] is not None
    ]
    if not rows:
        return ""
    values = [row["Spearman's rho"] for row in rows]
    ends = [(row["low"], row["high"]) for row in rows]
    text = f"rho {min(values):+.2f} to {max(values):+.2f} ({len(values)} seeds)"
    clear = sum(low > 0 or high < 0 for low, high in ends)
    said = f"no: {clear} of {len(rows)} intervals exclude 0" if clear else "can't tell"
    if not clear and all(low > -0.2 and high < 0.2 for low, high in ends):
        said = "yes, none beyond a rho of .2"
    return (
        f"| [longer reasoning, trained](experiments/length/README.md) | no clear trend (Figure 6) | | {text} | {said} |"
    )


def index_table() -> str:
    """Of ``experiments/README.md``: every study and what was found surely, suggestively, or not."""
    lines = ["| study | question | differs from the baseline | jobs | core-hours |", "|---|---|---|---:|---:|"]
    for study in STUDIES:
        if not (study.folder / "results.json").is_file():
            continue
        found = stored(study)
        head = f"[{study.title}]({study.name}/README.md) | {study.question}"
        lines.append(f"| {head} | {_differs(study, found)} | {found['jobs']} | {found['core_hours']:.2f} |")
    return "\n".join(lines)


def _differs(study: Study, results: Mapping[str, Any]) -> str:
    """The arms that differ at the end, on the first benchmark; an asterisk on those that surely do."""
    if not results["benchmarks"]:
        return ""
    benchmark = next(iter(results["benchmarks"].values()))
    tests = [
        (arm, against(study, benchmark, "end", arm, study.baseline)) for arm in study.labels if arm != study.baseline
    ]
    told = [(arm, test) for arm, test in tests if test is not None and suggestive(test)]
    words = [f"{study.labels[arm]} {test['difference']:+.4f}{'*' if sure(test) else ''}" for arm, test in told]
    return f"from {study.labels[study.baseline]}: {'; '.join(words) if words else 'none, as far as can be told'}"


def put(path: Path, text: str) -> None:
    """Between the markers of ``path``; raises ``ValueError`` where it has none."""
    content = path.read_text()
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise ValueError(f"{path} needs the lines {BEGIN!r} and {END!r} once each")
    before, _, rest = content.partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")


def made(path: Path) -> str:
    """What stands between the markers."""
    return path.read_text().partition(BEGIN)[2].partition(END)[0].strip()


def render(studies: Sequence[Study]) -> None:
    """Tables and figures of ``studies``, then the tables that are about all of them."""
    for study in studies:
        results = stored(study)
        put(study.folder / "README.md", study_table(study, results))
        draw(study, results)
    put(HERE / "README.md", index_table())
    put(ROOT / "README.md", effects_table())


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
            label = f"{title}, {_WHEN[when]}" if "early" in benchmark else title
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
        label: str | None = _WHEN[when] if study.trains else None
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
