"""The table of a list of benchmarks: a row a system, a column a benchmark, and the average that papers print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.evaluation import JUDGED, Cell, heading
from rearank.evaluation.published import MEASURE, Published, all_published, averages, mean_of, published
from rearank.runs.reader import FIRST, marked
from rearank.tasks.evaluate.published import column
from rearank.tasks.evaluate.scores import SystemScores
from rearank.tasks.evaluate.tables import failed_lines, show


@dataclass(frozen=True)
class _Average:
    """Of a list's members: those that were evaluated, out of all."""

    name: str
    members: tuple[Benchmark, ...]
    evaluated: tuple[Benchmark, ...]
    only: bool

    @property
    def complete(self) -> bool:
        return len(self.evaluated) == len(self.members)

    @property
    def heading(self) -> str:
        """A mean over a part of the list is not called its average."""
        part = "average" if self.complete else f"mean of {len(self.evaluated)} of {len(self.members)}"
        return part if self.only else f"{self.name}: {part}"

    def of(self, means: Mapping[str, float]) -> float | None:
        """Mean over the evaluated members; ``None`` for a system that lacks one."""
        values = [means[member.name] for member in self.evaluated if member.name in means]
        return fmean(values) if values and len(values) == len(self.evaluated) else None

    @property
    def printed_as(self) -> str:
        """The name under which papers print this average."""
        columns = {column(member) for member in self.members}
        return next((name for name, members in averages().items() if set(members) == columns), self.name)

    def published(self, row: str) -> Published | None:
        """Over the same members: the printed average where all were evaluated, else the mean of the printed parts."""
        parts = [column(member) for member in self.evaluated]
        return (published(row, self.printed_as) if self.complete else None) or mean_of(row, parts)


def report_list(
    node: BenchmarkList,
    results: Mapping[str, Sequence[SystemScores]],
    missing: Mapping[str, str],
    folder: Path,
    uncovered: Mapping[str, str],
) -> dict[str, Any]:
    """The list's table, on screen and in ``folder`` as ``table.md``, ``.csv`` and ``.tex``; its part of the summary.

    Args:
        node: the list.
        results: benchmark name -> its systems, the first stage first.
        missing: benchmark name -> why it was left out.
        folder: of the evaluation.
        uncovered: benchmark name -> what is missing of its judged queries and passages.
    """
    there = [benchmark for benchmark in node.benchmarks if results.get(benchmark.name)]
    measures = {benchmark.name: next(iter(results[benchmark.name][0].per_query)) for benchmark in there}
    one_measure = len(set(measures.values())) == 1
    parts = list(_averages(node, there)) if one_measure else []
    rows: list[dict[str, Cell]] = []
    notes: list[str] = []
    of: dict[str, dict[str, float | None]] = {part.name: {} for part in parts}
    for key, members in _systems(there, results).items():
        means = {name: result.mean for name, result in members.items()}
        for part in parts:
            of[part.name][key] = part.of(means)
        cells: dict[str, Cell] = {name: means.get(name) for name in (benchmark.name for benchmark in there)}
        cells |= {part.heading: part.of(means) for part in parts}
        if set(measures.values()) == {MEASURE}:
            shares = [one.mean_judged for one in members.values() if one.mean_judged is not None]
            cells[heading(JUDGED)] = fmean(shares) if shares else None
        unread = " (unread)" if any(result.unreadable for result in members.values()) else ""
        rows.append({"system": _label(members) + unread, **cells})
        row = next((result.row for result in members.values() if result.row), None)
        if row is not None and set(measures.values()) == {MEASURE}:
            printed = _published_row(row, there, parts)
            rows += [printed] if len(printed) > 1 else []
            notes += _notes(row, members, parts)
    measured = heading(next(iter(measures.values()))) if one_measure else "the main measure"
    lines = [f"{node.name}: {measured} of each benchmark" + ("; the average is over benchmarks" if parts else "")]
    if not one_measure:
        notes.append("the benchmarks' main measures differ, so there is no average; set evaluation.measures")
    show(folder / "table", lines, rows, [*_gaps(there, results, missing, uncovered), *notes])
    return {"averages": {part.name: _average_json(part, of[part.name]) for part in parts}, "missing": dict(missing)}


def _average_json(part: _Average, of: Mapping[str, float | None]) -> dict[str, Any]:
    names = [member.name for member in part.evaluated]
    return {"complete": part.complete, "over": names, **{key: value for key, value in of.items() if value is not None}}


def _averages(node: BenchmarkList, there: Sequence[Benchmark]) -> Iterator[_Average]:
    """One for each list inside the list, or one for the list itself where it holds benchmarks alone."""
    inner = [member for member in node.members.values() if isinstance(member, BenchmarkList)]
    names = {benchmark.name for benchmark in there}
    for group in inner or [node]:
        evaluated = tuple(member for member in group.benchmarks if member.name in names)
        if evaluated:
            yield _Average(group.name, group.benchmarks, evaluated, only=not inner)


def _systems(
    there: Sequence[Benchmark], results: Mapping[str, Sequence[SystemScores]]
) -> dict[str, dict[str, SystemScores]]:
    """Row -> benchmark -> result, in the order of the table; all first stages are one row."""
    found: dict[str, dict[str, SystemScores]] = {}
    for benchmark in there:
        for result in results[benchmark.name]:
            key = "first_stage" if result.role == FIRST else result.name
            found.setdefault(key, {})[benchmark.name] = result
    if "ideal" in found:  # last, also where a system was measured on later benchmarks only
        found["ideal"] = found.pop("ideal")
    return found


def _label(members: Mapping[str, SystemScores]) -> str:
    labels = list(dict.fromkeys(result.label for result in members.values()))
    label = labels[0] if len(labels) == 1 or next(iter(members.values())).role != FIRST else FIRST
    return marked(label, sum(result.failed for result in members.values()))


def _published_row(row: str, there: Sequence[Benchmark], parts: Sequence[_Average]) -> dict[str, Cell]:
    """Cells only where something is printed."""
    cells: dict[str, Cell] = {"system": f"{row}, published"}
    for benchmark in there:
        if (one := published(row, column(benchmark))) is not None:
            cells[benchmark.name] = str(one)
    for part in parts:
        if (one := part.published(row)) is not None:
            cells[part.heading] = str(one)
    return cells


def _notes(row: str, members: Mapping[str, SystemScores], parts: Sequence[_Average]) -> list[str]:
    """Where a published row is from, what was different there, and what others measured."""
    shown = [result.published for result in members.values() if result.published is not None]
    numbers = [one for part in parts if (one := part.published(row)) is not None]
    sources = dict.fromkeys(one.source for one in [*(one.number for one in shown), *numbers])
    differences = dict.fromkeys(difference for one in shown for difference in one.differences)
    notes = [f"{row}, published: {'; '.join(sources)}"] if sources else []
    if differences:
        notes.append(f"{row}: here, {'; '.join(differences)}")
    for part in parts:
        first, *others = all_published(row, part.printed_as) or (None,)
        for other in others:
            if part.complete and first is not None and other.by != first.by:
                notes.append(f"{row}, {part.name} measured by {other.by}: {other} ({other.source})")
    return notes


def _gaps(
    there: Sequence[Benchmark],
    results: Mapping[str, Sequence[SystemScores]],
    missing: Mapping[str, str],
    uncovered: Mapping[str, str],
) -> list[str]:
    gaps = [f"{name} is left out: {reason}" for name, reason in missing.items()]
    gaps += [f"{name}: {line}" for name, line in uncovered.items() if line]
    for benchmark in there:
        gaps += [f"{benchmark.name}, {line}" for line in failed_lines(benchmark, results[benchmark.name])]
        gaps += [f"{benchmark.name}, {one.note}" for one in results[benchmark.name] if one.note]
    return gaps
