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
    JUDGED,
    Cell,
    Comparison,
    Scored,
    bootstrap_interval,
    common_queries,
    compare,
    for_terminal,
    heading,
    most_moved,
    render_table,
    write_tables,
)
from rearank.evaluation.published import MEASURE
from rearank.experiment import Run
from rearank.runs.layout import write_json
from rearank.runs.reader import SYSTEM, UNTRAINED
from rearank.sections import Compare
from rearank.tasks.compare_inputs import CompareError, Entry, Found, gather
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
    by_label = {(one.scored.benchmark, one.scored.label): one for one in found.entries}
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
    means = [row for benchmark in _benchmarks(systems) for row in _means(benchmark, systems, settings, by_label)]
    tests = [_test_row(one) for one in comparisons]
    moved = [row for one in comparisons for row in _moved_rows(one, systems, found.texts, settings)]
    shown = {name: _marked(rows, by_label) for name, rows in (("means", means), ("tests", tests), ("moved", moved))}
    for name, rows in shown.items():
        write_tables(folder / name, rows)
    alone += [_unranked(one) for one in by_label.values() if one.failed or one.lacking]
    alone += _trained_on(found)
    lines = _text(shown["means"], shown["tests"], shown["moved"], alone, settings, len(comparisons))
    (folder / "comparison.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(
        folder / "comparison.json",
        {"means": means, "comparisons": [{**asdict(one), "test": one.test.as_json()} for one in comparisons]},
    )
    print(f"\n{for_terminal(chr(10).join(lines), 'comparison.md')}\n\neverything is in {folder}", flush=True)
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


def _marked(rows: Sequence[Mapping[str, Cell]], entries: Mapping[tuple[Any, Any], Entry]) -> list[dict[str, Cell]]:
    """The rows with labels that say where queries have no ranking."""

    def shown(row: Mapping[str, Cell], key: str) -> Cell:
        found = entries.get((row["benchmark"], row[key])) if key in ("system", "a", "b") else None
        return found.marked if found is not None else row[key]

    return [{key: shown(row, key) for key in row} for row in rows]


def _unranked(one: Entry) -> str:
    """What the mark of a system means."""
    failed = [f"failed queries: {one.failed}"] if one.failed else []
    lacking = [f"judged queries that are missing in the run file: {one.lacking}"] if one.lacking else []
    counted = next(iter(one.scored.values.values()))
    zero = f", {sum(query not in one.judged for query in counted)} of them as 0" if one.judged else ""
    what = " and ".join(failed + lacking)
    return f"{one.scored.benchmark}, {one.scored.label}: {what}; {len(counted)} are counted{zero}"


def _means(
    benchmark: str, systems: Sequence[Scored], settings: Compare, entries: Mapping[tuple[str, str], Entry]
) -> list[dict[str, Cell]]:
    """A row a system, over the queries that all systems of the benchmark share."""
    group = [system for system in systems if system.benchmark == benchmark]
    main, *others = settings.measures
    queries = common_queries(group, main)
    rows = []
    for system in group:
        values = [system.values[main][query] for query in queries]
        low, high = bootstrap_interval(values, seed=settings.seed)
        shares = entries[benchmark, system.label].judged
        its = [shares[query] for query in queries if query in shares]
        judged: dict[str, Cell] = {heading(JUDGED): fmean(its) if its else None}
        row: dict[str, Cell] = {"benchmark": benchmark, "system": system.label, heading(main): fmean(values)}
        row["95% interval"] = f"{low:.4f} to {high:.4f}"
        row |= judged if main == MEASURE else {}
        for m in others:
            row[heading(m)] = fmean(system.values[m][query] for query in common_queries(group, m))
            row |= judged if m == MEASURE else {}
        rows.append({**row, "queries": len(queries)})
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
