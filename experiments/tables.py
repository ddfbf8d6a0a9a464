"""``results.json`` -> the tables and the figure of a study's README, and the table of effects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results import GAIN
from studies import EFFECTS, HERE, ROOT, STUDIES, Effect, Study

BEGIN, END = "<!-- made by experiments/run.py from results.json -->", "<!-- end of what is made -->"
LEVEL = 0.05
_WHEN = {"half_way": "half-way", "end": "at the end"}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4d4d4d")  # Okabe and Ito's
_STYLES = ("-", "--", ":", "-.")


def stored(study: Study) -> dict[str, Any]:
    """What ``results.json`` says; raises ``FileNotFoundError`` where the study was not run."""
    found: dict[str, Any] = json.loads((study.folder / "results.json").read_text())
    return found


def sure(test: Mapping[str, Any]) -> bool:
    """Whether both say so: the queries (Holm's correction over the study's arms, where there is one) and the seeds."""
    by_query = test.get("holm", test["p_randomisation"]) < LEVEL
    return bool(by_query and (test["p_over_seeds"] is None or test["p_over_seeds"] < LEVEL))


def study_table(study: Study, results: Mapping[str, Any]) -> str:
    """Every arm on every benchmark, and where it comes from."""
    parts = [_provenance(study, results)]
    for name, benchmark in results["benchmarks"].items():
        parts.append(_references(name, benchmark))
        parts.append("\n".join(_benchmark_lines(study, benchmark)))
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
        f"{results['hours']:.2f} hours of a core; commit {', '.join(results['commits'])}; Python {results['python']}, "
        f"{versions}."
    )


def _references(name: str, benchmark: Mapping[str, Any]) -> str:
    given = benchmark["references"]
    return (
        f"`{name}`, {benchmark['queries']} test queries, nDCG@10; first stage (BM25) {given['first stage']:.4f}, ideal "
        f"order of its 20 candidates {given['ideal']:.4f}."
    )


def _benchmark_lines(study: Study, benchmark: Mapping[str, Any]) -> list[str]:
    whens = [when for when in _WHEN if when in benchmark and (study.trains or when == "end")]
    step = benchmark["half_way_step"]
    heads = {"half_way": f"half-way (step {step})", "end": "at the end" if "half_way" in whens else "nDCG@10"}
    columns = [f"{heads[when]} | difference | p over seeds" for when in whens]
    if not study.trains:
        columns.append("calls a query | tokens a query | complete answers")
    count = sum(column.count("|") + 1 for column in columns)
    lines = [f"| arm | seeds | {' | '.join(columns)} |", f"|---|---:|{'---:|' * count}"]
    for arm, label in study.labels.items():
        seeds = len(benchmark["end"][arm]["seeds"])
        cells = [cell for when in whens for cell in _cells(benchmark[when].get(arm))]
        if not study.trains:
            answers = benchmark["answers"][arm]
            cells += [f"{answers['calls_a_query']:.1f}", f"{answers['tokens_a_query']:,.0f}"]
            cells.append(f"{answers['complete']:.1%}")
        lines.append(f"| {label} | {seeds} | {' | '.join(cells)} |")
    return lines


def _cells(arm: Mapping[str, Any] | None) -> list[str]:
    """Mean and spread of the seeds, difference with its interval, p."""
    if arm is None:
        return ["", "", ""]
    spread = f" ± {arm['sd_of_seeds']:.4f}" if arm["sd_of_seeds"] is not None else ""
    if (test := arm.get("against_baseline")) is None:
        low, high = arm["interval_95"]
        return [f"{arm['mean']:.4f}{spread}", f"[{low:.4f}, {high:.4f}]", ""]
    low, high = test["interval_95"]
    difference = f"{test['difference']:+.4f}{'*' if sure(test) else ''} [{low:+.4f}, {high:+.4f}]"
    return [f"{arm['mean']:.4f}{spread}", difference, _p(test["p_over_seeds"])]


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 0.001 else "< .001"


def _length_lines(results: Mapping[str, Any]) -> list[str]:
    lines = [
        "| seed | model | of | rankings | mean tokens | Spearman's rho | 95% interval |",
        "|---:|---|---|---:|---:|---:|---|",
    ]
    for seed, benchmarks in results["analysis"].items():
        for analysis in benchmarks.values():
            for row in analysis["tables"]["length"]:
                rho = row["Spearman's rho"]
                interval = f"[{row['low']:+.3f}, {row['high']:+.3f}]" if rho is not None else ""
                shown = f"{rho:+.3f}" if rho is not None else ""
                cells = [seed, row["system"], row["unit"], f"{row['points']:,}", f"{row['mean tokens']:.1f}", shown]
                lines.append(f"| {' | '.join(cells)} | {interval} |")
    return lines


def effects_table() -> str:
    """The direction of each effect: the paper's and ours."""
    lines = [
        "| effect | paper (TREC-DL / BEIR / BRIGHT) | ours, half-way | ours, at the end | the same direction? |",
        "|---|---|---|---|---|",
    ]
    for effect in EFFECTS:
        study = next(one for one in STUDIES if one.name == effect.study)
        if not (study.folder / "results.json").is_file():
            continue
        found = stored(study)["benchmarks"][effect.benchmark]["effects"][effect.what]
        shown = [_points(found[when]) if when in found else "" for when in _WHEN]
        link = f"[{effect.what}](experiments/{effect.study}/README.md)"
        lines.append(f"| {link} | {effect.paper} | {' | '.join(shown)} | {verdict(effect, found)} |")
    lines.append(_length_effect())
    return "\n".join(line for line in lines if line)


def _points(test: Mapping[str, Any]) -> str:
    """In points, as the paper prints them."""
    low, high = (100 * end for end in test["interval_95"])
    return f"{100 * test['difference']:+.1f}{'*' if sure(test) else ''} [{low:+.1f}, {high:+.1f}]"


def verdict(effect: Effect, found: Mapping[str, Mapping[str, Any]]) -> str:
    """In words, by the end of training first."""
    said = {when: _sign(test) for when, test in found.items()}
    if effect.direction == 0:
        return "yes" if said["end"] == 0 else f"no: {'better' if said['end'] > 0 else 'worse'}"
    if said["end"]:
        return "yes" if said["end"] == effect.direction else "no, the opposite"
    if said.get("half_way"):
        same = said["half_way"] == effect.direction
        return "while it learns; none is left at the end" if same else "the opposite while it learns; none at the end"
    return "no difference seen"


def _sign(test: Mapping[str, Any]) -> int:
    return 0 if not sure(test) else 1 if test["difference"] > 0 else -1


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
    clear = [row for row in rows if row["low"] > 0 or row["high"] < 0]
    text = f"rho {min(values):+.2f} to {max(values):+.2f} over {len(values)} seeds"
    same = "yes" if not clear else f"no: clear with {len(clear)} of {len(rows)} seeds"
    return (
        f"| [longer reasoning, trained](experiments/length/README.md) | no clear trend (Figure 6) | | {text} | {same} |"
    )


def index_table() -> str:
    """Of ``experiments/README.md``: every study, its best arm at the end, and how it was run."""
    lines = [
        "| study | question | best arm here | its nDCG@10 | baseline | jobs | hours |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for study in STUDIES:
        if not (study.folder / "results.json").is_file():
            continue
        found = stored(study)
        head = f"[{study.title}]({study.name}/README.md) | {study.question}"
        tail = f"{found['jobs']} | {found['hours']:.2f}"
        if not found["benchmarks"]:
            lines.append(f"| {head} | | | | {tail} |")
            continue
        end = next(iter(found["benchmarks"].values()))["end"]
        best = max(end, key=lambda arm: end[arm]["mean"])
        mark = "" if best == study.baseline else "*" if sure(end[best]["against_baseline"]) else " (not surely better)"
        base = f"{end[study.baseline]['mean']:.4f}"
        lines.append(f"| {head} | {study.labels[best]}{mark} | {end[best]['mean']:.4f} | {base} | {tail} |")
    return "\n".join(lines)


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
    """``figure.png`` and ``figure.svg``: curves, or nDCG@10 against a number; and every arm with its interval."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "rearank"  # the same data writes the same bytes
    curves = study.trains and study.curves
    left = curves or bool(study.across) or bool(results["analysis"])
    names = list(results["benchmarks"])
    count = int(left) + len(names) + (1 if curves else 0)
    figure = Figure(figsize=(5.2 * count, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    if curves:
        _draw_curves(axes.pop(0), study, results, GAIN, "validation nDCG@10 gained")
        _draw_curves(axes.pop(0), study, results, "rollout/length", "tokens an answer")
    elif study.across:
        _draw_across(axes.pop(0), study, results["benchmarks"][names[0]])
    elif results["analysis"]:
        _draw_length(axes.pop(0), results)
    for name, one in zip(names, axes, strict=True):
        _draw_arms(one, study, results["benchmarks"][name], name)
    for ending in ("png", "svg"):
        metadata = {"Date": None} if ending == "svg" else {}
        figure.savefig(study.folder / f"figure.{ending}", dpi=130, metadata=metadata)


def _draw_curves(axes: Any, study: Study, results: Mapping[str, Any], name: str, label: str) -> None:
    for number, (arm, title) in enumerate(study.labels.items()):
        series = results["curves"].get(arm, {}).get(name)
        if not series:
            continue
        steps = [int(step) for step in series]
        mean, low, high = zip(*series.values(), strict=True)
        colour, style = _COLOURS[number % len(_COLOURS)], _STYLES[number // len(_COLOURS) % len(_STYLES)]
        axes.plot(steps, mean, style, color=colour, label=title, linewidth=1.4)
        axes.fill_between(steps, low, high, color=colour, alpha=0.08, linewidth=0)
    axes.set(xlabel="step (bands: lowest to highest seed)", ylabel=label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _draw_across(axes: Any, study: Study, benchmark: Mapping[str, Any]) -> None:
    number = 0
    for title, arms in study.across.items():
        for when, style in (("half_way", "--"), ("end", "-")):
            if when not in benchmark:
                continue
            x = list(arms.values())
            rows = [benchmark[when][arm] for arm in arms]
            mean = [row["mean"] for row in rows]
            errors = [
                [row["mean"] - min(row["seeds"].values()) for row in rows],
                [max(row["seeds"].values()) - row["mean"] for row in rows],
            ]
            label = f"{title}, {_WHEN[when]}" if "half_way" in benchmark else title
            axes.errorbar(
                x, mean, errors, fmt=f"o{style}", color=_COLOURS[number], label=label, capsize=3, markersize=4
            )
        number += 1
    axes.set(xlabel=f"{study.axis} (bars: lowest to highest seed)", ylabel="nDCG@10")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


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
    axes.legend(fontsize=7)


def _draw_arms(axes: Any, study: Study, benchmark: Mapping[str, Any], name: str) -> None:
    arms = list(study.labels)[::-1]
    for offset, (when, colour) in zip((0.15, -0.15), (("half_way", "#E69F00"), ("end", "#0072B2")), strict=True):
        if when not in benchmark or (when == "half_way" and not study.trains):
            continue
        for place, arm in enumerate(arms):
            if (row := benchmark[when].get(arm)) is None:
                continue
            low, high = row["interval_95"]
            y = place + offset
            axes.plot([low, high], [y, y], color=colour, linewidth=1.2)
            axes.scatter(list(row["seeds"].values()), [y] * len(row["seeds"]), s=8, color="#4d4d4d", zorder=3)
            axes.scatter([row["mean"]], [y], s=28, color=colour, zorder=2, label=_WHEN[when] if not place else None)
    for level, style in ((benchmark["references"]["first stage"], ":"), (benchmark["references"]["ideal"], "--")):
        axes.axvline(level, color="#4d4d4d", linestyle=style, linewidth=0.8)
    axes.set_yticks(range(len(arms)), [study.labels[arm] for arm in arms], fontsize=7)
    axes.set(xlabel=f"nDCG@10 on {name} (line: 95% over queries;\nsmall dots: seeds; dotted: BM25; dashed: ideal)")
    axes.grid(alpha=0.3, axis="x")
    if study.trains:
        axes.legend(fontsize=7)
