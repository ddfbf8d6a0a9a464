"""Processes that a library starts and that must not outlive this one, whatever ends it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

PATIENCE = 30.0
"""Seconds a process gets to end by itself; vLLM's take about five."""

_LOOK = 0.2  # seconds between two looks for new processes
_SENTRY = """
import os, signal, sys
for pid in [int(line) for line in sys.stdin]:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
"""


class ProcessGuard:
    """Sees to it that an engine's processes end: those of a dead engine, and those of a program that was killed.

    vLLM's don't notice that the program is gone, and would hold memory and GPU for ever. So a small process of ours
    waits for the end of a pipe, which comes with the program's, however it ends, and asks them to stop.
    """

    def __init__(self) -> None:
        self._others = set(multiprocessing.active_children())
        self._engines: list[BaseProcess] = []
        self._workers: list[int] = []
        command = [sys.executable, "-I", "-S", "-c", _SENTRY]
        # In a session of its own: Ctrl-C must not end it before the others.
        self._sentry = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take note of the processes that start meanwhile, each as soon as it is there."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_LOOK):
                self._look()

        watcher = threading.Thread(target=watch, name="rearank-guard", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            self._look()
            self._workers = [pid for engine in self._engines if engine.pid for pid in _children(engine.pid)]

    def ended(self) -> str:
        """The exit codes of engines that ended, in brackets."""
        for engine in self._engines:
            engine.join(1.0)
        codes = [f"exit code {engine.exitcode}" for engine in self._engines if engine.exitcode is not None]
        killed = any(engine.exitcode == -signal.SIGKILL for engine in self._engines)
        return f" ({', '.join(codes)}{': killed, often for want of memory' if killed else ''})" if codes else ""

    def dismiss(self) -> None:
        """Wait until every process is gone; one that stays is killed."""
        deadline = time.monotonic() + PATIENCE
        for engine in self._engines:
            engine.join(max(deadline - time.monotonic(), 0.1))
            if engine.is_alive():
                engine.kill()
                engine.join()
        while any(map(_runs, self._workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in filter(_runs, self._workers):
            os.kill(pid, signal.SIGKILL)
        self._sentry.kill()  # before its pipe ends: there is nobody left to stop
        self._sentry.communicate()

    def _look(self) -> None:
        for child in multiprocessing.active_children():
            if child not in self._others and self._sentry.stdin is not None:
                self._others.add(child)
                self._engines.append(child)
                self._sentry.stdin.write(f"{child.pid}\n")
                self._sentry.stdin.flush()


def _children(pid: int) -> list[int]:
    """The processes ``pid``'s main thread has started; vLLM's engine starts its workers there."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _runs(pid: int) -> bool:
    """A dead process that nobody has collected runs no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
