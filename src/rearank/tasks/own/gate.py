"""The gate: a model goes out only where it is better than all that costs less, on queries that it never saw.

Better means a higher mean of the benchmark's main measure and a paired randomisation test over its queries, after
Holm's correction for the number of comparisons, below ``own.alpha``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from rearank.evaluation import Cell, heading, holm, paired_test, render_table
from rearank.runs.reader import FIRST, Evaluated


class GateError(RuntimeError):
    """There is nothing to judge: the model, or all that it is compared with, was not measured."""


@dataclass(frozen=True)
class Against:
    """The model against one other system: the mean difference, and p after correction."""

    label: str
    mean: float
    difference: float
    p: float
    wins: int
    losses: int
    better: bool


@dataclass(frozen=True)
class Verdict:
    """Whether the model passed. ``of`` is what the measure speaks of: relevance, or agreement with a teacher."""

    model: str
    measure: str
    queries: int
    mean: float
    of: str
    alpha: float
    against: tuple[Against, ...]

    @property
    def passed(self) -> bool:
        """It is better than each of the others."""
        return all(one.better for one in self.against)

    def as_json(self) -> dict[str, Any]:
        """For ``gate.json``."""
        return {"passed": self.passed, **asdict(self)}

    def shown(self) -> str:
        """For a person."""
        rows: list[dict[str, Cell]] = [
            {
                "against": one.label,
                heading(self.measure): one.mean,
                "difference": one.difference,
                "p (corrected)": one.p,
                "wins/losses": f"{one.wins}/{one.losses}",
                "better": "yes" if one.better else "no",
            }
            for one in self.against
        ]
        opening = (
            f"gate: {self.model}, {heading(self.measure)} {self.mean:.4f} over {self.queries} held-out queries, "
            f"{self.of}; each p after Holm's correction must be below {self.alpha:g}"
        )
        missed = ", ".join(one.label for one in self.against if not one.better)
        end = "passed" if self.passed else f"NOT PASSED: not shown to be better than {missed}"
        return f"{opening}\n{render_table(rows)}\ngate: {end}"


def judge(
    systems: Sequence[Evaluated],
    model: str,
    against: Sequence[str],
    *,
    alpha: float,
    seed: int,
    taught: bool = False,
    first_of: Mapping[str, str] | None = None,
) -> Verdict:
    """The system named ``model`` against the first stage and those named ``against``.

    Args:
        systems: of one evaluation.
        model: the name under which it was measured.
        against: names of the untrained model, the cold start.
        alpha: below which the corrected p must be.
        seed: of the test's sign flips.
        taught: the judgements are a teacher's order.
        first_of: query id -> the first id of those with the same text: these count once, by their mean, as the test
            takes queries for independent.

    Raises:
        GateError: where one of them wasn't measured, or queries failed.
    """
    found = {one.name: one for one in systems}
    if missing := [name for name in (model, *against) if name not in found]:
        raise GateError(
            f"{', '.join(missing)}: not measured; there are {', '.join(found) or 'no systems'}. Leave evaluation.base "
            "and evaluation.trained at true, and run the same command again"
        )
    mine = found[model]
    others = [*(one for one in systems if one.role == FIRST), *(found[name] for name in against)]
    if len(others) == len(against):
        raise GateError("the first stage wasn't measured, which the model must beat")
    for one in (mine, *others):
        if one.failed:
            raise GateError(f"{one.label}: {one.failed} queries failed; run the same command again before it is judged")
        if one.main.keys() != mine.main.keys():
            raise GateError(
                f"{one.label} and {mine.label} weren't measured on the same queries; run task=evaluate again"
            )
    mine_once = _once(mine.main, first_of)
    if len(mine_once) < 2:
        raise GateError(
            f"{len(mine_once)} held-out queries, and a test needs two at least; hold out more (own.held_out)"
        )
    tests = [paired_test(_once(one.main, first_of), mine_once, seed=seed) for one in others]
    corrected = holm([test.p_randomisation for test in tests])
    rows = tuple(
        Against(
            one.label,
            one.mean,
            test.mean_difference,
            p,
            test.wins,
            test.losses,
            better=test.mean_difference > 0 and p < alpha,
        )
        for one, test, p in zip(others, tests, corrected, strict=True)
    )
    of = "agreement with the teacher's order, which is no relevance" if taught else "relevance by the judgements"
    return Verdict(mine.label, mine.measure, len(mine_once), mine.mean, of, alpha, rows)


def _once(values: Mapping[str, float], first_of: Mapping[str, str] | None) -> dict[str, float]:
    """Means over the ids of one query."""
    together: dict[str, list[float]] = defaultdict(list)
    for query, value in values.items():
        together[(first_of or {}).get(query, query)].append(value)
    return {query: fmean(some) for query, some in together.items()}
