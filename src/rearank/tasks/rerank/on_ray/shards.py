"""A reranked input in pieces: ``<stage>/shards/000/000012.trec`` (or ``.jsonl``) holds what came of block 12.

Each is written once and appears whole: its lines, what it lacks (``.skipped.jsonl``, where there is any) and, last of
all, ``000012.json``, which says that it is done, what its answers came to and what its lines' digest is. Nothing else
says so: whoever dies before that file is there has done nothing, and the next one begins with the recorded answers.
``manifest.jsonl`` lists all of them at the end, and the output is made of them in the order of the input.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from rearank.data import DataError
from rearank.engines.account import Account
from rearank.runs.layout import read_json, write_json, write_text
from rearank.tasks.rerank.records import WritesRecords

SHARDS, ANSWERS = "shards", "completions"
"""Folders: of the shards, in the stage's; of the answers, a store a shard, in the run's: other settings keep them."""
MANIFEST, PLAN = "manifest.jsonl", "plan.json"
_IN_A_FOLDER = 1000
_PATIENCE, _PAUSE = 120.0, 0.2  # seconds for a process that is being ended to let a shard go, and between two looks
_TRIES = 20  # of a block whose actors die


class ShardError(RuntimeError):
    """A shard is missing, changed or held by another process; the message says which, and what to do."""


@dataclass(frozen=True)
class Done:
    """What came of a block, as its shard's file says it.

    ``bad`` rows and ``failed`` queries are left out of its lines; ``figures`` and ``cost`` (exact) are of all answers.
    """

    number: int
    queries: int = 0
    empty: int = 0
    bad: int = 0
    failed: int = 0
    failures: tuple[str, ...] = ()
    strategy_scores: bool = False
    figures: Mapping[str, float] = field(default_factory=dict)
    cost: float = 0.0
    bytes: int = 0
    digest: str = ""

    @property
    def account(self) -> Account:
        """Of its answers."""
        return Account.of(self.figures, self.cost)


@dataclass(frozen=True)
class Shards:
    """The shards of one output.

    Args:
        folder: ``<stage>/shards``; every machine that has an actor sees it.
        answers: the folder of the recorded answers.
        trec: whether lines are a TREC run's; otherwise each is a record as JSON.
    """

    folder: Path
    answers: Path
    trec: bool

    def plan(self, block: int, command: str) -> int:
        """Queries a block: what the shards that are there were cut by, or else ``block``.

        That and ``command``, a name of this command, are written down for the actors to find.
        """
        there = read_json(self.folder / PLAN).get("block")
        size = there if isinstance(there, int) and there > 0 else block
        write_json(self.folder / PLAN, {"block": size, "command": command})
        return size

    def lines(self, number: int) -> Path:
        """Where a shard's lines are."""
        return self._place(number, ".trec" if self.trec else ".jsonl")

    def skipped(self, number: int) -> Path:
        """Where what it lacks is."""
        return self._place(number, ".skipped.jsonl")

    def store(self, number: int) -> Path:
        """Of its block's answers."""
        return self.answers / f"{number // _IN_A_FOLDER:03}" / f"{number:06}.sqlite"

    def done(self, number: int) -> Done | None:
        """What came of a block; ``None`` until its shard is whole."""
        found = read_json(self._place(number, ".json"))
        try:
            return Done(**{**found, "failures": tuple(found["failures"])}) if found else None
        except (KeyError, TypeError):  # another version's
            return None

    def finish(self, done: Done) -> None:
        """Say that a shard is whole: the last that is written of it."""
        write_json(self._place(done.number, ".json"), asdict(done))

    @contextmanager
    def held(self, number: int, command: str, patience: float = _PATIENCE) -> Iterator[None]:
        """Keep every other process from block ``number``: one that Ray gave up may still be at work.

        Raises:
            ShardError: where one holds it for ``patience`` seconds, or so many of ``command`` have died with it that
                it may be what ends them: Ray would begin it for ever.
        """
        place = self.store(number).with_suffix(".lock")
        place.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + patience
        with place.open("a+") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise ShardError(
                            f"{place}: another process has worked on this shard for {patience:.0f} s and doesn't end; "
                            "end it (an actor of an earlier command) and run the same command again"
                        ) from None
                    time.sleep(_PAUSE)
            file.seek(0)
            if (begun := file.read().splitlines().count(command)) >= _TRIES:
                raise ShardError(
                    f"{place}: {begun} actors have died at work on this shard; see whether its queries are too much "
                    "for the engine's memory, and run the same command again"
                )
            file.write(f"{command}\n")
            file.flush()
            yield

    def join(self, count: int, writer: WritesRecords | None, output: BinaryIO, skipped: BinaryIO) -> None:
        """All lines into ``output`` and what is lacking into ``skipped``, in the order of the input; the manifest.

        Args:
            count: of shards.
            writer: takes records for ``output``, where its format isn't the shards' own.
            output: takes lines as they are otherwise.
            skipped: takes the rows and failures that are left out.

        Raises:
            ShardError: for one that isn't as it was written.
        """
        listed = []
        for number in range(count):
            done, digest = self.done(number), hashlib.sha256()
            if done is None:
                raise ShardError(f"{self.lines(number)}: this shard is gone; run the same command again")
            for line in _lines(self.lines(number)):
                digest.update(line)
                if writer is None:
                    output.write(line)
                else:
                    writer.write(json.loads(line))
            if digest.hexdigest() != done.digest:
                raise ShardError(
                    f"{self.lines(number)}: it has changed since it was written; delete {self._place(number, '.json')} "
                    "and run the same command again, which makes it anew (recorded answers are not asked again)"
                )
            if done.bad or done.failed:
                for line in _lines(self.skipped(number)):
                    skipped.write(line)
            name = str(self.lines(number).relative_to(self.folder))
            listed.append(
                {"file": name, "queries": done.queries - done.failed, "bytes": done.bytes, "sha256": digest.hexdigest()}
            )
        output.flush()
        write_text(self.folder / MANIFEST, "".join(json.dumps(one) + "\n" for one in listed))

    def _place(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number // _IN_A_FOLDER:03}" / f"{number:06}{suffix}"


def _lines(path: Path) -> Iterable[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except FileNotFoundError:
        raise ShardError(
            f"{path}: this shard is gone; delete the .json beside it and run the same command again"
        ) from None


class DigestedStream:
    """A stream that counts and digests what is written to it: formats write to it as to a file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._sum, self.bytes = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """As a file's."""
        self._sum.update(data)
        self.bytes += len(data)
        return self._stream.write(data)

    def flush(self) -> None:
        """As a file's."""
        self._stream.flush()

    @property
    def digest(self) -> str:
        """Of all that was written."""
        return self._sum.hexdigest()


def unshared(folder: Path, mark: str) -> DataError:
    """What to raise where a machine of the cluster doesn't see the run's folder."""
    return DataError(
        f"{folder}: {mark} doesn't see this folder, or another one of this name; put the run where every machine of "
        "the cluster sees it (paths.outputs=... on a shared file system)"
    )
