"""The completions store: every model call on disk, so that none is paid for twice and a killed run continues."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rearank.types import Completion, Message, Sampling

_SCHEMA = """
create table if not exists completions (
    key text primary key, messages text not null, text text not null, prompt_tokens integer not null,
    completion_tokens integer not null, finish text not null, prompt_truncated integer not null, seconds real not null
) without rowid
"""


def call_key(identity: Mapping[str, Any], messages: Sequence[Message], sampling: Sampling) -> str:
    """What names a call: the engine's identity (model, revision...), every message and the sampling, hashed."""
    call = {"engine": dict(identity), "messages": [asdict(m) for m in messages], "sampling": asdict(sampling)}
    return hashlib.sha256(json.dumps(call, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class CompletionStore:
    """A SQLite file of calls and their answers. Each answer is on disk when ``put`` returns, SIGKILL or not.

    Raises ``OSError`` naming the file where it can't be opened or written (no permission, a full disk).
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
            raise OSError(f"{self.path}: can't keep completions here ({error}); choose a writable folder") from error

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

    def put(self, key: str, messages: Sequence[Message], completion: Completion) -> None:
        """Record an answer; the first one recorded for a call stays."""
        texts = hashlib.sha256(json.dumps([asdict(m) for m in messages]).encode()).hexdigest()
        # Lone surrogates can come out of a model; SQLite stores valid text only.
        text = completion.text.encode("utf-8", "replace").decode()
        row = (key, texts, text, completion.prompt_tokens, completion.completion_tokens, completion.finish)
        try:
            self._db.execute(
                "insert or ignore into completions values (?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, int(completion.prompt_truncated), completion.seconds),
            )
        except sqlite3.Error as error:
            raise OSError(
                f"{self.path}: can't record a completion ({error}); free some disk space and rerun"
            ) from error

    def __len__(self) -> int:
        return int(self._db.execute("select count(*) from completions").fetchone()[0])

    def close(self) -> None:
        self._db.close()
