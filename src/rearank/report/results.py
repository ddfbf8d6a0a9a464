"""Systems of one or several runs side by side: means beside published numbers, seeds together, and paired tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from rearank.evaluation import Comparison, Scored, compare, heading
from rearank.report.curves import seed_groups
from rearank.report.folder import FIRST, IDEAL, SYSTEM, Evaluated, RunFolder

_ALL_PAIRS = 6  # systems, up to which each is tested against each
_STATUS = "status_"


@dataclass(frozen=True)
class Side:
    """A system of the report, its label telling it from all others, and the runs (by place) that measured it."""

    system: Evaluated
    runs: tuple[int, ...]


def sides(runs: Sequence[RunFolder]) -> dict[str, list[Side]]:
    """benchmark -> its systems, first stages before others and ideal orders after.

    What runs share, as a sweep's do their first stage and their untrained model, is there once.
    """
    found: dict[str, list[Side]] = {}
    for number, run in enumerate(runs):
        for system in run.systems:
            group = found.setdefault(system.benchmark, [])
            twin = next((place for place, side in enumerate(group) if _same(side.system, system)), None)
            if twin is None:
                group.append(Side(system, (number,)))
            else:
                group[twin] = replace(group[twin], runs=(*group[twin].runs, number))
    order = {FIRST: 0, SYSTEM: 1, IDEAL: 2}
    return {
        benchmark: _labelled(sorted(group, key=lambda side: order.get(side.system.role, 1)), runs)
        for benchmark, group in found.items()
    }


def _same(a: Evaluated, b: Evaluated) -> bool:
    """Equal in every measure that both have."""
    shared = a.values.keys() & b.values.keys()
    return (a.name, a.role) == (b.name, b.role) and bool(shared) and all(a.values[m] == b.values[m] for m in shared)


def _labelled(group: Sequence[Side], runs: Sequence[RunFolder]) -> list[Side]:
    """The run's label first, where not all runs that measured the benchmark have the system in common."""
    measured = {number for side in group for number in side.runs}
    named: list[Side] = []
    taken: set[str] = set()
    for side in group:
        label = side.system.label
        if len(side.runs) < len(measured):
            more = f" and {len(side.runs) - 1} more" if len(side.runs) > 1 else ""
            label = f"{runs[side.runs[0]].label}{more}: {label}"
        while label in taken:
            label += "′"
        taken.add(label)
        named.append(replace(side, system=replace(side.system, label=label)))
    return named


def result_rows(group: Sequence[Side]) -> list[dict[str, Any]]:
    """A row a system for the page's table."""
    rows = []
    for side in group:
        one = side.system
        statuses = {k.removeprefix(_STATUS): int(v) for k, v in one.calls.items() if k.startswith(_STATUS)}
        rows.append(
            {
                "label": one.label,
                "name": one.name,
                "role": one.role,
                "runs": list(side.runs),
                "means": {measure: fmean(values.values()) for measure, values in one.values.items() if values},
                "intervals": {measure: list(interval) for measure, interval in one.intervals.items()},
                "queries": len(next(iter(one.values.values()), {})),
                "published": dict(one.published) if one.published else None,
                "calls": {k: v for k, v in one.calls.items() if not k.startswith(_STATUS)},
                "statuses": statuses,
                "letters": one.settings.get("prompt", {}).get("labels") == "letters",
            }
        )
    return rows


def comparisons(benchmark: str, group: Sequence[Side]) -> dict[str, Any]:
    """Paired tests of the main measure: each system against each, or all against the first where there are many."""
    systems = [side.system for side in group if side.system.role != IDEAL]
    if len(systems) < 2:
        return {"rows": [], "note": ""}
    measure = next(iter(systems[0].values))
    scored = [Scored(one.label, benchmark, {measure: one.values[measure]}) for one in systems if measure in one.values]
    baseline = scored[0].label if len(scored) > _ALL_PAIRS else None
    try:
        found = compare(scored, [measure], baseline=baseline)
    except ValueError as error:
        return {"rows": [], "note": str(error)}
    return {"rows": [_test_row(one) for one in found], "note": f"{heading(measure)}, {found[0].test.queries} queries"}


def _test_row(one: Comparison) -> dict[str, Any]:
    test = one.test
    return {
        **{"a": one.a, "b": one.b, "difference": test.mean_difference},
        **{"t": test.t if math.isfinite(test.t) else None, "p": test.p_value, "holm": one.holm},
        **{"p_randomisation": test.p_randomisation, "wins": test.wins, "ties": test.ties, "losses": test.losses},
    }


def seed_rows(runs: Sequence[RunFolder], benchmark: str) -> list[dict[str, Any]]:
    """Mean and spread over the seeds of the same settings; empty where no settings have several."""
    rows = []
    for label, members in seed_groups(runs).items():
        by_name: dict[str, list[Evaluated]] = {}
        for number in members:
            for system in runs[number].systems:
                if system.benchmark == benchmark and system.role == SYSTEM:
                    by_name.setdefault(system.name, []).append(system)
        for systems in by_name.values():
            if len(systems) > 1:
                means = [fmean(next(iter(one.values.values())).values()) for one in systems]
                spread = {"sd": stdev(means), "low": min(means), "high": max(means)}
                rows.append(
                    {"run": label, "system": _common(systems), "seeds": len(means), "mean": fmean(means), **spread}
                )
    return rows


def _common(systems: Sequence[Evaluated]) -> str:
    """Labels may name the best step, which differs by seed."""
    labels = list(dict.fromkeys(one.label for one in systems))
    return labels[0] if len(labels) == 1 else labels[0].partition(" (")[0]


def status_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, float]]:
    """label -> status -> answers, of ``result_rows`` that have any."""
    return {row["label"]: row["statuses"] for row in rows if row["statuses"]}
