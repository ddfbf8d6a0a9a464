"""Rank correlations, and intervals that respect which values belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from rearank.evaluation import Cell, bootstrap_interval

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pairs:
    """How two scorings of the same items order their pairs; a tie in either is in neither of the first two."""

    agree: int
    disagree: int
    tied_left: int
    tied_right: int
    all: int

    @property
    def tau(self) -> float | None:
        """Kendall's tau-b, in [-1, 1]; ``None`` where one side ties everything."""
        left, right = self.all - self.tied_left, self.all - self.tied_right
        return (self.agree - self.disagree) / (left * right) ** 0.5 if left and right else None


def compare_pairs(left: Sequence[float], right: Sequence[float]) -> Pairs:
    """Every pair of items in both scorings; raises ``ValueError`` if their lengths differ.

    Counted here, as scipy's ``kendalltau`` gives tau-b alone and not how many pairs agree.
    """
    if len(left) != len(right):
        raise ValueError(f"two scorings of the same items differ in length: {len(left)} and {len(right)}")
    agree = disagree = tied_left = tied_right = 0
    for i in range(len(left)):
        for j in range(i):
            a, b = left[i] - left[j], right[i] - right[j]
            tied_left += a == 0
            tied_right += b == 0
            agree += a * b > 0
            disagree += a * b < 0
    return Pairs(agree, disagree, tied_left, tied_right, len(left) * (len(left) - 1) // 2)


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation; ``None`` where one side is constant, or with fewer than two points.

    Of scipy's ranks. Its ``spearmanr`` gives another last digit in half of all cases, and takes twice as long; a
    bootstrap calls this a thousand times.
    """
    import numpy as np
    from scipy.stats import rankdata

    if len(x) < 2:
        return None
    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / spread if spread > 0 else None


def clustered_interval(
    clusters: Sequence[Sequence[T]],
    statistic: Callable[[list[T]], float | None],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of any statistic, drawing whole clusters (a query's points, say).

    ``None`` with fewer than two clusters, or where the statistic is undefined in most resamples.
    """
    import numpy as np

    if len(clusters) < 2:
        return None
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = [item for number in rng.integers(0, len(clusters), len(clusters)) for item in clusters[number]]
        if (value := statistic(drawn)) is not None:
            values.append(value)
    if 2 * len(values) < resamples:
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over queries with its 95% bootstrap interval; all ``None`` of nothing."""

    value: float | None
    low: float | None
    high: float | None

    def columns(self, heading: str, interval: str = "") -> dict[str, Cell]:
        """The mean under ``heading``, its interval under ``<interval>low`` and ``<interval>high``."""
        return {heading: self.value, f"{interval}low": self.low, f"{interval}high": self.high}


def mean_over_queries(values: Mapping[str, Sequence[float]], seed: int = 0) -> Mean:
    """The mean of the queries' own means: a query with many answers counts no more than another."""
    means = [fmean(found) for _, found in sorted(values.items()) if found]
    if not means:
        return Mean(None, None, None)
    low, high = bootstrap_interval(means, seed=seed)
    return Mean(fmean(means), low, high)


def mean_of(values: Sequence[float]) -> float | None:
    """``None`` without values."""
    return fmean(values) if values else None
