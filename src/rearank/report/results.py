"""Systems of one or several runs side by side: means next to published numbers, seeds pooled, and paired tests."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from rearank.evaluation import Comparison, Scored, bootstrap_interval, compare, heading
from rearank.report.curves import seed_groups, seed_of, untaken
from rearank.runs.reader import FIRST, IDEAL, SYSTEM, UNTRAINED, Arm, Evaluated, RunFolder, marked, rank
from rearank.runs.seeds import Seeds, p_over_seeds

_ALL_PAIRS = 6  # systems, up to which each is tested against each
_STATUS = "status_"


@dataclass(frozen=True)
class Side:
    """A system of the report, its label telling it from all others, and the runs (by place) that measured it.

    Of a sweep's arm with several seeds the values are each query's mean over them, and settings, answers and place are
    those of the first; ``seeds`` are the seeds' own.
    """

    system: Evaluated
    runs: tuple[int, ...]
    arm: Arm | None = None
    seeds: Mapping[str, Evaluated] = field(default_factory=dict)

    @property
    def seed_means(self) -> dict[str, float]:
        """Seed -> mean of the main measure; empty where there are no several."""
        return Seeds({seed: one.main for seed, one in self.seeds.items()}).means


def sides(runs: Sequence[RunFolder]) -> dict[str, list[Side]]:
    """benchmark -> its systems, first stages before others and ideal orders after.

    What runs share, as a sweep's do their first stage and their untrained model, is there once; an arm's seeds are one
    system. What two arms trained is there twice, however equal: a reader looks for both.
    """
    found: dict[str, list[Side]] = {}
    for members in _together(runs):
        for side in _measured(runs, members):
            group = found.setdefault(side.system.benchmark, [])
            own = side.arm is not None
            twins = (n for n, one in enumerate(group) if not own and _same(one.system, side.system))
            if (twin := next(twins, None)) is None:
                group.append(side)
            else:
                group[twin] = replace(group[twin], runs=(*group[twin].runs, *side.runs))
    return {benchmark: _labelled(_ordered(_shared(group)), runs) for benchmark, group in found.items()}


def _together(runs: Sequence[RunFolder]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for number, run in enumerate(runs):
        groups.setdefault(run.arm or number, []).append(number)
    return list(groups.values())


def _measured(runs: Sequence[RunFolder], members: Sequence[int]) -> list[Side]:
    """Every system that these runs have, over their seeds."""
    found: dict[tuple[str, str, str], dict[int, Evaluated]] = {}
    for number in members:
        for system in runs[number].systems:
            found.setdefault((system.benchmark, system.role, system.name), {})[number] = system
    arm = runs[members[0]].arm
    return [
        Side(
            _pooled(list(one.values())),
            tuple(one),
            arm if role == SYSTEM else None,
            _seeds({runs[number].seed: system for number, system in one.items()}),
        )
        for (_, role, _), one in found.items()
    ]


def _seeds(systems: Mapping[str, Evaluated]) -> dict[str, Evaluated]:
    """Empty where there is one, and where all are the same: no seed changes a first stage."""
    first, *others = systems.values()
    return {} if all(_same(first, other) for other in others) else dict(systems)


def _pooled(systems: Sequence[Evaluated]) -> Evaluated:
    """One system of several seeds': each query's mean over them, of the queries that all have."""
    first, *others = systems
    if all(_same(first, other) for other in others):
        return first
    shared = [measure for measure in first.values if all(measure in one.values for one in others)]
    values = {m: Seeds({str(n): one.values[m] for n, one in enumerate(systems)}).values for m in shared}
    calls = {key: sum(one.calls.get(key, 0) for one in systems) for one in systems for key in one.calls}
    intervals = {measure: bootstrap_interval(list(its.values())) for measure, its in values.items() if its}
    judged = Seeds({str(n): one.judged for n, one in enumerate(systems)}).values
    return replace(first, label=_common(systems), values=values, intervals=intervals, calls=calls, judged=judged)


def _same(a: Evaluated, b: Evaluated) -> bool:
    """Equal in every measure that both have."""
    shared = a.values.keys() & b.values.keys()
    return (a.name, a.role) == (b.name, b.role) and bool(shared) and all(a.values[m] == b.values[m] for m in shared)


def _shared(group: Sequence[Side]) -> list[Side]:
    """An untrained model that no arm changes is there once, next to what was trained from it."""
    found = list(group)
    trained = any(side.arm is not None and side.system.name not in UNTRAINED for side in group)
    for name in UNTRAINED if trained else ():
        twins = [side for side in found if side.arm is not None and side.system.name == name]
        if len(twins) > 1 and all(_same(twins[0].system, other.system) for other in twins[1:]):
            one = replace(twins[0], runs=tuple(number for side in twins for number in side.runs), arm=None)
            gone = {id(side) for side in twins[1:]}
            found = [one if side is twins[0] else side for side in found if id(side) not in gone]
    return found


def _ordered(group: Sequence[Side]) -> list[Side]:
    """By role; arms stand side by side, first half-way and then at the end."""
    order = {FIRST: 0, SYSTEM: 1, IDEAL: 2}
    arms = len({side.arm for side in group if side.arm is not None}) > 1

    def place(side: Side) -> tuple[Any, ...]:
        role = side.system.role
        return order.get(role, 1), rank(side.system.name) if arms and role == SYSTEM else ()

    return sorted(group, key=place)


def _labelled(group: Sequence[Side], runs: Sequence[RunFolder]) -> list[Side]:
    """The run's or the arm's label first, where not all runs that measured the benchmark have the system in common."""
    measured = {number for side in group for number in side.runs}
    named: list[Side] = []
    taken: set[str] = set()
    for side in group:
        label = side.system.label
        if len(side.runs) < len(measured):
            owners = list(dict.fromkeys(arm.label if (arm := runs[n].arm) else runs[n].label for n in side.runs))
            more = f" and {len(owners) - 1} more" if len(owners) > 1 else ""
            label = f"{owners[0]}{more}: {label}"
        label = untaken(label, taken)
        taken.add(label)
        label = marked(label, side.system.failed)
        named.append(replace(side, system=replace(side.system, label=label)))
    return named


def arm_rows(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """What sweeps tried, in their order: each arm's runs (by place), their seeds, and what it changes.

    Empty for a single run; one that is no job of a sweep is in none.
    """
    found: dict[Arm, list[int]] = {}
    for number, run in enumerate(runs):
        if run.arm is not None and len(runs) > 1:
            found.setdefault(run.arm, []).append(number)
    return [
        {"label": arm.label, "changes": list(arm.changes), "runs": its, "seeds": [runs[n].seed for n in its]}
        for arm, its in found.items()
    ]


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
                "arm": side.arm.label if side.arm else None,
                "seeds": side.seed_means,
                "windows_of": next(iter(side.seeds), None),  # the seed whose rankings and answers are shown
                "means": {measure: fmean(values.values()) for measure, values in one.values.items() if values},
                "intervals": {measure: list(interval) for measure, interval in one.intervals.items()},
                "judged": fmean(one.judged.values()) if one.judged else None,
                "queries": len(next(iter(one.values.values()), {})),
                "published": dict(one.published) if one.published else None,
                "calls": {k: v for k, v in one.calls.items() if not k.startswith(_STATUS)},
                "statuses": statuses,
                "note": one.note,
                "letters": one.settings.get("prompt", {}).get("labels") == "letters",
            }
        )
    return rows


def comparisons(benchmark: str, group: Sequence[Side]) -> dict[str, Any]:
    """Paired tests of the main measure: each system against each, or all against the first where there are many.

    Arms of a sweep are compared with the first of them, each system with its like: all half-way, all at the end.
    """
    systems = [side for side in group if side.system.role != IDEAL]
    families = _by_arm(systems)
    against_first = bool(families) or len(systems) > _ALL_PAIRS
    found: list[Comparison] = []
    try:
        for family in families or [systems]:
            measure = next(iter(family[0].system.values), "")
            scored = [_scored(side, benchmark, measure) for side in family if measure in side.system.values]
            if len(scored) > 1:
                found += compare(scored, [measure], baseline=scored[0].label if against_first else None)
    except ValueError as error:
        return {"rows": [], "note": str(error)}
    if not found:
        return {"rows": [], "note": ""}
    note = (
        f"Two-sided, over the queries that all systems share ({heading(found[0].measure)}, {found[0].test.queries} "
        f"queries); Holm's correction is over "
        + ("the arms of the same system" if len(families) > 1 else f"these {len(found)} comparisons")
    )
    if any(side.seeds for side in systems):
        note += (
            ". Each query's value is its mean over the seeds: these tests speak of these trainings; p over seeds "
            "(paired by seed, uncorrected) asks whether others would show the same"
        )
    means = {side.system.label: side.seed_means for side in systems}
    return {"rows": [_test_row(one, means[one.a], means[one.b]) for one in found], "note": note}


def _by_arm(systems: Sequence[Side]) -> list[list[Side]]:
    """The arms of each system, in the sweep's order; empty where no arm could be compared with another."""
    by_name: dict[str, list[Side]] = {}
    for side in systems:
        if side.arm is not None:
            by_name.setdefault(side.system.name, []).append(side)
    return [family for family in by_name.values() if len(family) > 1]


def _scored(side: Side, benchmark: str, measure: str) -> Scored:
    return Scored(side.system.label, benchmark, {measure: side.system.values[measure]})


def _test_row(one: Comparison, a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, Any]:
    test = one.test
    return {
        **{"a": one.a, "b": one.b, "difference": test.mean_difference},
        **{"t": test.t if math.isfinite(test.t) else None, "p": test.p_value, "holm": one.holm},
        **{"p_randomisation": test.p_randomisation, "wins": test.wins, "ties": test.ties, "losses": test.losses},
        "p_over_seeds": p_over_seeds(a, b),
    }


def seed_rows(runs: Sequence[RunFolder], benchmark: str) -> list[dict[str, Any]]:
    """Mean and spread over the seeds of the same settings; empty where no settings have several."""
    rows = []
    for label, members in seed_groups(runs).items():
        by_name: dict[str, dict[str, Evaluated]] = {}
        for number in members:
            for system in runs[number].systems:
                if system.benchmark == benchmark and system.role == SYSTEM:
                    named = by_name.setdefault(system.name, {})
                    named[untaken(seed_of(runs[number]), named)] = system  # a seed may have been run twice
        for systems in by_name.values():
            if len(systems) > 1:
                seeds = Seeds({seed: one.main for seed, one in systems.items()})
                means = seeds.means
                spread = {"sd": seeds.deviation, "low": min(means.values()), "high": max(means.values()), "each": means}
                found = {"run": label, "system": _common(list(systems.values())), "seeds": len(means)}
                rows.append({**found, "mean": seeds.mean, **spread})
    return rows


def _common(systems: Sequence[Evaluated]) -> str:
    """Labels may name the best step, which differs by seed."""
    labels = list(dict.fromkeys(one.label for one in systems))
    return labels[0] if len(labels) == 1 else labels[0].partition(" (")[0]


def status_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, float]]:
    """label -> status -> answers, of ``result_rows`` that have any."""
    return {row["label"]: row["statuses"] for row in rows if row["statuses"]}
