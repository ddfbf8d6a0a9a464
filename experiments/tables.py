"""``results.json`` -> the tables of a study's README, the index of studies, and the table of effects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results import deciding_p
from studies import EFFECTS, STUDIES, Effect, Study

BEGIN, END = "<!-- made by experiments/run.py from results.json -->", "<!-- end of what is made -->"
LEVEL = 0.05
MARGIN = 0.005
"""Half a point of nDCG@10: an effect whose interval lies within it is called none."""
WHEN = {"early": "early", "end": "at the end"}


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
    whens = [when for when in WHEN if when in benchmark and (study.trains or when == "end")]
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
        found = {when: against(study, benchmark, when, effect.arm, effect.other) for when in WHEN if when in benchmark}
        tests = {when: test for when, test in found.items() if test is not None}
        shown = [_points(tests[when]) if when in tests and (study.trains or when == "end") else "" for when in WHEN]
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
    found = f"no: {clear} of {len(rows)} intervals exclude 0" if clear else "can't tell"
    if not clear and all(low > -0.2 and high < 0.2 for low, high in ends):
        found = "yes, none beyond a rho of .2"
    link = "[longer reasoning, trained](experiments/length/README.md)"
    return f"| {link} | no clear trend (Figure 6) | | {text} | {found} |"


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
    clear = [(arm, test) for arm, test in tests if test is not None and suggestive(test)]
    words = [f"{study.labels[arm]} {test['difference']:+.4f}{'*' if sure(test) else ''}" for arm, test in clear]
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
