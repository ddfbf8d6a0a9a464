"""The section ``analyse`` of the config: what ``task=analyse`` looks at, and how closely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from annotated_types import Ge

from rearank.analysis.attacks import ATTACKS
from rearank.checks import check_fields
from rearank.runs import INCIDENTAL

Positive = Annotated[int, Ge(1)]

What = Literal["length", "faithfulness", "position", "attack"]
"""The analyses, in the order of the tables."""


@dataclass(frozen=True)
class Analyse:
    """How much is asked of the model.

    ``length`` and ``faithfulness`` look at the evaluation's own answers, which are in the completions store where the
    benchmark was evaluated; ``position`` and ``attack`` ask about windows of their own.

    Args:
        what: which analyses.
        queries: at most so many of the benchmark's, drawn by ``seed``; ``null`` for all.
        repeats: rankings a query for ``length`` and ``faithfulness`` (the paper's Fig. 6: 50); several need a
            temperature above 0.
        temperature: of these; ``null`` for the model's own (the paper's Fig. 6: 0.6).
        bins: of equal width, over the observed token counts.
        drop_zeros: leave out rankings that score 0, as the paper did for its figure.
        windows: at most so many for ``position`` and ``attack``, one a query.
        window_size: passages in each; ``null`` for the strategy's size.
        choose: ``sample`` draws a window's passages from the candidates, so that good and bad ones meet; ``top`` takes
            the first ones. Either way they stand in first-stage order.
        permutations: shuffled orders in which each window is asked again, for ``position``.
        attacks: names of ``rearank.analysis.ATTACKS``; empty for all.
        more_attacks: texts of your own by name; ``{query}``, ``{i}`` and ``{order}`` are filled in.
        place: where in the passage an attack stands; a prompt that cuts passages may never show the end.
        seed: of queries, windows, permutations, victims and intervals.
        after_training: windows of the short look that a pipeline ends with, of the untrained and the trained model, so
            that a reward that was gamed is seen; 0 for none. ``task=analyse`` doesn't go by it.
    """

    what: tuple[What, ...] = get_args(What)
    queries: Positive | None = None
    repeats: Positive = 1
    temperature: Annotated[float, Ge(0)] | None = None
    bins: Positive = 20
    drop_zeros: bool = False
    windows: Positive = 100
    window_size: Annotated[int, Ge(2)] | None = None
    choose: Literal["sample", "top"] = "sample"
    permutations: Positive = 5
    attacks: tuple[str, ...] = ()
    more_attacks: dict[str, str] = field(default_factory=dict)
    place: Literal["start", "end"] = "start"
    seed: int = 0
    after_training: Annotated[int, Ge(0)] = field(default=20, metadata=INCIDENTAL)

    def __post_init__(self) -> None:
        check_fields(self)
        if unknown := [name for name in self.attacks if name not in ATTACKS]:
            raise ValueError(f"attacks: {', '.join(unknown)} is none of {', '.join(ATTACKS)}")
        if self.repeats > 1 and self.temperature == 0:
            raise ValueError("at temperature 0 every repeat is the same; set temperature=0.6, say, or repeats=1")

    @property
    def attack_texts(self) -> Mapping[str, str]:
        """Name -> template of every attack that is asked for."""
        chosen = {name: ATTACKS[name] for name in self.attacks or ATTACKS}
        return {**chosen, **self.more_attacks}
