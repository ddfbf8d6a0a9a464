"""The completions store: every model call on disk, so that none is paid for twice and a killed run continues."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rearank.ranking import AbortRunError
from rearank.types import Completion, Message, Permutation, Sampling

_SCHEMA = """
create table if not exists completions (
    key text primary key, messages text not null, text text not null, prompt_tokens integer not null,
    completion_tokens integer not null, finish text not null, prompt_truncated integer not null, seconds real not null,
    parse_status text, permutation text
) without rowid
"""


def call_key(identity: Mapping[str, Any], messages: Sequence[Message], sampling: Sampling) -> str:
    """What names a call: the engine's identity (model, revision...), every message and the sampling, hashed."""
    call = {"engine": dict(identity), "messages": [asdict(m) for m in messages], "sampling": asdict(sampling)}
    return hashlib.sha256(json.dumps(call, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class StoreError(AbortRunError, OSError):
    """The store's file can't be opened or written; it stops the run, which would pay for answers it can't keep."""


class CompletionStore:
    """A SQLite file of calls and their answers. Each answer is on disk when ``put`` returns, SIGKILL or not.

    Raises ``StoreError`` naming the file where it can't be opened or written (no permission, a full disk).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=normal")  # safe against a killed process
            self._db.execute(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{self.path}: can't keep completions here ({error}); choose a writable folder") from error

    def get(self, key: str) -> Completion | None:
        """The recorded answer, or ``None``."""
        row = self._db.execute(
            "select text, prompt_tokens, completion_tokens, finish, seconds, prompt_truncated from completions "
            "where key = ?",
            (key,),
        ).fetchone()
        if row is None:
            return None
        text, prompt_tokens, completion_tokens, finish, seconds, truncated = row
        return Completion(text, prompt_tokens, completion_tokens, finish, seconds, bool(truncated))

    def put(self, key: str, messages: Sequence[Message], completion: Completion) -> Completion:
        """Record an answer and return it as recorded, so that a resumed run sees what this one saw.

        The first answer recorded for a call stays.
        """
        texts = hashlib.sha256(json.dumps([asdict(m) for m in messages]).encode()).hexdigest()
        # Lone surrogates can come out of a model; SQLite stores valid text only.
        text = completion.text.encode("utf-8", "replace").decode()
        row = (key, texts, text, completion.prompt_tokens, completion.completion_tokens, completion.finish)
        self._write(
            "insert or ignore into completions values (?, ?, ?, ?, ?, ?, ?, ?, null, null)",
            (*row, int(completion.prompt_truncated), completion.seconds),
        )
        return replace(completion, text=text)

    def annotate(self, key: str, parse_status: str, permutation: Permutation) -> None:
        """Record how the answer was read: the status, and the order as a JSON list of 0-based positions."""
        order = json.dumps(permutation.order)
        self._write(
            "update completions set parse_status = ?, permutation = ? where key = ? "
            "and (parse_status is not ? or permutation is not ?)",
            (parse_status, order, key, parse_status, order),
        )

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.path}: can't record a completion ({error}); free some disk space and rerun"
            ) from error

    def __len__(self) -> int:
        return int(self._db.execute("select count(*) from completions").fetchone()[0])

    def close(self) -> None:
        self._db.close()
