"""Evaluation folders -> ``results.json``, the README's tables and the figure.

Differences are tested query by query with the randomisation test; GRPO's value of a query is its mean over the seeds.
Each question (``COMPARED``) is corrected by Holm over the collections on which it was asked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rearank.engines.account import unread_of
from rearank.evaluation import Cell, bootstrap_interval, holm, paired_test, render_table
from rearank.pictures import COLOURS, panels, save
from rearank.runs.reader import FIRST, IDEAL, Evaluated, read_folder, read_systems

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- made by experiments/real/run.py from results.json -->", "<!-- end of what is made -->"
BENCHMARKS = {"scifact150": "SciFact, 150 test claims", "dl19_top20": "TREC DL 2019", "noveleval": "NovelEval"}
SYSTEMS = {
    "first": "first stage",
    "untrained": "SmolLM2-135M (Q4_1), untrained",
    "cold": "cold start",
    "grpo": "cold start, then GRPO (three seeds)",
    "alone": "GRPO alone",
    "ideal": "ideal order",
}
COMPARED = (("grpo", "cold"), ("grpo", "first"), ("cold", "first"), ("cold", "untrained"))
SEED = "grpo-seed"
_CURVES = ("train/reward/total", "train/entropy", "val/ndcg@10", "val/ndcg@10_given", "val/parse/ok", "train/loss")


def write_results(outputs: Path, measured: Mapping[str, Path], trainings: Mapping[str, Path]) -> None:
    """``results.json``, with what other collections and systems it held before.

    Args:
        outputs: where ``real-usage.jsonl`` has what the commands took.
        measured: system -> the folder it was evaluated in.
        trainings: training -> its folder.
    """
    path = HERE / "results.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"benchmarks": {}, "curves": {}}
    for name, folder in measured.items():
        for one in read_systems(folder):
            key = {FIRST: "first", IDEAL: "ideal"}.get(one.role, name)
            found["benchmarks"].setdefault(one.benchmark, {})[key] = _system(one)
    for name, folder in trainings.items():
        lines = [line for lines in read_folder(folder).curves.values() for line in lines]
        if lines:
            found["curves"][name] = {
                figure: {str(line["step"]): round(line[figure], 4) for line in lines if figure in line}
                for figure in _CURVES
                if any(figure in line for line in lines)
            }
    if taken := _core_hours(outputs / "real-usage.jsonl"):
        found["core_hours"] = {**found.get("core_hours", {}), **taken}
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def _system(one: Evaluated) -> dict[str, Any]:
    calls = int(one.calls.get("calls", 0))
    unread = int(one.calls.get("unparsed", unread_of(one.calls).total()))
    return {
        "per_query": {query: round(value, 6) for query, value in sorted(one.main.items())},
        "calls": calls,
        "unread": unread,
        "tokens": int(one.calls.get("completion_tokens", 0)),
        "commit": one.environment.get("commit"),
        "packages": one.environment.get("packages"),
    }


def _core_hours(path: Path) -> dict[str, float]:
    taken: Counter[str] = Counter()
    for line in path.read_text().splitlines() if path.is_file() else ():
        one = json.loads(line)
        taken[one["run"]] += one["core_seconds"] / 3600
    return {name: round(hours, 2) for name, hours in taken.items()}


def seeds_of(systems: Mapping[str, Any]) -> list[str]:
    """The systems of one collection that are GRPO's seeds."""
    return sorted(name for name in systems if name.startswith(SEED))


def values_of(systems: Mapping[str, Any], name: str) -> dict[str, float] | None:
    """query id -> nDCG@10, GRPO's averaged over its seeds; ``None`` for what wasn't measured."""
    names = seeds_of(systems) if name == "grpo" else [name] if name in systems else []
    if not names:
        return None
    values = [systems[one]["per_query"] for one in names]
    return {query: fmean(one[query] for one in values) for query in values[0]}


def tests_of(benchmarks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every question on every collection where both sides were measured; ``holm`` corrects over the collections."""
    found: list[dict[str, Any]] = []
    for name, other in COMPARED:
        asked: list[dict[str, Any]] = []
        for benchmark, systems in benchmarks.items():
            mine, theirs = values_of(systems, name), values_of(systems, other)
            if mine is not None and theirs is not None:
                test = paired_test(theirs, mine)
                low, high = bootstrap_interval([mine[query] - theirs[query] for query in mine])
                asked.append(
                    {
                        **{"benchmark": benchmark, "system": name, "other": other, "difference": test.mean_difference},
                        **{"low": low, "high": high, "p": test.p_randomisation},
                        **{"wins": test.wins, "losses": test.losses},
                    }
                )
        corrected = holm([one["p"] for one in asked])
        found += [one | {"holm": p} for one, p in zip(asked, corrected, strict=True)]
    return found


def table(results: Mapping[str, Any]) -> str:
    """What the README shows: systems by collection, the tests, core hours."""
    benchmarks = {name: results["benchmarks"][name] for name in BENCHMARKS if name in results["benchmarks"]}
    parts = [_means(benchmarks), _tests(tests_of(benchmarks))]
    if hours := results.get("core_hours"):
        listed = ", ".join(f"{name.removeprefix('real-')} {value:g}" for name, value in hours.items())
        parts.append(f"Core hours: {listed}; {sum(hours.values()):.1f} in all.")
    return "\n\n".join(parts)


def _means(benchmarks: Mapping[str, Any]) -> str:
    rows: list[dict[str, Cell]] = []
    for name, systems in benchmarks.items():
        for key, label in SYSTEMS.items():
            if (values := values_of(systems, key)) is None:
                continue
            shown = seeds_of(systems) if key == "grpo" else [key]
            calls, unread = (sum(systems[one][what] for one in shown) for what in ("calls", "unread"))
            low, high = bootstrap_interval(list(values.values()))
            seeds = ", ".join(f"{fmean(systems[one]['per_query'].values()):.4f}" for one in shown)
            rows.append(
                {
                    "collection": BENCHMARKS[name],
                    "system": label,
                    "nDCG@10": fmean(values.values()),
                    "95% interval": f"{low:.4f} to {high:.4f}",
                    "seeds": seeds if key == "grpo" else "",
                    "answers in the right form": f"{1 - unread / calls:.1%}" if calls else "",
                }
            )
    return render_table(rows)


def _tests(tests: Sequence[Mapping[str, Any]]) -> str:
    rows: list[dict[str, Cell]] = [
        {
            "collection": BENCHMARKS[one["benchmark"]],
            "against": f"{SYSTEMS[one['system']]} - {SYSTEMS[one['other']]}",
            "difference": f"{one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})",
            "p": f"{one['p']:.4f}",
            "p (Holm)": f"{one['holm']:.4f}",
            "wins/losses": f"{one['wins']}/{one['losses']}",
        }
        for one in tests
    ]
    return render_table(rows)


def draw(results: Mapping[str, Any]) -> None:
    """``figure.png`` and ``.svg``: rewards and validation by step, and each system's difference to the first stage."""
    figure, (left, middle, right) = panels(3, 13.5, 4.2)
    for number, (name, curves) in enumerate(results["curves"].items()):
        colour = COLOURS[number % len(COLOURS)]
        for axes, key in ((left, "train/reward/total"), (middle, "val/ndcg@10")):
            if key in curves:
                steps = [int(step) for step in curves[key]]
                axes.plot(steps, list(curves[key].values()), color=colour, label=name, linewidth=1.3, marker=".")
    left.set(xlabel="step", ylabel="reward of sampled answers")
    middle.set(xlabel="step", ylabel="nDCG@10, validation windows, greedy")
    for axes in (left, middle):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    place = 0
    for name, systems in results["benchmarks"].items():
        first = values_of(systems, "first") or {}
        for number, key in enumerate(("cold", "grpo", "alone")):
            if (values := values_of(systems, key)) is not None:
                differences = [values[query] - first[query] for query in values]
                low, high = bootstrap_interval(differences)
                right.plot([low, high], [place, place], color=COLOURS[number], linewidth=2)
                right.plot([fmean(differences)], [place], "o", color=COLOURS[number])
                right.annotate(f"{name}: {key}", (low, place), xytext=(0, 5), textcoords="offset points", fontsize=7)
                place -= 1
    right.axvline(0, color="black", linewidth=0.8)
    right.set(xlabel="nDCG@10 above the first stage, 95% interval", yticks=[])
    save(figure, HERE / "figure")


def render() -> None:
    """The README's part between the marks, and the figure, from ``results.json``."""
    results = json.loads((HERE / "results.json").read_text())
    draw(results)
    readme = HERE / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}", encoding="utf-8")
