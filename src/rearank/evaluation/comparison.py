"""Systems against one another, query by query: every pair or all against one, corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from rearank.evaluation.significance import PairedTest, holm, paired_test


@dataclass(frozen=True, slots=True)
class Scored:
    """One system on one benchmark; ``values``: measure -> query id -> value."""

    label: str
    benchmark: str
    values: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """``b`` against ``a``. ``holm`` and ``holm_randomisation`` are the test's two p-values after Holm's correction."""

    benchmark: str
    measure: str
    a: str
    b: str
    test: PairedTest
    holm: float = 1.0
    holm_randomisation: float = 1.0


def common_queries(systems: Sequence[Scored], measure: str) -> list[str]:
    """The queries for which every one of ``systems`` has a value, sorted.

    Raises:
        ValueError: where there are fewer than two, naming a pair of systems that shares fewest, or where a system lacks
            the measure.
    """
    for system in systems:
        if measure not in system.values:
            raise ValueError(
                f"{system.benchmark}, {system.label}: no values of {measure}; it has {', '.join(system.values)}"
            )
    shared = set.intersection(*(set(system.values[measure]) for system in systems))
    if len(shared) < 2:
        pairs = list(combinations(systems, 2)) or [(systems[0], systems[0])]
        a, b = min(pairs, key=lambda pair: _shared(pair[0], pair[1], measure))
        raise ValueError(
            f"{a.benchmark}: {a.label} ({len(a.values[measure])} queries) and {b.label} ({len(b.values[measure])} "
            f"queries) share {_shared(a, b, measure)} queries, a comparison needs two at least; compare runs of the "
            "same benchmark"
        )
    return sorted(shared)


def compare(
    systems: Sequence[Scored],
    measures: Sequence[str],
    *,
    baseline: str | None = None,
    permutations: int = 10_000,
    seed: int = 0,
) -> list[Comparison]:
    """Every pair of systems of each benchmark (all against ``baseline``, where one is named), for every measure.

    Means and tests are over the queries that all systems of a benchmark share. Holm's correction is over all
    comparisons returned: every benchmark, pair and measure, once for each of the two tests.

    Args:
        systems: of any number of benchmarks; labels differ within each.
        measures: names that every system has values of.
        baseline: a label.
        permutations: of the randomisation test; its p-value is never below 1 / (permutations + 1).
        seed: of the sign flips.

    Raises:
        ValueError: for systems without common queries, a label used twice or a baseline that isn't there.
    """
    found: list[Comparison] = []
    for benchmark in dict.fromkeys(system.benchmark for system in systems):
        group = [system for system in systems if system.benchmark == benchmark]
        for measure in measures:
            queries = common_queries(group, measure)
            for a, b in _pairs(group, baseline):
                values = ({query: one.values[measure][query] for query in queries} for one in (a, b))
                test = paired_test(*values, permutations=permutations, seed=seed)
                found.append(Comparison(benchmark, measure, a.label, b.label, test))
    corrected = holm([one.test.p_value for one in found]), holm([one.test.p_randomisation for one in found])
    return [replace(one, holm=t, holm_randomisation=flips) for one, t, flips in zip(found, *corrected, strict=True)]


def most_moved(a: Scored, b: Scored, measure: str, number: int) -> list[tuple[str, float, float]]:
    """(query id, value of ``a``, value of ``b``) of the queries that differ most, equal ones by id; never a tie."""
    both = a.values[measure].keys() & b.values[measure].keys()
    moved = [(query, a.values[measure][query], b.values[measure][query]) for query in both]
    moved = [row for row in moved if row[1] != row[2]]
    return sorted(moved, key=lambda row: (-abs(row[2] - row[1]), row[0]))[:number]


def _shared(a: Scored, b: Scored, measure: str) -> int:
    return len(a.values[measure].keys() & b.values[measure].keys())


def _pairs(group: Sequence[Scored], baseline: str | None) -> list[tuple[Scored, Scored]]:
    labels = [system.label for system in group]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(f"{group[0].benchmark}: two systems are labelled {min(twice)!r}; give each its own label")
    if baseline is None:
        return list(combinations(group, 2))
    if baseline not in labels:
        raise ValueError(f"{group[0].benchmark}: no system is labelled {baseline!r}; there are {', '.join(labels)}")
    first = group[labels.index(baseline)]
    return [(first, system) for system in group if system is not first]
