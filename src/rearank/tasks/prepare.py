"""``prepare``: judged candidates, or rows that a dataset holds, -> training and validation rows."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from rearank.augmentation import Augmentation
from rearank.data import DataError, HoldsRows, JudgedCandidates, JudgedSource, PromptedWindow
from rearank.data.overlap import JudgedQuery, families
from rearank.moved import attributes_of
from rearank.progress import counted, progress
from rearank.prompts import Prompt, Tokenizer
from rearank.runs.layout import SEAL, SUMMARY, TRAIN_ROWS, VALIDATION_LISTS, VALIDATION_ROWS, read_json, write_json
from rearank.runs.seal import seal
from rearank.runs.sharing import fingerprint, shared
from rearank.runs.stage import Stage
from rearank.sections import Preparation
from rearank.tasks.overlap import refuse_overlap
from rearank.tracking import Artefact
from rearank.tracking.run_trackers import RunTrackers
from rearank.training.lists import read_lists, write_lists
from rearank.training.rows import RowError, TrainingRow, read_rows, write_rows
from rearank.training.traces import taught
from rearank.types import JudgedWindow

__getattr__ = attributes_of(__name__)  # old names of what has moved

T = TypeVar("T")
Dataset: TypeAlias = JudgedSource | HoldsRows
Queries: TypeAlias = dict[str, JudgedCandidates | list[PromptedWindow]]
"""By id: candidates to draw windows from, or windows as a dataset holds them."""
_MADE = (TRAIN_ROWS, VALIDATION_ROWS, SUMMARY)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """Prepared rows: where they lie, what they depend on, and the artefact that they are."""

    folder: Path
    dataset: str
    identity: Mapping[str, Any]

    def train(self) -> list[TrainingRow]:
        """Rows to train on."""
        return read_rows(self.folder / TRAIN_ROWS)

    def validation(self) -> list[TrainingRow]:
        """Rows to validate on; none at all is a choice, a bad one is an error."""
        try:
            return read_rows(self.folder / VALIDATION_ROWS)
        except RowError as error:
            if "no row" in str(error):
                return []
            raise

    def lists(self) -> list[JudgedCandidates]:
        """Whole lists of the held-out queries; raises ``ListError`` where they can't be read."""
        return read_lists(self.folder / VALIDATION_LISTS)

    def taught(self, traces: Path, *, tags: bool) -> Rows:
        """The same rows, of which the training rows bring a teacher's answers.

        Args:
            traces: the teacher's file.
            tags: whether the prompt asks for ``<think>`` and ``<answer>``.
        """
        return _TaughtRows(self.folder, self.dataset, self.identity, traces, tags)

    def artefact(self, *, used: bool = False) -> Artefact:
        """The same name for the same identity, so that a sweep's jobs share them."""
        names = (*sorted(path.name for path in self.folder.glob("*.parquet")), SUMMARY)
        counts = json.loads((self.folder / SUMMARY).read_text())
        name = f"rows-{self.dataset}-{fingerprint(self.identity)}"
        files = {name: self.folder / name for name in names}
        if (lists := self.folder / VALIDATION_LISTS).is_file():
            files[VALIDATION_LISTS] = lists
        return Artefact("dataset", name, files, {**counts, "settings": dict(self.identity)}, used)


@dataclass(frozen=True)
class _TaughtRows(Rows):
    """Prepared rows beside a teacher's file of answers."""

    traces: Path
    tags: bool

    def train(self) -> list[TrainingRow]:
        """Raises ``TraceError`` where the file can't be read."""
        rows = super().train()
        answers = taught(rows, self.traces, tags=self.tags)
        return [replace(row, completion=answer) for row, answer in zip(rows, answers, strict=True)]


@dataclass(frozen=True)
class Preparing:
    """How rows are made of datasets.

    Args:
        dataset: of the training rows.
        validation: of the validation rows; ``None`` for a share of the training queries.
        augmentation: draws windows from candidates.
        prompt: shows them.
        settings: the section ``prepare``.
        seed: of the split.
        load_tokenizer: of the model; called only for a prompt that cuts by tokens, as loading one takes seconds.
        measured_on: benchmark -> its judged queries; called only where training is to do without them.
        lists: whether whole candidate lists of the held-out queries are kept, too.
    """

    dataset: Dataset
    validation: Dataset | None
    augmentation: Augmentation
    prompt: Prompt
    settings: Preparation
    seed: int
    load_tokenizer: Callable[[], Tokenizer]
    measured_on: Callable[[], Mapping[str, Sequence[JudgedQuery]]] = dict
    lists: bool = False

    @property
    def makes(self) -> tuple[str, ...]:
        """The files."""
        return (*_MADE, VALIDATION_LISTS) if self.lists else _MADE

    @property
    def draws_windows(self) -> bool:
        """Whether windows are drawn and prompts written, or all rows are held by their datasets as they are."""
        sources = (self.dataset, self.validation)
        return any(source is not None and not isinstance(source, HoldsRows) for source in sources)


def prepare(how: Preparing, stage: Stage, trackers: RunTrackers, store: Path | None = None) -> Rows:
    """The rows: made now, or found as the same identity made them before.

    Args:
        how: how the rows are made.
        stage: where, and what they depend on.
        trackers: get the counts.
        store: a folder in which a sweep's jobs share equal rows.

    Raises:
        DataError: where no window is left to train on.
    """
    folder = stage.open()
    rows = Rows(folder, how.dataset.name, stage.identity)
    if (folder / SUMMARY).is_file():
        if not (found := _damage(stage, how.makes)):
            _log.info("prepared rows found in %s", folder)
            return rows
        _log.warning("%s; the rows are prepared again", "; ".join(found))
    with shared(store, stage.identity, folder, (*how.makes, SEAL)) as there:
        if there:
            _log.info("%s: the rows that another job of the sweep prepared", folder)
        else:
            summary = _write(how, folder)
            with trackers.open(folder, "prepare") as tracker:
                tracker.jsonl.rewind(-1)
                counts = {k: v for k, v in summary.items() if k != "dropped"}
                counts |= {f"dropped/{reason}": count for reason, count in summary["dropped"].items()}
                tracker.log({f"data/{name}": count for name, count in counts.items()}, 0)
                tracker.artefact(rows.artefact())
    return rows


def _damage(stage: Stage, made: Sequence[str]) -> list[str]:
    """A line for each file that can't be gone on from; an earlier version listed no digests."""
    missing = [f"{path}: is missing" for name in made if not (path := stage.folder / name).is_file()]
    if not missing and not read_json(stage.folder / SUMMARY):
        missing = [f"{stage.folder / SUMMARY}: can't be parsed"]
    return stage.damage() or missing


def _write(how: Preparing, folder: Path) -> dict[str, Any]:
    """Draw the windows and write them; returns and writes how many there are."""
    settings = how.settings
    judged, left_out = _queries(how.dataset, settings.depth)
    elsewhere = dict(how.measured_on()) if settings.overlap == "drop" else {}
    held_out: Queries = {}
    if how.validation is not None:
        held_out, _ = _queries(how.validation, settings.depth)
        elsewhere[f"validation={how.validation.name}"] = [_judged_query(item) for item in held_out.values()]
    # Before any are held out: a checkpoint is chosen by these, so that what is measured is none of them either.
    shared_with = refuse_overlap([_judged_query(item) for item in judged.values()], elsewhere, settings.overlap)
    judged = {query: item for query, item in judged.items() if query not in shared_with}
    if how.validation is None:
        held_out = _held_out(how, judged)
        judged = {query: item for query, item in judged.items() if query not in held_out}
    judged = _drawn(how, judged)
    if shared_with and not judged:
        raise DataError(
            f"dataset {how.dataset.name}: prepare.overlap=drop leaves no training query, as all {len(shared_with)} are "
            f"also in {', '.join(elsewhere)}; choose another split or benchmark, or set prepare.overlap=allow"
        )
    train, dropped = _augment(how.augmentation, judged, "training windows")
    dropped.update(left_out)
    if not train:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.most_common())
        raise DataError(
            f"dataset {how.dataset.name}: {len(judged)} judged queries left no window to train on ({reasons}); "
            "loosen augmentation.filter, or check that the judgements belong to these candidates"
        )
    validation, _ = _augment(how.augmentation, held_out, "validation windows")
    validation = list(islice(by_turns(validation, lambda one: one.window.query.id), settings.validation_windows))
    if how.lists:
        write_lists(folder / VALIDATION_LISTS, _lists(how, held_out))
    tokenizer = _tokenizer(how)
    for name, windows, split in ((TRAIN_ROWS, train, "train"), (VALIDATION_ROWS, validation, "validation")):
        with progress(f"writing {name}"):
            write_rows(folder / name, windows, how.prompt, how.dataset.name, split, tokenizer=tokenizer)
    summary: dict[str, Any] = {
        **({"queries_dropped_as_measured": len(shared_with)} if shared_with else {}),
        "training_queries": len(judged),
        "validation_queries": len(held_out),
        "training_windows": len(train),
        "validation_windows": len(validation),
        "dropped": dict(dropped),
    }
    write_json(folder / SUMMARY, summary)
    seal(folder, how.makes)
    _log.info("%s: %s", folder, json.dumps(summary))
    return summary


def _lists(how: Preparing, held_out: Queries) -> list[JudgedCandidates]:
    """Of the held-out queries; raises ``DataError`` where there are none to validate on."""
    found = [item for item in held_out.values() if not isinstance(item, list)]
    if found and len(found) == len(held_out):
        return found
    source, windows = how.validation or how.dataset, "or set trainer.validate_on=windows"
    if held_out:
        raise DataError(
            f"dataset {source.name} holds windows and no candidate lists, which trainer.validate_on=lists needs: name "
            f"a dataset@validation that has them, {windows}"
        )
    raise DataError(
        f"dataset {source.name}: trainer.validate_on=lists, and no query is held out: raise prepare.validation_share "
        f"and prepare.validation_windows, name a dataset@validation, {windows}"
    )


def _tokenizer(how: Preparing) -> Tokenizer | None:
    if getattr(how.prompt, "max_tokens", None) is None or not how.draws_windows:
        return None
    with progress("loading the tokenizer"):
        return how.load_tokenizer()


def _queries(source: Dataset, depth: int) -> tuple[Queries, Mapping[str, int]]:
    """Every judged query, and how many rows the dataset itself left out for which reason."""
    if not isinstance(source, HoldsRows):
        with progress(f"judged candidates of {source.name}"):
            found = source.judged(depth)
        return {item.candidates.query.id: item for item in found}, {}
    with progress(f"rows of {source.name}"):
        held = source.rows()
    queries: dict[str, list[PromptedWindow]] = {}
    for window in held.windows:
        queries.setdefault(window.window.query.id, []).append(window)
    return dict(queries), held.left_out


def _held_out(how: Preparing, judged: Queries) -> Queries:
    """By the query's id and the seed alone: adding a query moves no other between the splits.

    Ids of one query (the same text, or ``q#1`` and ``q#2``) go together, by the first of them in the alphabet.
    """
    if not how.settings.validation_windows:
        return {}
    first = families({query: _judged_query(item).query.text for query, item in judged.items()})

    def share(query: str) -> float:
        return int.from_bytes(hashlib.sha256(f"{how.seed}/{query}".encode()).digest()[:6]) / 2**48

    return {query: item for query, item in judged.items() if share(first[query]) < how.settings.validation_share}


def _judged_query(item: JudgedCandidates | list[PromptedWindow]) -> JudgedQuery:
    if not isinstance(item, list):
        return JudgedQuery(item.candidates.query, frozenset(p for p, grade in item.grades.items() if grade > 0))
    relevant = (p.id for one in item for p, grade in zip(one.window.passages, one.relevance, strict=True) if grade > 0)
    return JudgedQuery(item[0].window.query, frozenset(relevant))


def _drawn(how: Preparing, judged: Queries) -> Queries:
    """``prepare.queries`` of them by lot, in their order; a larger number adds queries and takes none away."""
    count = how.settings.queries
    if count is None or count >= len(judged):
        return judged

    def lot(query: str) -> bytes:
        return hashlib.sha256(f"{how.seed}/queries/{query}".encode()).digest()

    kept = set(sorted(judged, key=lot)[:count])
    return {query: item for query, item in judged.items() if query in kept}


def _augment(augmentation: Augmentation, judged: Queries, what: str) -> tuple[list[JudgedWindow], Counter[str]]:
    windows: list[JudgedWindow] = []
    dropped: Counter[str] = Counter()
    for item in counted(judged.values(), what, len(judged), "queries"):
        if isinstance(item, list):
            windows += item
            continue
        made = augmentation.augment(item.candidates, item.grades)
        windows += made.windows
        dropped.update(made.dropped)
    return windows, dropped


def by_turns(windows: Sequence[T], query: Callable[[T], str]) -> Iterator[T]:
    """The first window of every query, then the second of every query..."""
    by_query: dict[str, list[T]] = {}
    for window in windows:
        by_query.setdefault(query(window), []).append(window)
    return (window for window in chain.from_iterable(zip_longest(*by_query.values())) if window is not None)
