"""Where results go: a file that appears whole and overwrites nothing, or standard output, then theirs alone."""

from __future__ import annotations

import fcntl
import filecmp
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rearank.runs.layout import free_name

_log = logging.getLogger(__name__)
_PARTIAL = ".partial"
_standard: list[BinaryIO] = []


class OutputInUseError(RuntimeError):
    """Another process writes the same output."""


def partial(path: Path) -> Path:
    """Where a file is written until it is whole; what a run leaves there that was stopped is written over."""
    return path.with_name(path.name + _PARTIAL)


@contextmanager
def scratch(path: Path) -> Iterator[BinaryIO]:
    """``partial(path)``, empty, and kept from other processes.

    Raises:
        OutputInUseError: where one of them writes it.
    """
    with os.fdopen(os.open(partial(path), os.O_CREAT | os.O_WRONLY, 0o666), "wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputInUseError(
                f"{path}: another run writes it; wait for that, or choose another rerank.output"
            ) from None
        stream.truncate(0)
        yield stream


def put(path: Path) -> bool:
    """Let the file appear that was written to ``partial(path)``; whether it is another one than was there.

    A file with other content that has this name is kept as ``<path>.1``, and that is logged.
    """
    scratch = partial(path)
    if path.exists():
        if filecmp.cmp(scratch, path, shallow=False):
            scratch.unlink()
            return False
        set_aside(path, "it was made with other settings, or by another program")
    scratch.replace(path)
    return True


def set_aside(path: Path, why: str) -> None:
    """Keep a file under another name."""
    aside = free_name(path)
    path.rename(aside)
    _log.warning("%s: %s: kept as %s", path, why, aside)


@contextmanager
def standard_output_kept() -> Iterator[None]:
    """Keep standard output for results: what else is written there, by any library, goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    _standard.append(os.fdopen(os.dup(kept), "wb"))
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        with _standard.pop():
            pass


def standard_output() -> BinaryIO:
    """Where results go inside ``standard_output_kept``; standard output itself elsewhere."""
    return _standard[-1] if _standard else sys.stdout.buffer


def write_line(stream: BinaryIO, value: Any) -> None:
    """As JSON, in one write: two threads may write."""
    stream.write(json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n")
