"""Rows that bring their passages' texts: JSONL (one's own, RankLLM's, RankGPT's) and parquet."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from io import BufferedReader
from typing import Any

from rearank.data import DataError
from rearank.data.files import parse_json, read_id, read_lines, shown
from rearank.data.rankllm import candidates_of
from rearank.data.rows.columns import names, text_and_title
from rearank.sections import STANDARD, RerankColumns
from rearank.types import Candidates, Passage, Query, scorable, well_formed

_BATCH = 64  # rows of a parquet file in memory at once
_RANKLLM = ("candidates", "hits")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't be used: why, opening with its file and line, and the row as it stands in the file."""

    error: DataError
    row: Any


class SeenIds:
    """Ids that were met, kept in a temporary file: millions of them take no memory."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("create table seen (id text primary key) without rowid")
        self._db.execute("begin")
        weakref.finalize(self, self._db.close)

    def add(self, identifier: str) -> bool:
        """Whether it is new."""
        return self._db.execute("insert or ignore into seen values (?)", (identifier,)).rowcount > 0


@dataclass(frozen=True)
class TextRows:
    """JSONL or parquet, a query with its passages a row.

    Args:
        path: of the file; ``-`` for JSONL from standard input.
        columns: of rows of one's own.
        parquet: which of the two.
        plain_ids: ids are brought into the form that TREC runs can carry.
    """

    path: str
    columns: RerankColumns
    parquet: bool
    plain_ids: bool

    def asked(self) -> None:
        """Each row has its query."""

    def lengths(self) -> Iterator[int | BadRow]:
        """Of each list."""
        return (one if isinstance(one, BadRow) else len(one.passages) for one in self.lists())

    def lists(self) -> Iterator[Candidates | BadRow]:
        """Each row's."""
        return self._parquet() if self.parquet else self._jsonl()

    def _jsonl(self) -> Iterator[Candidates | BadRow]:
        name, seen = name_of(self.path), SeenIds()
        for number, line in read_lines(name, "input", standard(self.path)):
            if not line.strip():
                continue
            try:
                row = parse_json(line, name, number, "write one JSON object a line (of an array: jq -c '.[]')")
                yield self._candidates(row, f"{name}:{number}", number, seen)
            except DataError as error:
                yield BadRow(error, line)

    def _parquet(self) -> Iterator[Candidates | BadRow]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        number, seen = 0, SeenIds()
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=_BATCH):
                    for row in batch.to_pylist():
                        number += 1
                        try:
                            yield self._candidates(row, f"{self.path}: row {number}", number, seen)
                        except DataError as error:
                            yield BadRow(error, row)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{self.path}: after row {number}: can't be read ({error}); write the file again"
            ) from error

    def _candidates(self, row: Any, where: str, number: int, seen: SeenIds) -> Candidates:
        found = self._row(row, where, number)
        if not seen.add(found.query.id):
            raise DataError(f"{where}: query id {shown(found.query.id)} occurs twice; give each row its own")
        return found

    def _row(self, row: Any, where: str, number: int) -> Candidates:
        if not isinstance(row, dict):
            raise DataError(f"{where}: a JSON object is expected, not {type(row).__name__}")
        listed = row.get(self.columns.passages)
        if listed is None and any(isinstance(row.get(name), list) for name in _RANKLLM):
            return candidates_of(row, where)
        if not isinstance(listed, list):
            raise DataError(
                f"{where}: no list of passages under {self.columns.passages!r}; the row has {names(row)}: set "
                "rerank.columns.passages=... (queries alone: rerank.format=topics)"
            )
        passages = tuple(self._passage(item, where, place) for place, item in enumerate(listed))
        query = self._query(row, where, number)
        try:
            return Candidates(query, passages)
        except ValueError as error:
            raise DataError(f"{where}: {error}; give each its own") from error

    def _query(self, row: Mapping[str, Any], where: str, number: int) -> Query:
        given, columns = row.get(self.columns.query), self.columns
        text = given.get(columns.text) if isinstance(given, dict) else given
        if not isinstance(text, str):
            raise DataError(
                f"{where}: no text under {columns.query!r}; the row has {names(row)}: set rerank.columns.query=..."
            )
        if not text.strip():
            raise DataError(f"{where}: the query is empty; write one, or leave the row out")
        return Query(self._id(row.get(columns.id), where, "query", number), well_formed(text))

    def _passage(self, item: Any, where: str, place: int) -> Passage:
        if isinstance(item, str):
            return Passage(str(place), well_formed(item))
        what, columns = f"{where}: passage {place}", self.columns
        if not isinstance(item, dict):
            raise DataError(f"{what} is {shown(item)}; write a text, or an object with one")
        text, title = text_and_title(item, columns, what, "rerank.columns")
        identifier = self._id(item.get(columns.passage_id), where, "passage", place)
        return Passage(identifier, text, title)

    def _id(self, given: Any, where: str, what: str, number: int) -> str:
        if given is None:
            return str(number)
        if isinstance(given, bool) or not isinstance(given, str | int):
            raise DataError(f"{where}: the {what} id is {shown(given)}; write a text or a whole number")
        if self.plain_ids:
            return read_id(str(given), where, what)
        if not str(given) or not scorable(str(given)):
            raise DataError(f"{where}: the {what} id is empty, or no text that can be written; give it another one")
        return str(given)


def standard(path: str) -> BufferedReader | None:
    """Standard input, where ``path`` means that."""
    return _standard_input() if path == STANDARD else None


@cache
def _standard_input() -> BufferedReader:
    """A reader of its own: Python's is closed at the end, and waits for a thread that still reads from it."""
    return open(0, "rb", closefd=False)  # it is read until the process ends


def name_of(path: str) -> str:
    """Of an input, in messages."""
    return "standard input" if path == STANDARD else path
