"""Whether a strategy, a prompt and a sampling go together: a wrong pair would cost points without an error."""

from __future__ import annotations

from collections.abc import Mapping

from rearank.prompts import Asks
from rearank.ranking.base import Reads, SaysWhatItReads, Strategy
from rearank.ranking.self_consistency import SelfConsistency

_SERVED_BY: Mapping[Reads, tuple[Asks, ...]] = {
    "ranking": ("ranking",),
    "best": ("best", "ranking"),  # the first of a whole order is the best
    "yes_no": ("yes_no",),
}
_ASKED: Mapping[Asks, str] = {
    "ranking": "the order of all passages",
    "best": "the best passage alone",
    "yes_no": "a yes or no about one passage",
}


def misfits(strategy: Strategy, asks: Asks, temperature: float) -> list[str]:
    """What is wrong with this choice, one line each with its remedy; empty if nothing is.

    Args:
        strategy: one that doesn't declare what it reads fits any prompt.
        asks: what the prompt asks for.
        temperature: of the model's sampling.
    """
    found = []
    if isinstance(strategy, SaysWhatItReads) and asks not in _SERVED_BY[strategy.reads]:
        fitting = " or ".join(f"asks: {name}" for name in _SERVED_BY[strategy.reads])
        found.append(
            f"the strategy ({type(strategy).__name__}) needs {_ASKED[strategy.reads]} and the prompt asks for "
            f"{_ASKED[asks]}; choose a prompt with {fitting} (prompt=setwise, pairwise and pointwise are made for the "
            "strategies of these names), or another strategy"
        )
    if isinstance(strategy, SelfConsistency) and temperature == 0:
        found.append(
            "strategy=self_consistency merges answers that differ, and at temperature 0 every sample is the same; set "
            "model.temperature=0.7, for example"
        )
    return found
