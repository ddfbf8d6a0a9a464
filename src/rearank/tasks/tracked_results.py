"""An evaluation's figures, tables and runs, told to the trackers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rearank.tasks.experiment import Run
from rearank.tasks.reranking import TRACE_COLUMNS, TRACES
from rearank.tasks.results import FIRST, METRICS, RUN, SYSTEM, Measured
from rearank.tasks.tracked import group, title, tracker
from rearank.tracking import Artefact, read_jsonl

QUERY_COLUMNS = ("benchmark", "system", "query", "text", "measure", "first stage", "reranked", "change")


def track_evaluation(run: Run, results: Mapping[str, Sequence[Measured]], model: Artefact | None) -> None:
    """Means as ``test/<benchmark>/<system>``, tables of queries and traces, and the runs as an artefact."""
    folder = run.folder / "evaluation"
    with tracker(run, folder, "evaluate") as told:
        told.jsonl.rewind(-1)
        told.log(dict(_means(results)), 0)
        told.table("queries", QUERY_COLUMNS, list(_queries(folder, results)), 0)
        if traces := list(_traces(folder, results)):
            told.table("traces", TRACE_COLUMNS, traces, 0)
        if model is not None:
            told.artefact(model)
        told.artefact(run_artefact(run))


def run_artefact(run: Run, *, used: bool = False) -> Artefact:
    """Every system's ranking and scores."""
    folder = run.folder / "evaluation"
    files = {str(path.relative_to(folder)): path for name in (RUN, METRICS) for path in folder.glob(f"*/*/{name}")}
    summary = run.folder / "summary.json"
    files |= {"summary.json": summary} if summary.is_file() else {}
    return Artefact("run", f"run-{group(run)}-{title(run)}", dict(sorted(files.items())), {}, used)


def track_report(run: Run) -> None:
    """``report.html``, where one was written, as an artefact made of the runs."""
    page = run.folder / "report.html"
    if page.is_file():
        with tracker(run, run.folder, "report") as told:
            told.artefact(run_artefact(run, used=True))
            told.artefact(Artefact("report", f"report-{group(run)}-{title(run)}", {page.name: page}))


def _means(results: Mapping[str, Sequence[Measured]]) -> Iterator[tuple[str, float]]:
    for benchmark, found in results.items():
        for one in found:
            main, *others = one.means.items()
            yield f"test/{benchmark}/{one.name}", main[1]
            for measure, mean in others:
                yield f"test/{benchmark}/{one.name}/{measure}", mean


def _queries(folder: Path, results: Mapping[str, Sequence[Measured]]) -> Iterator[list[Any]]:
    """Under ``QUERY_COLUMNS``: every query of every system against the first stage."""
    for benchmark, found in results.items():
        first = next((one.values for one in found if one.role == FIRST), {})
        texts = json.loads((folder / benchmark / "queries.json").read_text())
        for one in (one for one in found if one.role == SYSTEM):
            measure = next(iter(one.per_query))
            for query, value in one.values.items():
                before = first.get(query, 0.0)
                yield [benchmark, one.name, query, texts.get(query, ""), measure, before, value, value - before]


def _traces(folder: Path, results: Mapping[str, Sequence[Measured]]) -> Iterator[list[Any]]:
    for benchmark, found in results.items():
        for one in found:
            for line in read_jsonl(folder / benchmark / one.name / TRACES):
                yield [{"benchmark": benchmark, "system": one.name, **line}.get(name) for name in TRACE_COLUMNS]
