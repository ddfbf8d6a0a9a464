"""A benchmark's table and its part of the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rearank.data.benchmark import Benchmark
from rearank.evaluation import (
    JUDGED,
    Cell,
    for_terminal,
    heading,
    paired_test,
    render_table,
    summary_row,
    write_tables,
)
from rearank.evaluation.published import MEASURE
from rearank.runs.reader import SYSTEM
from rearank.tasks.evaluate.scores import SystemScores


def show(stem: Path, lines: Sequence[str], rows: Sequence[Mapping[str, Cell]], after: Sequence[str] = ()) -> None:
    """``lines``, the table and what follows it, on screen and in ``<stem>.md``; the rows in CSV and LaTeX, too."""
    text = "\n".join([*lines, "", render_table(rows), *(["", *after] if after else [])])
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(f"{stem.name}.md").write_text(text + "\n", encoding="utf-8")
    write_tables(stem, rows)
    print(f"\n{for_terminal(text, f'{stem}.md')}\n", flush=True)


def report(benchmark: Benchmark, results: Sequence[SystemScores], trained: str, folder: Path) -> dict[str, Any]:
    """One benchmark's table, and its part of the summary.

    Args:
        benchmark: what ``results`` were measured on.
        results: the first stage first.
        trained: the name of the system that was trained in this folder, where there is one.
        folder: where ``table.md``, ``.csv`` and ``.tex`` go.
    """
    first, main = results[0], benchmark.measures[0]
    rows = [_row(result, first, main) for result in results]
    lines = [
        f"{benchmark.name}: {len(first.values)} queries, first {benchmark.depth} candidates; differences are to "
        f"the first stage, intervals are 95% bootstrap"
    ]
    gaps = [benchmark.gaps] if benchmark.gaps else []
    after = [*gaps, *failed_lines(benchmark, results), *known_lines(benchmark, first), *_published_lines(results)]
    tests, lines_of_tests = _trained_tests(results, trained)
    notes = [result.note for result in results if result.note]
    show(folder / "table", lines, rows, [*notes, *after, *lines_of_tests])
    return {
        **{result.name: result.mean for result in results},
        **tests,
        "measure": main,
        "queries": len(first.values),
        "measures": {result.name: result.means for result in results},
        "judged": {one.name: one.mean_judged for one in results},
        "failed": {one.name: one.failed for one in results if one.failed},
        "published": {one.name: one.published.as_json() for one in results if one.published is not None},
        "known": dict(benchmark.known),
        "cost": round(sum(result.cost for result in results), 9),
    }


def failed_lines(benchmark: Benchmark, results: Sequence[SystemScores]) -> list[str]:
    """How many queries failed, and what they count; a line for each system that has any."""
    counted = "count 0" if benchmark.missing == "zero" else "are left out (benchmark.missing=skip)"
    return [
        f"{one.label}: without a ranking, as they failed: {one.failed}; they {counted}, {len(one.values)} are counted"
        for one in results
        if one.failed
    ]


def known_lines(benchmark: Benchmark, first: SystemScores) -> list[str]:
    """What BM25 is known to have here, against the first stage: to be looked at before a reranker is paid for."""
    if MEASURE not in first.per_query or not benchmark.known:
        return []
    ours = first.means[MEASURE]
    known = benchmark.known.items()
    # + 0.0: a difference that rounds to nothing is no -0.0000
    listed = ", ".join(f"{source} {value:.4f} ({round(ours - value, 4) + 0.0:+.4f})" for source, value in known)
    return [f"{first.label}: {heading(MEASURE)} {ours:.4f}; known of BM25 here: {listed}"]


def _row(result: SystemScores, first: SystemScores, main: str) -> dict[str, Cell]:
    judged: dict[str, Cell] = {heading(JUDGED): result.mean_judged}
    more: dict[str, Cell] = dict(judged) if main == MEASURE else {}
    if result.published is not None:
        more["published"] = str(result.published.number)
        more["in this setting"] = "no" if result.published.differences else "yes"
    for measure, value in result.means.items():
        more |= {heading(measure): value} if measure != main else {}
        more |= judged if measure == MEASURE else {}
    compared = first.values if result.role == SYSTEM and comparable(first, result) else None
    return summary_row(result.marked, result.values, compared, measure=heading(main), more=more)


def _published_lines(results: Sequence[SystemScores]) -> list[str]:
    """Where each published number is from, and what was different there."""
    lines = []
    for result in results:
        if result.published is not None:
            found, differences = result.published.number, "; ".join(result.published.differences)
            note = f"; here: {differences}" if differences else ""
            lines.append(f"published {found}: {found.row}, {found.source}, by {found.by}{note}")
    return lines


def comparable(a: SystemScores, b: SystemScores) -> bool:
    """A paired test needs the same queries on both sides (``missing=skip`` leaves failed ones out), two at least."""
    return a.values.keys() == b.values.keys() and len(a.values) > 1


def _trained_tests(results: Sequence[SystemScores], trained: str) -> tuple[dict[str, Any], list[str]]:
    """What was trained here against what it was trained from, and against the first stage."""
    by_name = {result.name: result for result in results}
    if trained not in by_name or "base" not in by_name or not comparable(by_name["base"], by_name[trained]):
        return {}, []
    first, base, after = results[0], by_name["base"], by_name[trained]
    test = paired_test(base.values, after.values)
    found: dict[str, Any] = {"p_value": test.p_value, "test": test.as_json()}
    if comparable(first, after):
        found[f"p_value_{first.name}"] = paired_test(first.values, after.values).p_value
    line = (
        f"{after.marked} against {base.marked}: {test.mean_difference:+.4f} (paired t-test p = {test.p_value:.2g}, "
        f"randomisation p = {test.p_randomisation:.2g}; better on {test.wins}, equal on {test.ties}, "
        f"worse on {test.losses})"
    )
    return found, ["", line]
