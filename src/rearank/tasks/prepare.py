"""``task=prepare``: judged candidates -> training and validation rows."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, ClassVar

from rearank.data import DataError, JudgedCandidates
from rearank.progress import counted, progress
from rearank.tasks.experiment import Run
from rearank.tasks.sharing import SHARED, shared
from rearank.tasks.stage import open_stage
from rearank.tasks.tracked import rows_artefact, tracker
from rearank.training.base import write_json
from rearank.training.rows import VERSION, write_rows
from rearank.types import JudgedWindow

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
    keys = ("dataset", "validation", "retriever", "augmentation", "prompt", "prepare", "seed")
    return {**run.settings(*keys), "version": VERSION}


def prepare(run: Run) -> Path:
    """The folder of the rows: made now, or found as these settings made it before.

    Raises ``DataError`` where no window is left to train on.
    """
    settings = prepared_settings(run)
    folder = open_stage(run.folder / "prepared", settings)
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
    with progress(f"judged candidates of {experiment.dataset.name}"):
        judged = experiment.dataset.judged(experiment.prepare.depth)
    if experiment.validation is not None:
        with progress(f"judged candidates of {experiment.validation.name}"):
            held_out = experiment.validation.judged(experiment.prepare.depth)
    else:
        held_out = [item for item in judged if _held_out(run, item)]
        judged = [item for item in judged if not _held_out(run, item)]
    judged = _drawn(run, judged)
    train, dropped = _augment(run, judged, "training windows")
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


def _held_out(run: Run, item: JudgedCandidates) -> bool:
    """By the query's id and the seed alone: adding a query moves no other between the splits."""
    if not run.experiment.prepare.validation_windows:
        return False
    name = f"{run.experiment.seed}/{item.candidates.query.id}".encode()
    share = int.from_bytes(hashlib.sha256(name).digest()[:6]) / 2**48
    return bool(share < run.experiment.prepare.validation_share)


def _drawn(run: Run, judged: Sequence[JudgedCandidates]) -> list[JudgedCandidates]:
    """``prepare.queries`` of them by lot, in their order; a larger number adds queries and takes none away."""
    count = run.experiment.prepare.queries
    if count is None or count >= len(judged):
        return list(judged)

    def lot(item: JudgedCandidates) -> bytes:
        return hashlib.sha256(f"{run.experiment.seed}/queries/{item.candidates.query.id}".encode()).digest()

    kept = {item.candidates.query.id for item in sorted(judged, key=lot)[:count]}
    return [item for item in judged if item.candidates.query.id in kept]


def _augment(run: Run, judged: Sequence[JudgedCandidates], what: str) -> tuple[list[JudgedWindow], Counter[str]]:
    windows: list[JudgedWindow] = []
    dropped: Counter[str] = Counter()
    for item in counted(judged, what, len(judged), "queries"):
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
    if getattr(run.experiment.prompt, "max_tokens", None) is None:
        return None
    from rearank.training.local import load_tokenizer

    with progress("loading the tokenizer"):
        return load_tokenizer(run.experiment.model.location, run.experiment.model.revision)
