"""Tables on a terminal: at most 100 columns wide. What matters least is left out; files have everything."""

from __future__ import annotations

import re
from itertools import groupby

WIDTH = 100
_LESS = (
    *("queries", "measure", "t", "p (t-test)", "Holm", "wins/ties/losses", "wins/ties/losses of b", "judged@10"),
    *("in this setting", "published", "p (randomisation)", "sd of seeds", "validation", "95% interval"),
)
"""Headings that go first, the first one first; then what stands furthest right."""
_CELLS = re.compile(r"(?<!\\)\|")
_KEPT = 2  # columns, whatever their width: what a row is of, and its number
_SHORTEST = 12  # characters of a text that is cut


def for_terminal(text: str, everything: str, width: int = WIDTH) -> str:
    """``text``, the Markdown tables in it made as narrow as ``width``.

    Args:
        text: lines, tables among them as ``render_table`` makes them.
        everything: where the whole tables are, said below one that lacks columns.
        width: in characters.
    """
    parts: list[str] = []
    for table, group in groupby(text.split("\n"), lambda line: line.startswith("| ")):
        lines = list(group)
        parts += _narrow(lines, everything, width) if table else lines
    return "\n".join(parts)


def _narrow(lines: list[str], everything: str, width: int) -> list[str]:
    rows = [[cell.strip() for cell in _CELLS.split(line)[1:-1]] for line in lines]
    if len(lines[0]) <= width or len({len(row) for row in rows}) > 1:
        return lines
    rule = [cell.endswith(":") for cell in rows.pop(1)]
    kept, gone = list(range(len(rule))), []
    widths = [max(3, *(len(row[i]) for row in rows)) for i in kept]
    while len(kept) > _KEPT and _total(widths, kept) > width:
        least = [i for name in _LESS for i in kept[_KEPT - 1 :] if rows[0][i] == name]
        gone.append(least[0] if least else kept[-1])
        kept.remove(gone[-1])
    while (over := _total(widths, kept) - width) > 0:
        longest = max(kept, key=lambda i: widths[i])
        shorter = max(_SHORTEST, widths[longest] - over)
        if shorter >= widths[longest]:
            break
        for row in rows:
            row[longest] = row[longest] if len(row[longest]) <= shorter else _cut(row[longest], shorter)
        widths[longest] = shorter
    marks = ["-" * (widths[i] - 1) + ":" if rule[i] else "-" * widths[i] for i in kept]
    shown = [[row[i].rjust(widths[i]) if rule[i] else row[i].ljust(widths[i]) for i in kept] for row in rows]
    left_out = [f"(without {', '.join(rows[0][i] for i in sorted(gone))}: {everything} has them)"] if gone else []
    return [f"| {' | '.join(row)} |" for row in (shown[0], marks, *shown[1:])] + left_out


def _total(widths: list[int], kept: list[int]) -> int:
    return sum(widths[i] + 3 for i in kept) + 1


def _cut(text: str, length: int) -> str:
    """Its beginning and its end: what tells labels of a study apart may stand at either."""
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[len(text) - tail :]}"
