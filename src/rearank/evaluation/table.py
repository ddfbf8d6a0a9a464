"""Results as a Markdown table, readable in a terminal too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from rearank.evaluation.significance import bootstrap_interval, paired_test

Cell: TypeAlias = str | int | float | None
"""Floats are shown with four decimals (tiny ones as powers of ten), ``None`` as an empty cell."""

_SMALLEST_DECIMAL = 0.00005  # below it four decimals would show 0.0000


def render_table(rows: Sequence[Mapping[str, Cell]]) -> str:
    """A Markdown table with a column for every key, in the order in which the keys first come.

    Columns of numbers are aligned right. A row without a key has an empty cell there; no rows give an empty string.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return ""
    numeric = [all(not isinstance(row.get(c), str) for row in rows) for c in columns]
    cells = [[_escape(c) for c in columns], *([_text(row.get(c)) for c in columns] for row in rows)]
    # Three at least: shorter rules (`--:` with two characters, say) aren't Markdown everywhere.
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(columns))]
    lines = [_line(line, widths, numeric) for line in cells]
    rule = ["-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, numeric, strict=True)]
    return "\n".join([lines[0], _line(rule, widths, numeric), *lines[1:]])


def summary_row(
    label: str,
    values: Mapping[str, float],
    baseline: Mapping[str, float] | None = None,
    *,
    measure: str = "nDCG@10",
    seed: int = 0,
) -> dict[str, Cell]:
    """One system's row: mean, 95% bootstrap interval, number of queries and, given a baseline, the paired test.

    Args:
        label: the system's name.
        values: query id -> value.
        baseline: the same queries' values of the system to compare with.
        measure: the heading of the mean.
        seed: of the interval's resampling and the test's sign flips.

    Raises:
        ValueError: without values, or if ``baseline`` holds other queries.
    """
    ordered = [values[query] for query in sorted(values)]
    low, high = bootstrap_interval(ordered, seed=seed)
    row: dict[str, Cell] = {
        "system": label,
        measure: sum(ordered) / len(ordered),
        "95% interval": f"{low:.4f} to {high:.4f}",
        "queries": len(ordered),
    }
    if baseline is not None:
        test = paired_test(baseline, values, seed=seed)
        row |= {
            "difference": f"{test.mean_difference:+.4f}",
            "p (t-test)": test.p_value,
            "p (randomisation)": test.p_randomisation,
            "wins/ties/losses": f"{test.wins}/{test.ties}/{test.losses}",
        }
    return row


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        tiny = math.isfinite(cell) and 0 < abs(cell) < _SMALLEST_DECIMAL
        return f"{cell:.1e}" if tiny else f"{cell:.4f}"
    return _escape(str(cell))


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if numeric else cell.ljust(width)
        for cell, width, numeric in zip(cells, widths, right, strict=True)
    ]
    return f"| {' | '.join(padded)} |"
