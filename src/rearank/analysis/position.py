"""Position bias: the same passages in several orders. What of the answer is about them, and what about their places?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from random import Random
from statistics import fmean

from rearank.analysis.answer import Answer
from rearank.analysis.rank_statistics import Mean, compare_pairs, mean_of, mean_over_queries
from rearank.evaluation import Cell
from rearank.parsing import ParsedRanking, ParseStatus
from rearank.types import JudgedWindow, Permutation


def shuffled(judged: JudgedWindow, count: int, seed: int) -> list[JudgedWindow]:
    """The window as it is, then ``count`` seeded shuffles of it, each with its grades."""
    query, size = judged.window.query.id, len(judged.window)
    orders = [Permutation.identity(size)]
    for number in range(count):
        order = list(range(size))
        Random(f"{seed} {query} {number}").shuffle(order)
        orders.append(Permutation(tuple(order)))
    return [
        replace(
            judged,
            window=replace(judged.window, passages=order.apply(judged.window.passages)),
            relevance=order.apply(judged.relevance),
        )
        for order in orders
    ]


@dataclass(frozen=True)
class Asked:
    """One window's answers: the first about the first-stage order, the others about shuffles of it."""

    answers: tuple[Answer, ...]

    @property
    def query(self) -> str:
        """The query's id."""
        return self.answers[0].query

    @property
    def consistency(self) -> float | None:
        """Mean Kendall tau of every two resulting orders: 1 where places play no part, about 0 where only they do."""
        ids = sorted(self.answers[0].ranks)
        results = [[float(answer.ranks[i]) for i in ids] for answer in self.answers]
        taus = [compare_pairs(a, b).tau for a, b in combinations(results, 2)]
        return fmean(tau for tau in taus if tau is not None) if taus and len(ids) > 1 else None

    @property
    def slope(self) -> float | None:
        """Ranks a passage falls for each place that it starts lower: 0 without bias, 1 where the order is kept.

        Least squares over the deviations from each passage's own means, so that it needs no balanced shuffles and good
        passages that happened to start high don't count as bias. ``None`` where nothing moved.
        """
        places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for answer in self.answers:
            for place, passage in enumerate(answer.judged.window.passages, start=1):
                places[passage.id].append((place, answer.ranks[passage.id]))
        top = bottom = 0.0
        for found in places.values():
            x, y = fmean(p for p, _ in found), fmean(r for _, r in found)
            top += sum((place - x) * (rank - y) for place, rank in found)
            bottom += sum((place - x) ** 2 for place, _ in found)
        return top / bottom if bottom else None


def ideal(asked: Asked) -> Asked:
    """What the best possible ranker would answer that leaves passages of equal grade as they came.

    The yardstick for ``slope`` and ``consistency``: where grades tie, even this one's order depends on the places.
    """
    return Asked(tuple(replace(answer, parsed=_best(answer.judged)) for answer in asked.answers))


def position_row(asked: Sequence[Asked], *, seed: int = 0) -> dict[str, Cell]:
    """Means over windows; consistency and slope with 95% bootstrap intervals."""
    consistency = mean_over_queries({one.query: [t] for one in asked if (t := one.consistency) is not None}, seed)
    slope = mean_over_queries({one.query: [s] for one in asked if (s := one.slope) is not None}, seed)
    answers = [answer for one in asked for answer in one.answers]
    return {
        "windows": len(asked),
        "answers": len(answers),
        **consistency.columns("consistency", "consistency "),
        **slope.columns("slope", "slope "),
        "as given": mean_of([answer.as_given for answer in answers]),
        "unread": mean_of([not answer.read for answer in answers]),
    }


def ndcg_rows(asked: Sequence[Asked], *, seed: int = 0) -> list[dict[str, Cell]]:
    """Window nDCG@10 before and after, from the first stage's order, from shuffles, and the luckiest and unluckiest."""
    kinds: dict[str, Mapping[str, tuple[list[float], list[float]]]] = {
        "first stage": {one.query: _ndcgs(one.answers[:1]) for one in asked},
        "shuffled": {one.query: _ndcgs(one.answers[1:]) for one in asked},
    }
    rows: list[dict[str, Cell]] = []
    for kind, found in kinds.items():
        before = mean_over_queries({query: given for query, (given, _) in found.items()}, seed)
        after = mean_over_queries({query: ranked for query, (_, ranked) in found.items()}, seed)
        rows.append(_ndcg_row(kind, before.value, after))
    for kind, choose in (("worst shuffle", min), ("best shuffle", max)):
        chosen = {query: [choose(ranked)] for query, (_, ranked) in kinds["shuffled"].items() if ranked}
        rows.append(_ndcg_row(kind, None, mean_over_queries(chosen, seed)))
    return rows


def rank_rows(asked: Sequence[Asked], *, seed: int = 0) -> list[dict[str, Cell]]:
    """The mean final rank of the passage that stood in each place, over the shuffled orders, with a 95% interval."""
    found: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in asked:
        for answer in one.answers[1:]:
            for rank, position in enumerate(answer.order, start=1):
                found[position + 1][one.query].append(float(rank))
    return [
        {"initial position": place, **mean_over_queries(ranks, seed).columns("mean rank")}
        for place, ranks in sorted(found.items())
    ]


def _best(judged: JudgedWindow) -> ParsedRanking:
    size = len(judged.window)
    order = sorted(range(size), key=lambda position: -max(judged.relevance[position], 0))
    return ParsedRanking(Permutation(tuple(order)), ParseStatus.OK, None, None, size)


def _ndcgs(answers: Sequence[Answer]) -> tuple[list[float], list[float]]:
    return [answer.ndcg_given for answer in answers], [answer.ndcg_ranked for answer in answers]


def _ndcg_row(kind: str, before: float | None, after: Mean) -> dict[str, Cell]:
    return {"initial order": kind, "nDCG before": before, **after.columns("nDCG after")}
