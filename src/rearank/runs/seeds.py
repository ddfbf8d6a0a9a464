"""Seeds of one thing, put together: the only pooling there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from rearank.evaluation import paired_test

Values = Mapping[str, float]
"""query id -> value of one measure."""


@dataclass(frozen=True)
class Seeds:
    """What the same settings came to with each of their seeds.

    Args:
        each: seed -> query id -> value.
    """

    each: Mapping[str, Values]

    @property
    def values(self) -> dict[str, float]:
        """query id -> mean over the seeds, of the queries that all of them have; in the first seed's order."""
        first, *others = self.each.values()
        shared = [query for query in first if all(query in other for other in others)]
        return {query: fmean(values[query] for values in self.each.values()) for query in shared}

    @property
    def means(self) -> dict[str, float]:
        """Seed -> mean over its queries; a seed without a query has none."""
        return {seed: fmean(values.values()) for seed, values in self.each.items() if values}

    @property
    def mean(self) -> float:
        """Over the seeds, of their means."""
        return fmean(self.means.values())

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the seeds' means; ``None`` for fewer than two."""
        means = self.means.values()
        return stdev(means) if len(means) > 1 else None


def p_over_seeds(a: Mapping[str, float], b: Mapping[str, float]) -> float | None:
    """p of the paired t-test over the seeds that both have: whether other trainings would show the same.

    Args:
        a: seed -> mean.
        b: likewise.

    Returns:
        ``None`` for fewer than two shared seeds.
    """
    both = sorted(a.keys() & b.keys())
    return paired_test({s: a[s] for s in both}, {s: b[s] for s in both}).p_value if len(both) > 1 else None
