"""``task=compare``: any number of output folders and TREC runs against one another, query by query.

``<output_dir>/comparison/`` gets ``comparison.md`` (everything, as on screen), ``means``, ``tests`` and ``moved`` in
CSV and LaTeX, and ``comparison.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.data.overlap import JudgedQuery, overlaps
from rearank.evaluation import (
    Cell,
    Comparison,
    Scored,
    bootstrap_interval,
    common_queries,
    compare,
    heading,
    most_moved,
    render_table,
    write_tables,
)
from rearank.experiment import Run
from rearank.runs.layout import write_json
from rearank.runs.reader import SYSTEM, UNTRAINED
from rearank.sections import Compare
from rearank.tasks.compare_inputs import CompareError, Found, gather
from rearank.tasks.overlap import training_queries
from rearank.types import Query

_TEXT = 100  # characters of a query's text in a table


@dataclass(frozen=True)
class CompareTask:
    """Asks no model anything."""

    needs: ClassVar[tuple[str, ...]] = ()

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/comparison``."""
        chosen = run.experiment
        compare_runs(chosen.compare, chosen.benchmark, run.folder / "comparison")


def compare_runs(settings: Compare, benchmark: Benchmark | BenchmarkList, folder: Path) -> list[Comparison]:
    """Compare what ``settings.runs`` names; print the tables, and write them into ``folder``.

    Run files are judged by ``settings.qrels``, or else by ``benchmark``.

    Raises:
        CompareError: where there is nothing to compare; the message says why.
    """
    found = gather(settings, benchmark)
    systems, alone = _comparable([entry.scored for entry in found.entries])
    try:
        comparisons = compare(
            systems,
            settings.measures,
            baseline=settings.baseline,
            permutations=settings.permutations,
            seed=settings.seed,
        )
    except ValueError as error:
        raise CompareError(str(error)) from error
    means = [row for benchmark in _benchmarks(systems) for row in _means(benchmark, systems, settings)]
    tests = [_test_row(one) for one in comparisons]
    moved = [row for one in comparisons for row in _moved_rows(one, systems, found.texts, settings)]
    for name, rows in (("means", means), ("tests", tests), ("moved", moved)):
        write_tables(folder / name, rows)
    lines = _text(means, tests, moved, [*alone, *_trained_on(found)], settings, len(comparisons))
    (folder / "comparison.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(
        folder / "comparison.json",
        {"means": means, "comparisons": [{**asdict(one), "test": one.test.as_json()} for one in comparisons]},
    )
    print("\n" + "\n".join(lines) + f"\n\neverything is in {folder}", flush=True)
    return comparisons


def _benchmarks(systems: Sequence[Scored]) -> list[str]:
    return list(dict.fromkeys(system.benchmark for system in systems))


def _comparable(systems: Sequence[Scored]) -> tuple[list[Scored], list[str]]:
    """The systems of benchmarks that have two at least, and a line about each other one."""
    of = {name: [system for system in systems if system.benchmark == name] for name in _benchmarks(systems)}
    alone = [
        f"{name}: only {group[0].label} was measured on it, so there is nothing to compare it with"
        for name, group in of.items()
        if len(group) < 2
    ]
    kept = [system for group in of.values() if len(group) > 1 for system in group]
    if not kept:
        raise CompareError(
            "nothing to compare: " + "; ".join(alone) + ". Give runs of the same benchmark; for TREC runs of the same "
            "queries set compare.qrels"
        )
    return kept, alone


def _means(benchmark: str, systems: Sequence[Scored], settings: Compare) -> list[dict[str, Cell]]:
    """A row a system, over the queries that all systems of the benchmark share."""
    group = [system for system in systems if system.benchmark == benchmark]
    main, *others = settings.measures
    queries = common_queries(group, main)
    rows = []
    for system in group:
        values = [system.values[main][query] for query in queries]
        low, high = bootstrap_interval(values, seed=settings.seed)
        more = {heading(m): fmean(system.values[m][query] for query in common_queries(group, m)) for m in others}
        row: dict[str, Cell] = {"benchmark": benchmark, "system": system.label, heading(main): fmean(values)}
        rows.append({**row, "95% interval": f"{low:.4f} to {high:.4f}", **more, "queries": len(queries)})
    return rows


def _test_row(one: Comparison) -> dict[str, Cell]:
    test = one.test
    return {
        "benchmark": one.benchmark,
        "measure": heading(one.measure),
        "a": one.a,
        "b": one.b,
        "b - a": f"{test.mean_difference:+.4f}",
        "t": test.t,
        "p (t-test)": test.p_value,
        "Holm": one.holm,
        "p (randomisation)": test.p_randomisation,
        "Holm (randomisation)": one.holm_randomisation,
        "wins/ties/losses of b": f"{test.wins}/{test.ties}/{test.losses}",
        "queries": test.queries,
    }


def _moved_rows(
    one: Comparison, systems: Sequence[Scored], texts: Mapping[str, Mapping[str, str]], settings: Compare
) -> list[dict[str, Cell]]:
    """Of the main measure alone."""
    if one.measure != settings.measures[0]:
        return []
    by_label = {system.label: system for system in systems if system.benchmark == one.benchmark}
    known = texts.get(one.benchmark, {})
    return [
        {
            **{"benchmark": one.benchmark, "a": one.a, "b": one.b, "query": query},
            **{heading(one.measure) + " of a": before, heading(one.measure) + " of b": after},
            "b - a": f"{after - before:+.4f}",
            "text": _short(known.get(query, "")),
        }
        for query, before, after in most_moved(by_label[one.a], by_label[one.b], one.measure, settings.moved)
    ]


def _trained_on(found: Found) -> list[str]:
    """A warning for each system whose run was trained on queries that it is measured on, by their texts."""
    lines = []
    for entry in found.entries:
        if entry.folder is None or entry.role != SYSTEM or entry.system in UNTRAINED:
            continue
        texts = found.texts.get(entry.scored.benchmark, {})
        measured = [JudgedQuery(Query(query, text), frozenset()) for query, text in texts.items()]
        if shared := overlaps(training_queries(entry.folder), measured):
            lines.append(
                f"WARNING: {entry.scored.label} was trained on {len(shared)} of the {len(texts)} queries of "
                f"{entry.scored.benchmark}: its scores there say nothing about new queries"
            )
    return lines


def _short(text: str) -> str:
    folded = " ".join(text.split())
    return folded if len(folded) <= _TEXT else folded[: _TEXT - 1] + "…"


def _text(
    means: Sequence[Mapping[str, Cell]],
    tests: Sequence[Mapping[str, Cell]],
    moved: Sequence[Mapping[str, Cell]],
    alone: Sequence[str],
    settings: Compare,
    comparisons: int,
) -> list[str]:
    queries: dict[Any, Any] = {row["benchmark"]: row["queries"] for row in means}
    over = ", ".join(f"{name}: {count}" for name, count in queries.items())
    lines = [f"Means over the queries that all systems share ({over}); intervals are 95% bootstrap", ""]
    lines += [render_table(means), ""]
    lines += [
        f"Paired tests, two-sided; Holm's correction is over all {comparisons} comparisons made",
        *("", render_table(tests)),
    ]
    if moved:
        lines += ["", f"Queries that moved most, at most {settings.moved} a comparison", "", render_table(moved)]
    return lines + (["", *alone] if alone else [])
