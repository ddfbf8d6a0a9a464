"""What every benchmark here reports, and how it takes time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """One figure. ``bar`` says in words what is promised (empty: printed for information), ``ok`` whether it held."""

    benchmark: str
    what: str
    value: float
    unit: str
    bar: str = ""
    ok: bool = True


def seconds(work: Callable[[], T], repeats: int = 3) -> tuple[float, T]:
    """The shortest of ``repeats`` runs, and the last run's result: the shortest is the least disturbed by others."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def in_turns(*works: Callable[[], object], rounds: int = 3) -> list[float]:
    """The shortest time of each, measured in turns: a busy moment of the machine then hits all alike."""
    times = [[seconds(work, 1)[0] for work in works] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def words(count: int, vocabulary: int, draw: Callable[[], float]) -> str:
    """``count`` words of Zipf-like frequency from ``vocabulary`` word forms; ``draw`` gives numbers in [0, 1)."""
    syllables = (
        "ta",
        "ri",
        "mo",
        "len",
        "sku",
        "dor",
        "vi",
        "bra",
        "ne",
        "pho",
        "xi",
        "ging",
        "al",
        "ter",
        "ed",
        "ous",
    )
    chosen = []
    for _ in range(count):
        # The inverse of a 1/x distribution: rank r comes with probability of about 1/r.
        rank = int(vocabulary ** draw())
        word = ""
        while rank:
            rank, digit = divmod(rank, len(syllables))
            word += syllables[digit]
        chosen.append(word)
    return " ".join(chosen)
