"""``task=prepare``: judged candidates, or rows that a dataset holds, -> training and validation rows."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from rearank.data import DataError, HoldsRows, JudgedCandidates, PromptedWindow
from rearank.progress import counted, progress
from rearank.runs.layout import write_json
from rearank.tasks.experiment import Run
from rearank.tasks.sharing import SHARED, shared
from rearank.tasks.stage import CODE, FILES, open_stage
from rearank.tasks.tracked import rows_artefact, tracker
from rearank.training.rows import VERSION, write_rows
from rearank.types import JudgedWindow

Queries: TypeAlias = dict[str, JudgedCandidates | list[PromptedWindow]]
"""By id: candidates to draw windows from, or windows as a dataset holds them."""
TRAIN, VALIDATION, SUMMARY = "train.parquet", "validation.parquet", "summary.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareTask:
    """Write the rows both trainers read."""

    needs: ClassVar[tuple[str, ...]] = ("dataset", "tracking")

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/prepared``."""
        prepare(run)


def prepared_settings(run: Run) -> dict[str, Any]:
    """What the rows depend on."""
    keys = rows_depend_on(run)
    return {
        **run.settings(*keys, "prepare", "seed"),
        "version": VERSION,
        CODE: run.code(*keys),
        FILES: run.files(*keys),
    }


def rows_depend_on(run: Run) -> tuple[str, ...]:
    """The groups whose options make the rows."""
    return ("dataset", "validation", *(("retriever", "augmentation", "prompt") if draws_windows(run) else ()))


def draws_windows(run: Run) -> bool:
    """Whether windows are drawn and prompts written, or all rows are held by their datasets as they are."""
    sources = (run.experiment.dataset, run.experiment.validation)
    return any(source is not None and not isinstance(source, HoldsRows) for source in sources)


def prepare(run: Run) -> Path:
    """The folder of the rows: made now, or found as these settings made it before.

    Raises ``DataError`` where no window is left to train on.
    """
    settings = prepared_settings(run)
    accept = run.experiment.accept_changed_code
    folder = open_stage(run.folder / "prepared", settings, accept_changed_code=accept)
    if (folder / SUMMARY).is_file():
        _log.info("prepared rows found in %s", folder)
        return folder
    store = run.sweep / SHARED if run.sweep is not None else None
    with shared(store, settings, folder, (TRAIN, VALIDATION, SUMMARY)) as there:
        if there:
            _log.info("%s: the rows that another job of the sweep prepared", folder)
        else:
            summary = _write(run, folder)
            with tracker(run, folder, "prepare") as told:
                told.jsonl.rewind(-1)
                counts = {k: v for k, v in summary.items() if k != "dropped"}
                counts |= {f"dropped/{reason}": count for reason, count in summary["dropped"].items()}
                told.log({f"data/{name}": count for name, count in counts.items()}, 0)
                told.artefact(rows_artefact(run, folder, settings))
    return folder


def _write(run: Run, folder: Path) -> dict[str, Any]:
    """Draw the windows and write them; returns and writes how many there are."""
    experiment = run.experiment
    judged, left_out = _queries(run, experiment.dataset)
    if experiment.validation is not None:
        held_out, _ = _queries(run, experiment.validation)
    else:
        held_out = {query: item for query, item in judged.items() if _held_out(run, query)}
        judged = {query: item for query, item in judged.items() if query not in held_out}
    judged = _drawn(run, judged)
    train, dropped = _augment(run, judged, "training windows")
    dropped.update(left_out)
    if not train:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.most_common())
        raise DataError(
            f"dataset {experiment.dataset.name}: {len(judged)} judged queries left no window to train on ({reasons}); "
            "loosen augmentation.filter, or check that the judgements belong to these candidates"
        )
    validation, _ = _augment(run, held_out, "validation windows")
    validation = list(islice(_by_turns(validation), experiment.prepare.validation_windows))
    tokenizer = _tokenizer(run)
    for name, windows, split in ((TRAIN, train, "train"), (VALIDATION, validation, "validation")):
        with progress(f"writing {name}"):
            write_rows(folder / name, windows, experiment.prompt, experiment.dataset.name, split, tokenizer=tokenizer)
    summary: dict[str, Any] = {
        "training_queries": len(judged),
        "validation_queries": len(held_out),
        "training_windows": len(train),
        "validation_windows": len(validation),
        "dropped": dict(dropped),
    }
    write_json(folder / SUMMARY, summary)
    _log.info("%s: %s", folder, json.dumps(summary))
    return summary


def _queries(run: Run, source: Any) -> tuple[Queries, Mapping[str, int]]:
    """Every judged query, and how many rows the dataset itself left out for which reason."""
    if not isinstance(source, HoldsRows):
        with progress(f"judged candidates of {source.name}"):
            found = source.judged(run.experiment.prepare.depth)
        return {item.candidates.query.id: item for item in found}, {}
    with progress(f"rows of {source.name}"):
        held = source.rows()
    queries: dict[str, list[PromptedWindow]] = {}
    for window in held.windows:
        queries.setdefault(window.window.query.id, []).append(window)
    return dict(queries), held.left_out


def _held_out(run: Run, query: str) -> bool:
    """By the query's id and the seed alone: adding a query moves no other between the splits."""
    if not run.experiment.prepare.validation_windows:
        return False
    name = f"{run.experiment.seed}/{query}".encode()
    share = int.from_bytes(hashlib.sha256(name).digest()[:6]) / 2**48
    return bool(share < run.experiment.prepare.validation_share)


def _drawn(run: Run, judged: Queries) -> Queries:
    """``prepare.queries`` of them by lot, in their order; a larger number adds queries and takes none away."""
    count = run.experiment.prepare.queries
    if count is None or count >= len(judged):
        return judged

    def lot(query: str) -> bytes:
        return hashlib.sha256(f"{run.experiment.seed}/queries/{query}".encode()).digest()

    kept = set(sorted(judged, key=lot)[:count])
    return {query: item for query, item in judged.items() if query in kept}


def _augment(run: Run, judged: Queries, what: str) -> tuple[list[JudgedWindow], Counter[str]]:
    windows: list[JudgedWindow] = []
    dropped: Counter[str] = Counter()
    for item in counted(judged.values(), what, len(judged), "queries"):
        if isinstance(item, list):
            windows += item
            continue
        made = run.experiment.augmentation.augment(item.candidates, item.grades)
        windows += made.windows
        dropped.update(made.dropped)
    return windows, dropped


def _by_turns(windows: Sequence[JudgedWindow]) -> Iterator[JudgedWindow]:
    """The first window of every query, then the second of every query..."""
    by_query: dict[str, list[JudgedWindow]] = {}
    for judged in windows:
        by_query.setdefault(judged.window.query.id, []).append(judged)
    return (judged for judged in chain.from_iterable(zip_longest(*by_query.values())) if judged is not None)


def _tokenizer(run: Run) -> Any:
    """Only for a prompt that cuts by tokens: loading one takes seconds."""
    if getattr(run.experiment.prompt, "max_tokens", None) is None or not draws_windows(run):
        return None
    from rearank.training.local import load_tokenizer

    with progress("loading the tokenizer"):
        return load_tokenizer(run.experiment.model.location, run.experiment.model.revision)
