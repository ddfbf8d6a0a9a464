"""Answer length against ranking quality (the paper's Fig. 6): is more reasoning better reasoning?

Length is all tokens of the answers, reasoning and order together: engines count those, and the order's share is about
the same for windows of one size. Two units: a *query*'s whole ranking (its answers' mean length, nDCG of the list) and
a *window* (its answer's tokens, the change in the window's nDCG). A mean and no sum: a query with fewer candidates has
fewer windows, and its sum would say so and nothing about reasoning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from rearank.analysis.answer import Answer
from rearank.analysis.rank_statistics import clustered_interval, spearman
from rearank.evaluation import Cell, bootstrap_interval


@dataclass(frozen=True, slots=True)
class Point:
    """One ranking of one query, or one answer about a window: its tokens (an answer), and what it was worth."""

    query: str
    tokens: float
    value: float


def window_points(answers: Iterable[Answer]) -> list[Point]:
    """Tokens and change in nDCG of every answer about a window whose passages' grades differ."""
    return [Point(a.query, a.tokens, a.ndcg_ranked - a.ndcg_given) for a in answers if a.can_change]


def correlation_row(points: Sequence[Point], *, seed: int = 0) -> dict[str, Cell]:
    """Spearman's correlation of tokens and value, with an interval over queries.

    The p-value is given where each query has one point; with more they depend on one another, and the interval (which
    draws whole queries) is what says how sure it is. ``within`` is the correlation of both sides' deviations from
    their query's mean: it tells longer answers from harder queries.
    """
    clusters = _by_query(points)
    several = any(len(cluster) > 1 for cluster in clusters)
    low, high = clustered_interval(clusters, _rho, seed=seed) or (None, None)
    return {
        "points": len(points),
        "queries": len(clusters),
        "mean tokens": fmean(p.tokens for p in points) if points else None,
        "Spearman's rho": _rho(points),
        "low": low,
        "high": high,
        "p": None if several else _p_value(points),
        "rho within queries": _rho([p for cluster in clusters for p in _deviations(cluster)]) if several else None,
    }


def bin_rows(points: Sequence[Point], count: int, *, seed: int = 0) -> list[dict[str, Cell]]:
    """Mean value in ``count`` bins of equal width over the observed tokens, each with a 95% bootstrap interval.

    A bin holds what lies in [from, to), the last one its upper end too; bins without a point are left out, a
    single point has no interval. Where all
    lengths are equal there is one bin.
    """
    if not points:
        return []
    low, high = min(p.tokens for p in points), max(p.tokens for p in points)
    width = (high - low) / count or 1.0
    held: dict[int, list[float]] = {}
    for point in points:
        held.setdefault(min(int((point.tokens - low) / width), count - 1), []).append(point.value)
    rows: list[dict[str, Cell]] = []
    for number, values in sorted(held.items()):
        edges = bootstrap_interval(values, seed=seed) if len(values) > 1 else (None, None)
        rows.append(
            {
                "from": low + number * width,
                "to": low + (number + 1) * width,
                "points": len(values),
                "mean": fmean(values),
                "low": edges[0],
                "high": edges[1],
            }
        )
    return rows


def without_zeros(points: Iterable[Point]) -> list[Point]:
    """The points whose value isn't 0: what the paper's figure shows."""
    return [point for point in points if point.value != 0]


def _by_query(points: Iterable[Point]) -> list[list[Point]]:
    ordered = sorted(points, key=lambda point: point.query)
    return [list(group) for _, group in groupby(ordered, key=lambda point: point.query)]


def _rho(points: Sequence[Point]) -> float | None:
    return spearman([p.tokens for p in points], [p.value for p in points])


def _deviations(cluster: Sequence[Point]) -> list[Point]:
    if len(cluster) < 2:
        return []
    tokens, value = fmean(p.tokens for p in cluster), fmean(p.value for p in cluster)
    # Rounded: what is equal must not be ranked by its last bit.
    return [Point(p.query, round(p.tokens - tokens, 9), round(p.value - value, 9)) for p in cluster]


def _p_value(points: Sequence[Point]) -> float | None:
    if len(points) < 3 or _rho(points) is None:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr([p.tokens for p in points], [p.value for p in points]).pvalue)
