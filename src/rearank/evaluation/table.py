"""Results as tables: Markdown (readable in a terminal too), CSV for a program, LaTeX for a paper."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from rearank.evaluation.significance import bootstrap_interval, paired_test

Cell: TypeAlias = str | int | float | None
"""Floats are shown with four decimals (tiny ones as powers of ten), ``None`` as an empty cell."""

_SMALLEST_DECIMAL = 0.00005  # below it four decimals would show 0.0000
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
"""How a text begins that a spreadsheet takes for a formula: with these signs, or their wide forms."""
_NUMBERS = re.compile(r"[+-]?\d[\d.]*(e[+-]?\d+)?( to [+-]?\d[\d.]*(e[+-]?\d+)?)?")  # +0.0210, -0.01 to 0.02
_LATEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
}


def render_table(rows: Sequence[Mapping[str, Cell]]) -> str:
    """A Markdown table with a column for every key, in the order in which the keys first come.

    Columns of numbers are aligned right. A row without a key has an empty cell there; no rows give an empty string.
    """
    columns = _columns(rows)
    if not columns:
        return ""
    numeric = _numeric(rows, columns)
    cells = [[_escape(c) for c in columns], *([_escape(_text(row.get(c))) for c in columns] for row in rows)]
    # Three at least: shorter rules (`--:` with two characters, say) aren't Markdown everywhere.
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(columns))]
    lines = [_line(line, widths, numeric) for line in cells]
    rule = ["-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, numeric, strict=True)]
    return "\n".join([lines[0], _line(rule, widths, numeric), *lines[1:]])


def render_csv(rows: Sequence[Mapping[str, Cell]]) -> str:
    """The same rows for a program: a header line, floats with all their digits, no rounding.

    Names are others' text: one that a spreadsheet would run as a formula gets a ``'`` before it.
    """
    columns = _columns(rows)
    out = io.StringIO()
    if columns:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([_inert(c) for c in columns])
        writer.writerows([_inert(row.get(c)) for c in columns] for row in rows)
    return out.getvalue()


def render_latex(rows: Sequence[Mapping[str, Cell]]) -> str:
    """A ``tabular`` for the package booktabs, numbers aligned right; TeX's special characters are escaped."""
    columns = _columns(rows)
    if not columns:
        return ""
    layout = "".join("r" if right else "l" for right in _numeric(rows, columns))
    body = [" & ".join(_tex(_text(row.get(c))) for c in columns) + r" \\" for row in rows]
    head = " & ".join(_tex(c) for c in columns) + r" \\"
    lines = [rf"\begin{{tabular}}{{{layout}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def write_tables(stem: Path, rows: Sequence[Mapping[str, Cell]]) -> None:
    """``<stem>.csv`` and ``<stem>.tex``; the folder is made where it is missing."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(f"{stem.name}.csv").write_text(render_csv(rows), encoding="utf-8")
    stem.with_name(f"{stem.name}.tex").write_text(render_latex(rows), encoding="utf-8")


def summary_row(
    label: str,
    values: Mapping[str, float],
    baseline: Mapping[str, float] | None = None,
    *,
    measure: str = "nDCG@10",
    seed: int = 0,
    more: Mapping[str, Cell] | None = None,
) -> dict[str, Cell]:
    """One system's row: mean, 95% bootstrap interval, number of queries and, given a baseline, the paired test.

    Args:
        label: the system's name.
        values: query id -> value.
        baseline: the same queries' values of the system to compare with.
        measure: the heading of the mean.
        seed: of the interval's resampling and the test's sign flips.
        more: further columns, after the interval.

    Raises:
        ValueError: without values, or if ``baseline`` holds other queries.
    """
    ordered = [values[query] for query in sorted(values)]
    low, high = bootstrap_interval(ordered, seed=seed)
    row: dict[str, Cell] = {
        "system": label,
        measure: sum(ordered) / len(ordered),
        "95% interval": f"{low:.4f} to {high:.4f}",
        **(more or {}),
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


def _columns(rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _numeric(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str]) -> list[bool]:
    return [all(_is_number(row.get(column)) for row in rows) for column in columns]


def _is_number(cell: Cell) -> bool:
    """A text that reads as a number (``+0.0210``, say) counts as one."""
    if not isinstance(cell, str):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _inert(cell: Cell) -> Cell:
    if isinstance(cell, str):
        cell = cell.replace("\r", " ")  # which the writer doesn't quote, and readers take for a row's end
        return f"'{cell}" if _FORMULA.match(cell) and not _NUMBERS.fullmatch(cell) else cell
    return "" if cell is None else cell


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        tiny = math.isfinite(cell) and 0 < abs(cell) < _SMALLEST_DECIMAL
        return f"{cell:.1e}" if tiny else f"{cell:.4f}"
    return " ".join(str(cell).split())


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if numeric else cell.ljust(width)
        for cell, width, numeric in zip(cells, widths, right, strict=True)
    ]
    return f"| {' | '.join(padded)} |"
