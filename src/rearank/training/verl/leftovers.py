"""What a run starts ends with it, however the run ends: the processes of Ray and vLLM, and their shared memory.

Ray's own processes notice only by and by that the program is gone, and vLLM's engines not at all. So every process of a
run has a mark in its environment, and a small process of ours waits for the end of a pipe, which comes with the
program's. It then ends whatever has the mark, and nothing else. The mark is in the training's folder, too: where that
small process was killed itself, the next start there does its work.

This file is also that process's program, so it imports the standard library alone. Linux; elsewhere it finds nothing.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

MARK = "REARANK_RUN"
"""The environment variable that holds the mark in every process of a run."""

UNDER_WAY = "ray-run.txt"
"""In the training's folder: the mark of the run under way there."""

_PATIENCE = 25.0  # seconds until what can't be killed (a driver that hangs) is left alone
_GRACE = 5.0  # seconds that Python's resource trackers get to put shared memory away, and memory to be unmapped
_PAUSE = 0.1
_SHARED = re.compile(rb"/dev/shm/\S+$", re.MULTILINE)  # what is unlinked already ends in " (deleted)"


@contextmanager
def watched(folder: Path) -> Iterator[str]:
    """End what an earlier run left of ``folder``; then the mark of this one, whose processes end with the block.

    One run at a time works in a folder, so a mark found there is a dead one's.
    """
    place = folder / UNDER_WAY
    if place.is_file():
        sweep(place.read_text())
    mark = uuid4().hex
    place.write_text(mark)
    # In a session of its own: Ctrl-C, or a kill of the whole process group, must not end it before the others.
    command = [sys.executable, "-I", "-S", __file__, mark]
    sentry = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield mark
    finally:
        sentry.communicate()
        place.unlink(missing_ok=True)


def sweep(mark: str, patience: float = _PATIENCE) -> None:
    """Kill every process on this machine that has ``mark``, and unlink the shared memory that only these used."""
    began, shared, known = time.monotonic(), set[bytes](), dict[int, bytes]()
    while (found := _alive(mark, known)) and (passed := time.monotonic() - began) < patience:
        shared |= {path for pid in found for path in _shared(pid)}
        workers = [pid for pid in found if b"resource_tracker" not in _read(pid, "cmdline")]
        for pid in workers or (found if passed > _GRACE else ()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE)
    until = time.monotonic() + _GRACE
    while shared and time.monotonic() < until:
        others = {path for pid in _pids() for path in _shared(pid)}  # one that was just killed is among them, at first
        for path in shared - others:
            Path(os.fsdecode(path)).unlink(missing_ok=True)
        if shared := shared & others:
            time.sleep(_PAUSE)


def _alive(mark: str, known: dict[int, bytes]) -> list[int]:
    """Processes that have ``mark``, or had it at an earlier look: ``known`` holds when each one started.

    A child whose parent was killed can't be told by its mark, nor by its number alone, which may be another's by now.
    """
    known |= {pid: _started(pid) for pid in marked(mark) if pid not in known}
    return [pid for pid, start in known.items() if start and _started(pid) == start]


def marked(mark: str) -> list[int]:
    """Processes of this machine whose environment has ``mark``, and their children, of those that we may look at.

    Children: a process that gives itself a title, as Ray's agents do, writes it over a part of its environment; which
    part that is, is chance.
    """
    line = f"{MARK}={mark}".encode()
    pids = _pids()
    found = {pid for pid in pids if line in _read(pid, "environ").split(b"\0")}
    parents = {pid: int(stat[1]) for pid in pids if (stat := _stat(pid))}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def _pids() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _read(pid: int, name: str) -> bytes:
    """Empty for a process that is gone, or somebody else's."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _stat(pid: int) -> list[bytes]:
    """State, parent and so on: the fields of ``/proc/PID/stat`` after the name, which may hold anything."""
    return _read(pid, "stat").rpartition(b")")[2].split()


def _started(pid: int) -> bytes:
    """In clock ticks after the machine's start; empty for a process that is gone, or dead and not yet taken in."""
    stat = _stat(pid)
    return stat[19] if stat and stat[0] != b"Z" else b""


def _shared(pid: int) -> list[bytes]:
    return _SHARED.findall(_read(pid, "maps"))


if __name__ == "__main__":
    sys.stdin.read()  # until the pipe's other end is closed: by the run, or with it
    sweep(sys.argv[1])
