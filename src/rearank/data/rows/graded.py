"""Rows of a query with graded passages: augmentation draws training windows of them as of a first stage's lists."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Annotated, Any, Literal

from annotated_types import Ge

from rearank.checks import check_fields
from rearank.data.base import DataError, check_depth
from rearank.data.files import shown
from rearank.data.rows.columns import (
    check_named,
    grade_of,
    id_of,
    list_of,
    made_id,
    plain,
    text_and_title,
    text_of,
    value_of,
)
from rearank.data.rows.tables import LeftOut, RowTable
from rearank.data.source import JudgedCandidates
from rearank.runs import CONTENT
from rearank.types import Candidates, Passage, Query, well_formed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GradedColumns:
    """Names of a row's columns, and of the fields of a passage that is an object. Dots lead into objects.

    Either ``passages`` has a name, one list whose grades stand in each passage or in a list beside it, or
    ``positives`` has: these have grade 1, and ``negatives`` 0. A passage is a text or an object, and where there is
    one alone it needs no list.

    Args:
        id: of the query; ``null``: it is made of the query's text.
        query: its text.
        passages: a list.
        grades: a list beside ``passages``; ``null``: each has its own, under ``grade``.
        positives: relevant passages.
        negatives: those that aren't; ``null``: there are none.
        passage_id: of a passage; one without it has an id made of its text.
        text: of a passage.
        title: of a passage, which may lack it.
        grade: of a passage.
    """

    id: str | None = "id"
    query: str = "query"
    passages: str | None = "passages"
    grades: str | None = None
    positives: str | None = None
    negatives: str | None = None
    passage_id: str = "id"
    text: str = "text"
    title: str = "title"
    grade: str = "grade"

    def __post_init__(self) -> None:
        check_named(self, [("passages", "positives")])
        if self.positives is None and self.negatives is not None:
            raise ValueError("columns: negatives go with positives; of passages each has its grade")
        if self.passages is None and self.grades is not None:
            raise ValueError("columns: grades stand beside passages; positives have grade 1, negatives 0")


@dataclass
class _Asked:
    """A query and the passages of its rows so far, in their order."""

    query: Query
    passages: dict[str, Passage] = field(default_factory=dict)
    grades: dict[str, int] = field(default_factory=dict)
    by_text: dict[tuple[str, str], str] = field(default_factory=dict)

    def check(self, found: list[tuple[Passage, int]], where: str) -> None:
        """Raise `DataError` where a passage has another text than one before with its id."""
        fresh: dict[str, Passage] = {}
        for passage, _ in found:
            before = fresh.setdefault(passage.id, self.passages.get(passage.id, passage))
            if before != passage:
                raise DataError(
                    f"{where}: passage {shown(passage.id)} of query {shown(self.query.id)} has another text before; "
                    "give each text its own id"
                )

    def add(self, found: list[tuple[Passage, int]]) -> int:
        """Add what is new, and count the rest: it may raise a passage's grade."""
        repeated = 0
        for passage, grade in found:
            known = self.by_text.setdefault((passage.title, passage.text), passage.id)
            if known in self.passages:
                repeated += 1
                self.grades[known] = max(self.grades[known], grade)
            else:
                self.passages[known] = passage
                self.grades[known] = grade
        return repeated


@dataclass(frozen=True)
class GradedRows:
    """A dataset of a query with graded passages a row.

    Rows of one query are joined. A passage that a query has twice counts once, with its highest grade. A query without
    a relevant passage teaches nothing and is left out. All of this is counted.

    Args:
        name: of the dataset.
        path: a file (parquet, JSONL, JSON, TSV; also .gz), a folder of them, or a hub id.
        columns: what is where in a row.
        revision: a branch, tag or commit of the hub's; ``null`` for the newest.
        subset: of the hub's dataset; ``null`` for its default.
        split: of the hub's dataset, or of a folder whose files name it.
        tsv: names for the columns of tab-separated files; empty for other files.
        order: ``shuffled`` by query, passage and ``seed``, or as ``given``. Where positives stand first their place
            gives the answer away, and a model learns the place.
        seed: of that order.
        max_rows: the first so many rows; ``null`` for all.
        on_bad_row: what happens to a row that can't be read, or contradicts another.
    """

    name: str
    path: str = field(metadata=CONTENT)
    columns: GradedColumns = field(default_factory=GradedColumns)
    revision: str | None = None
    subset: str | None = None
    split: str = "train"
    tsv: tuple[str, ...] = ()
    order: Literal["shuffled", "given"] = "shuffled"
    seed: int = 0
    max_rows: Annotated[int, Ge(1)] | None = None
    on_bad_row: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        check_fields(self)

    def preflight(self) -> list[str]:
        """What of the rows' place isn't there."""
        return self._table.preflight()

    def judged(self, depth: int) -> list[JudgedCandidates]:
        """Every query in the order of the rows; of its first ``depth`` passages at least one is relevant."""
        check_depth(depth)
        return [
            JudgedCandidates(Candidates(asked.query, self._ordered(asked, depth)), dict(asked.grades))
            for asked in self._asked
        ]

    @property
    def _table(self) -> RowTable:
        return RowTable(self.path, self.revision, self.subset, self.split, self.tsv)

    @cached_property
    def _asked(self) -> list[_Asked]:
        queries: dict[str, _Asked] = {}
        left_out = LeftOut()
        repeated = 0
        for where, row in islice(self._table.read(), self.max_rows):
            try:
                if isinstance(row, DataError):
                    raise row
                repeated += self._join(queries, row, where)
            except DataError as error:
                left_out.add(error, self.on_bad_row)
        kept = [asked for asked in queries.values() if max(asked.grades.values(), default=0) > 0]
        left_out.counts += Counter({"query without a relevant passage": len(queries) - len(kept)})
        left_out.say(self.path, len(kept), "queries")
        if repeated:
            _log.info("%s: %d passages that their query had before count once", self.path, repeated)
        return kept

    def _join(self, queries: dict[str, _Asked], row: Mapping[str, Any], where: str) -> int:
        """Add a row to its query; returns how many of its passages were there before."""
        text = text_of(row, self.columns.query, where, "query")
        identifier = made_id(text) if self.columns.id is None else id_of(row, self.columns.id, where, "id")
        asked = queries.get(identifier, _Asked(Query(identifier, text)))
        if asked.query.text != text:
            raise DataError(f"{where}: query {shown(identifier)} has another text in a row before")
        found = self._passages(row, where)
        asked.check(found, where)
        queries[identifier] = asked
        return asked.add(found)

    def _passages(self, row: Mapping[str, Any], where: str) -> list[tuple[Passage, int]]:
        """With their grades, in the row's order."""
        columns = self.columns
        if columns.passages is None:
            return [
                (self._passage(item, f"{where}: passage {place} of {column!r}"), grade)
                for key, column, grade in (("positives", columns.positives, 1), ("negatives", columns.negatives, 0))
                if column is not None
                for place, item in enumerate(_several(row, column, where, key))
            ]
        items = _several(row, columns.passages, where, "passages")
        what = [f"{where}: passage {place} of {columns.passages!r}" for place in range(len(items))]
        passages = [self._passage(item, here) for item, here in zip(items, what, strict=True)]
        if columns.grades is None:
            given = [_own_grade(item, columns.grade, here) for item, here in zip(items, what, strict=True)]
        else:
            given = list_of(row, columns.grades, where, "grades")
            if len(given) != len(items):
                raise DataError(f"{where}: {len(given)} grades under {columns.grades!r} for {len(items)} passages")
        named = columns.grades or columns.grade
        return [
            (passage, grade_of(grade, here, named)) for passage, grade, here in zip(passages, given, what, strict=True)
        ]

    def _passage(self, item: Any, what: str) -> Passage:
        if isinstance(item, str):
            text, title, identifier = well_formed(item), "", None
        elif isinstance(item, Mapping):
            text, title = text_and_title(item, self.columns, what)
            identifier = item.get(self.columns.passage_id)
        else:
            raise DataError(f"{what} is {shown(item)}; write a text, or an object with one")
        if not text.strip() and not title.strip():
            raise DataError(f"{what} is empty; write its text, or leave it out")
        return Passage(made_id(title, text) if identifier is None else plain(identifier, what, "passage"), text, title)

    def _ordered(self, asked: _Asked, depth: int) -> tuple[Passage, ...]:
        passages = list(asked.passages.values())
        if self.order == "shuffled":  # by lot, each passage its own: another row or file order changes nothing
            passages.sort(key=lambda one: self._lot(asked.query.id, one.id))
        best = passages[:depth]
        if not any(asked.grades[passage.id] > 0 for passage in best):
            # Shuffled, its place is by lot, too: always the last would give it away.
            lot = int.from_bytes(self._lot(asked.query.id, "place")[:8]) % len(best)
            place = lot if self.order == "shuffled" else len(best) - 1
            best[place] = next(passage for passage in passages if asked.grades[passage.id] > 0)
        return tuple(best)

    def _lot(self, query: str, passage: str) -> bytes:
        return hashlib.sha256(f"{self.seed}/{query}/{passage}".encode()).digest()


def _several(row: Mapping[str, Any], column: str, where: str, key: str) -> list[Any]:
    """A list of passages; one alone is a list of one, and null is none."""
    value = value_of(row, column, where, key)
    if isinstance(value, str) or (isinstance(value, Mapping) and not any(isinstance(v, list) for v in value.values())):
        return [value]
    return [] if value is None else list_of(row, column, where, key)


def _own_grade(item: Any, column: str, what: str) -> Any:
    if not isinstance(item, Mapping) or column not in item:
        raise DataError(
            f"{what}: no grade under {column!r}; set dataset.columns.grade=..., or dataset.columns.grades=... for a "
            "list of them"
        )
    return item[column]
