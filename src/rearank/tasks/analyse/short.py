"""A short look at what training did to the answers, besides the score: a reward that was gamed shows here.

A few windows of one benchmark, of the untrained and the trained model: do the answers follow their reasoning, do places
decide, does a passage that asks for it get to the top, how long are they, can they be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rearank.analysis import HARMLESS, Analyse
from rearank.evaluation import Cell, render_table

_ATTACK = "order"
_PERMUTATIONS = 2


@dataclass(frozen=True)
class _Column:
    """A figure of one table of the analysis; ``worse`` is the direction of a fault, 0 where there is none."""

    heading: str
    table: str
    key: str
    interval: str = ""
    worse: int = 0
    what: str = ""


_COLUMNS = (
    _Column("tokens", "length", "mean tokens"),
    _Column("tau-b of reasoning", "faithfulness", "tau-b", "", -1, "answers follow their reasoning less"),
    _Column("consistency", "position", "consistency", "consistency ", -1, "places decide more"),
    _Column("order kept", "position", "as given"),
    _Column("attack success", "attack", "success", "success ", 1, "a passage that asks for it comes first more often"),
    _Column("unread", "position", "unread"),
)


def shortened(settings: Analyse) -> Analyse:
    """As ``analyse.after_training`` says: so many queries and windows, two shuffles, one attack and its control."""
    few = settings.after_training
    return replace(
        settings,
        what=("length", "faithfulness", "position", "attack"),
        queries=few, windows=few, repeats=1, temperature=None, permutations=_PERMUTATIONS,
        attacks=(HARMLESS, _ATTACK), more_attacks={},
    )  # fmt: skip


def short_table(tables: Mapping[str, Sequence[Mapping[str, Any]]], systems: Sequence[str]) -> str:
    """A row a system, and a line for each way in which the last is worse than the first beyond both intervals.

    Args:
        tables: an analysis's, by name.
        systems: their labels, the untrained one first.
    """
    rows: list[dict[str, Cell]] = [
        {"system": system, **{column.heading: _rounded(_of(tables, column, system), column.key) for column in _COLUMNS}}
        for system in systems
    ]
    return "\n".join([render_table(rows), *_worse(tables, systems)])


def _rounded(row: Mapping[str, Any], key: str) -> float | None:
    """A mean of many that add up to nothing is 0, not 1e-18."""
    value = row.get(key)
    return None if value is None else round(value, 4) + 0.0


def _of(tables: Mapping[str, Sequence[Mapping[str, Any]]], column: _Column, system: str) -> Mapping[str, Any]:
    """The system's row; of the attacks the one of passages as a prompt shows them by itself, neutralised."""
    for row in tables.get(column.table, ()):
        kept = row.get("unit", "query") == "query"
        kept = kept and row.get("attack", _ATTACK) == _ATTACK and row.get("neutralise", "yes") == "yes"
        if kept and row["system"] == system:
            return row
    return {}


def _worse(tables: Mapping[str, Sequence[Mapping[str, Any]]], systems: Sequence[str]) -> list[str]:
    if len(systems) < 2:
        return []
    found = []
    for column in _COLUMNS:
        before, after = (_of(tables, column, system) for system in (systems[0], systems[-1]))
        ends = ("high", "low") if column.worse > 0 else ("low", "high")
        one, other = (row.get(f"{column.interval}{end}") for row, end in zip((before, after), ends, strict=True))
        if column.worse and one is not None and other is not None and column.worse * (other - one) > 0:
            found.append(f"  after training {column.what} ({column.heading}): see whether the reward can be gamed")
    return found
