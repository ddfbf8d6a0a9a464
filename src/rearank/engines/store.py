"""The completions store: every model call on disk, so that none is paid for twice and a killed run continues."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from rearank.engines.base import turns
from rearank.ranking import AbortRunError
from rearank.types import Completion, Message, Permutation, Sampling

_SCHEMA = """
create table if not exists completions (
    key text primary key, messages text not null, text text not null, prompt_tokens integer not null,
    completion_tokens integer not null, finish text not null, prompt_truncated integer not null, seconds real not null,
    parse_status text, permutation text, cost real not null default 0, extra text not null default '{}', digest text
) without rowid
"""
_NEWER = {"cost": "real not null default 0", "extra": "text not null default '{}'", "digest": "text"}
"""Columns that files of earlier versions lack; rows of theirs have no digest and are taken as they are."""
_ASIDE = (
    "the file is damaged, or no store of completions: move it away, with its -wal and -shm files if there are any, and "
    "run the same command again, which asks for those answers anew"
)
_NOTE = (
    "update completions set parse_status = ?, permutation = ? where key = ? "
    "and (parse_status is not ? or permutation is not ?)"
)
_MOST_NOTES = 100
_PATIENCE = 60.0  # seconds for another process to let the file go


def call_key(identity: Mapping[str, Any], messages: Sequence[Message], sampling: Sampling) -> str:
    """What names a call: the engine's identity (model, revision...), every message and the sampling, hashed."""
    call = {"engine": dict(identity), "messages": turns(messages), "sampling": _drawn(sampling)}
    return hashlib.sha256(json.dumps(call, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


@lru_cache(maxsize=64)
def _drawn(sampling: Sampling) -> dict[str, Any]:
    """A run has a handful of samplings and names each of its calls by one."""
    return asdict(sampling)


def messages_hash(messages: Sequence[Message]) -> str:
    """What the store's column ``messages`` holds: a prompt's name, whoever is asked it."""
    return hashlib.sha256(json.dumps(turns(messages)).encode()).hexdigest()


class StoreError(AbortRunError, OSError):
    """The store's file can't be opened, read or written; it stops the run, which would pay for what it can't keep."""


_KINDS = [str, int, int, str, float, int, str, float]


def _digest(key: str, answer: Sequence[Any]) -> str:
    """Of an answer's columns as they are read, but for its cost, to which that of a failure may be added."""
    return hashlib.sha256(json.dumps([key, *answer]).encode()).hexdigest()[:16]


def _answer(key: str, row: tuple[Any, ...]) -> Completion:
    """The answer in a row of the file; raises ``ValueError`` where it isn't what ``put`` wrote: SQLite keeps any value,
    and doesn't notice a changed one.
    """
    *answer, cost, digest = row
    text, prompt_tokens, completion_tokens, finish, seconds, truncated, extra = answer
    if [type(value) for value in (*answer, cost)] != _KINDS or finish not in ("stop", "length"):
        raise ValueError("a row is no answer: a value in it is of another kind")
    if digest is not None and digest != _digest(key, answer):
        raise ValueError(f"the answer with the key {key} was changed after it was written")
    figures = json.loads(extra)
    if not isinstance(figures, dict) or not all(isinstance(value, float | int) for value in figures.values()):
        raise ValueError("a row is no answer: its column extra has no numbers by name")
    return Completion(text, prompt_tokens, completion_tokens, finish, seconds, bool(truncated), cost, figures)


class CompletionStore:
    """A SQLite file of calls and their answers. Each answer is on disk when ``put`` returns, SIGKILL or not.

    Several processes may use the same file at once. Raises ``StoreError`` naming the file where it can't be opened,
    read or written (no permission, a full disk, not such a file).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._notes: list[tuple[str, ...]] = []
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except sqlite3.Error:
                self._db.close()
                raise
        except (OSError, sqlite3.Error) as error:
            in_the_way = os.path.lexists(self.path) and not self.path.is_file()
            remedy = _ASIDE if in_the_way else "choose a writable folder"
            raise self._error("keep completions here", error, remedy) from error

    def get(self, key: str) -> Completion | None:
        """The recorded answer, or ``None``."""
        row = self._one(
            "select text, prompt_tokens, completion_tokens, finish, seconds, prompt_truncated, extra, cost, digest "
            "from completions where key = ?",
            (key,),
        )
        if row is None:
            return None
        try:
            return _answer(key, row)
        except ValueError as error:
            raise self._error("read completions", error, _ASIDE) from error

    def put(
        self, key: str, messages: Sequence[Message], completion: Completion, failed: Completion | None = None
    ) -> Completion:
        """Record an answer and return the recorded one, so that a resumed run sees what this one saw.

        The first answer recorded for a call stays, whichever process it came from; ``failed`` is one that is none (an
        earlier version recorded failures) and is replaced, its cost kept.
        """
        # Lone surrogates can come out of a model; SQLite stores valid text only.
        text = completion.text.encode("utf-8", "replace").decode()
        answer = {
            "text": text,
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "finish": completion.finish,
            "seconds": float(completion.seconds),
            "prompt_truncated": int(completion.prompt_truncated),
            "extra": json.dumps(dict(completion.extra)),
        }
        digest = _digest(key, list(answer.values()))
        values = {"key": key, "messages": messages_hash(messages), **answer, "cost": completion.cost, "digest": digest}
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        statement, given = f"insert or ignore into completions ({names}) values ({marks})", tuple(values.values())
        if failed is not None:
            changed = ", ".join(f"{name} = excluded.{name}" for name in values if name not in ("key", "cost"))
            statement = (
                f"insert into completions ({names}) values ({marks}) on conflict (key) do update set {changed}, "
                "cost = cost + excluded.cost, parse_status = null, permutation = null where text = ?"
            )
            self._write(statement, (*given, failed.text))
            return self.get(key) or replace(completion, text=text)
        added = self._write(statement, given)
        first = None if added else self.get(key)
        return replace(completion, text=text) if first is None else first

    def annotate(self, key: str, parse_status: str, permutation: Permutation) -> None:
        """Record how the answer was read: the status, and the order as a JSON list of 0-based positions.

        It is written with the next answer, or when the store is closed: a transaction of its own costs as much as the
        answer's. A run that is killed before is continued, reads the answer again and notes the same.
        """
        order = json.dumps(permutation.order)
        self._notes.append((parse_status, order, key, parse_status, order))
        if len(self._notes) >= _MOST_NOTES:
            self._write_notes()

    def cost(self) -> float:
        """US dollars that all recorded answers cost together."""
        row = self._one("select total(cost) from completions")
        return float(row[0]) if row is not None else 0.0

    def __len__(self) -> int:
        row = self._one("select count(*) from completions")
        return int(row[0]) if row is not None else 0

    def close(self) -> None:
        """Raises ``StoreError`` where the last notes can't be written."""
        try:
            if self._notes:
                self._write_notes()
        finally:
            self._db.close()

    def _prepare(self) -> None:
        """The file's mode and its table; files of earlier versions get the columns they lack."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._db.execute("pragma journal_mode=wal")
                break
            except sqlite3.OperationalError as error:  # SQLite itself doesn't wait where two switch at once
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self._db.execute("pragma synchronous=normal")  # safe against a killed process
        self._db.execute("begin immediate")  # two that open an old file must not both mend it
        self._db.execute(_SCHEMA)
        columns = {row[1] for row in self._db.execute("pragma table_info(completions)")}
        for name, kind in _NEWER.items():
            if name not in columns:
                self._db.execute(f"alter table completions add column {name} {kind}")
        self._db.execute("commit")

    def _one(self, statement: str, values: tuple[object, ...] = ()) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._db.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise self._error("read completions", error, _ASIDE) from error
        return row

    def _write(self, statement: str, values: tuple[object, ...]) -> bool:
        """Whether a row changed; on disk when this returns, and what was noted before with it."""
        try:
            if not self._notes:
                return self._db.execute(statement, values).rowcount > 0
            with self._noting():
                return self._db.execute(statement, values).rowcount > 0
        except sqlite3.Error as error:
            raise self._error("record a completion", error, "free some disk space and rerun") from error

    def _write_notes(self) -> None:
        try:
            with self._noting():
                pass
        except sqlite3.Error as error:
            raise self._error("record a completion", error, "free some disk space and rerun") from error

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """A transaction that begins with what was noted; what can't be written isn't tried again."""
        notes, self._notes = self._notes, []
        self._db.execute("begin immediate")
        try:
            self._db.executemany(_NOTE, notes)
            yield
            self._db.execute("commit")
        except BaseException:
            if self._db.in_transaction:  # a full disk ends it by itself
                self._db.execute("rollback")
            raise

    def _error(self, what: str, error: Exception, remedy: str) -> StoreError:
        """Names the file and the way out: a file that is damaged, or no such file, is in the way for good."""
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        return StoreError(f"{self.path}: can't {what} ({error}); {_ASIDE if damaged else remedy}")
