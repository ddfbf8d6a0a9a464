"""An evaluation's figures, tables and runs, as the trackers get them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rearank.runs.layout import EVALUATION, METRICS, QUERIES, RUN, SUMMARY, TRACES
from rearank.runs.reader import FIRST, SYSTEM
from rearank.tasks.evaluate.reranking import TRACE_COLUMNS
from rearank.tasks.evaluate.scores import SystemScores
from rearank.tracking import Artefact, read_jsonl
from rearank.tracking.run_trackers import RunTrackers

QUERY_COLUMNS = ("benchmark", "system", "query", "text", "measure", "first stage", "reranked", "change")


def track_evaluation(
    folder: Path, results: Mapping[str, Sequence[SystemScores]], model: Artefact | None, trackers: RunTrackers
) -> None:
    """Means as ``test/<benchmark>/<system>``, tables of queries and traces, and the runs as an artefact."""
    with trackers.open(folder, "evaluate") as tracker:
        tracker.jsonl.rewind(-1)
        tracker.log(dict(_means(results)), 0)
        tracker.table("queries", QUERY_COLUMNS, list(_queries(folder, results)), 0)
        if traces := list(_traces(folder, results)):
            tracker.table("traces", TRACE_COLUMNS, traces, 0)
        if model is not None:
            tracker.artefact(model)
        tracker.artefact(run_artefact(folder, trackers))


def run_artefact(folder: Path, trackers: RunTrackers, *, used: bool = False) -> Artefact:
    """Every system's ranking and scores, of the evaluation in ``folder``."""
    files = {str(path.relative_to(folder)): path for name in (RUN, METRICS) for path in folder.glob(f"*/*/{name}")}
    summary = folder.parent / SUMMARY
    files |= {SUMMARY: summary} if summary.is_file() else {}
    return Artefact("run", trackers.name_of("run"), dict(sorted(files.items())), {}, used)


def track_report(page: Path, trackers: RunTrackers) -> None:
    """The report's page, as an artefact made of the runs in its folder."""
    with trackers.open(page.parent, "report") as tracker:
        tracker.artefact(run_artefact(page.parent / EVALUATION, trackers, used=True))
        tracker.artefact(Artefact("report", trackers.name_of("report"), {page.name: page}))


def _means(results: Mapping[str, Sequence[SystemScores]]) -> Iterator[tuple[str, float]]:
    for benchmark, found in results.items():
        for one in found:
            main, *others = one.means.items()
            yield f"test/{benchmark}/{one.name}", main[1]
            for measure, mean in others:
                yield f"test/{benchmark}/{one.name}/{measure}", mean


def _queries(folder: Path, results: Mapping[str, Sequence[SystemScores]]) -> Iterator[list[Any]]:
    """Under ``QUERY_COLUMNS``: every query of every system against the first stage."""
    for benchmark, found in results.items():
        first = next((one.values for one in found if one.role == FIRST), {})
        texts = json.loads((folder / benchmark / QUERIES).read_text())
        for one in (one for one in found if one.role == SYSTEM):
            measure = next(iter(one.per_query))
            for query, value in one.values.items():
                before = first.get(query, 0.0)
                yield [benchmark, one.name, query, texts.get(query, ""), measure, before, value, value - before]


def _traces(folder: Path, results: Mapping[str, Sequence[SystemScores]]) -> Iterator[list[Any]]:
    for benchmark, found in results.items():
        for one in found:
            for line in read_jsonl(folder / benchmark / one.name / TRACES):
                yield [{"benchmark": benchmark, "system": one.name, **line}.get(name) for name in TRACE_COLUMNS]
