"""Does the answer follow from the reasoning? The paper's first stated limitation, measured.

Compared are the order that the reasoning states (``mentions.read_implied``: a chain or notes, else none is read) and
the order of the answer, over the passages that both name. ``coverage`` is the share of answers for which there is such
an order; everything after it is about those. A faithful answer isn't a right one: both may be wrong together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rearank.analysis.answer import Answer
from rearank.analysis.mentions import OrderSource, read_implied, read_mentions
from rearank.analysis.rank_statistics import compare_pairs, mean_over_queries
from rearank.evaluation import Cell


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """One answer compared with its reasoning.

    ``mentioned`` is the share of the window's passages that come up; ``in_given_order`` whether they do so from top to
    bottom (``None`` below two); ``as_given`` whether the answer keeps the given order. The rest is ``None`` where no
    order is implied, or it ties all passages in common:
    ``tau`` Kendall's tau-b of implied and answered order and ``tau_given`` of implied and given order;
    ``best_first`` whether the answer's first passage is one of the best by the reasoning; ``contradicted`` the share
    of the pairs which the reasoning orders that the answer turns round.
    """

    query: str
    mentioned: float
    in_given_order: bool | None
    as_given: bool
    source: OrderSource | None = None
    tau: float | None = None
    tau_given: float | None = None
    best_first: bool | None = None
    contradicted: float | None = None


def compared_with_reasoning(answer: Answer, *, letters: bool = False) -> Faithfulness:
    """What the reasoning of ``answer`` mentions and implies, and whether the answer agrees."""
    think = answer.parsed.think or ""
    mentions = read_mentions(think, answer.size, letters=letters)
    found = Faithfulness(
        answer.query,
        mentioned=len(mentions.first) / answer.size if answer.size else 0.0,
        in_given_order=mentions.in_given_order if len(mentions.first) > 1 else None,
        as_given=answer.as_given,
    )
    implied = read_implied(think, answer.size, letters=letters)
    if implied is None:
        return found
    found = replace(found, source=implied.source)
    named = answer.order[: answer.parsed.named]
    common = [position for position in named if position in implied.values]
    values = [implied.values[position] for position in common]  # in the answer's order
    pairs = compare_pairs(values, [-float(rank) for rank in range(len(common))])
    if pairs.tau is None:  # fewer than two in common, or no difference between them
        return found
    return replace(
        found,
        tau=pairs.tau,
        tau_given=compare_pairs(values, [-float(position) for position in common]).tau,
        best_first=implied.values.get(named[0]) == max(values),
        contradicted=pairs.disagree / (pairs.agree + pairs.disagree),
    )


def faithfulness_row(found: Sequence[Faithfulness], *, seed: int = 0) -> dict[str, Cell]:
    """Means over queries (each the mean of its answers), the main one, tau-b, with a 95% bootstrap interval."""
    judged = [one for one in found if one.tau is not None]
    tau = mean_over_queries(_grouped([(one.query, one.tau) for one in judged]), seed)

    def mean(pairs: Sequence[tuple[str, float | bool | None]]) -> float | None:
        return mean_over_queries(_grouped(pairs), seed).value

    return {
        "answers": len(found),
        "passages mentioned": mean([(one.query, one.mentioned) for one in found]),
        "mentioned top to bottom": mean([(one.query, one.in_given_order) for one in found]),
        "by a chain": mean([(one.query, one.source is OrderSource.CHAIN) for one in found]),
        "by notes": mean([(one.query, one.source is OrderSource.NOTES) for one in found]),
        "coverage": mean([(one.query, one.tau is not None) for one in found]),
        **tau.columns("tau-b"),
        "tau-b of given order": mean([(one.query, one.tau_given) for one in judged]),
        "best first": mean([(one.query, one.best_first) for one in judged]),
        "contradicting": mean([(one.query, bool(one.contradicted)) for one in judged]),
        "pairs contradicted": mean([(one.query, one.contradicted) for one in judged]),
        "contradicting, as given": mean([(one.query, bool(one.contradicted) and one.as_given) for one in judged]),
    }


def tau_rows(found: Sequence[Faithfulness], bins: int = 10) -> list[dict[str, Cell]]:
    """How tau-b is spread: the share of answers in bins of equal width over [-1, 1], empty ones included."""
    values = [one.tau for one in found if one.tau is not None]
    counts = [0] * bins
    for value in values:
        counts[min(int((value + 1) / 2 * bins), bins - 1)] += 1
    return [
        {
            "from": round(2 * number / bins - 1, 9),
            "to": round(2 * (number + 1) / bins - 1, 9),
            "answers": count,
            "share": count / len(values) if values else None,
        }
        for number, count in enumerate(counts)
    ]


def _grouped(pairs: Sequence[tuple[str, float | bool | None]]) -> dict[str, list[float]]:
    grouped: dict[str, list[float]] = defaultdict(list)
    for query, value in pairs:
        if value is not None:
            grouped[query].append(float(value))
    return grouped
