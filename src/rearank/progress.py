"""Signs of life: a bar on a terminal, a line every few seconds in a log.

Work that counts advances; work that can't count (loading a library, one long call) is shown by the seconds gone by.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

T = TypeVar("T")

EVERY = 3.0
"""Seconds between two lines where there is no terminal; nothing is silent for longer than five."""


class Progress:
    """One piece of work under way; made by ``progress``."""

    def __init__(self, what: str, total: int | None, unit: str, out: TextIO) -> None:
        self._what, self._total, self._unit, self._out = what, total, unit, out
        self._began = time.monotonic()
        self._done = 0
        self._note = ""
        self._shown = ""
        self._stop = threading.Event()
        self._bar = None
        if out.isatty():
            from tqdm import tqdm

            form = None if total is not None else "{desc} {elapsed} {postfix}"
            self._bar = tqdm(desc=what, total=total, unit=f" {unit}", file=out, bar_format=form, leave=True)
        self._thread = threading.Thread(target=self._beat, daemon=True, name="progress")
        self._thread.start()

    def advance(self, count: int = 1, note: str = "") -> None:
        """``count`` more are done; ``note`` stands behind the figures from now on."""
        self._done += count
        self._note = note or self._note
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(count)

    def close(self, failed: bool = False) -> None:
        """Say how it ended; called by ``progress``."""
        self._stop.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.close()
        else:
            self._say(" - stopped" if failed else " - done")

    def _beat(self) -> None:
        while not self._stop.wait(1.0 if self._bar is not None else EVERY):
            if self._bar is not None:
                self._bar.refresh()
            else:
                self._say("")

    def _say(self, ending: str) -> None:
        seconds = time.monotonic() - self._began
        count = f" {self._done}{f'/{self._total}' if self._total else ''} {self._unit}".rstrip() if self._done else ""
        left = ""
        if not ending and self._total and 0 < self._done < self._total:
            left = f", {seconds * (self._total - self._done) / self._done:.0f} s left"
        note = f" ({self._note})" if self._note else ""
        line = f"{self._what}:{count} {seconds:.0f} s{left}{note}{ending}"
        if not ending or self._shown or seconds >= 1:  # what took no time and said nothing needs no line
            self._out.write(line + "\n")
            self._out.flush()
        self._shown = line


@contextmanager
def progress(what: str, total: int | None = None, unit: str = "", out: TextIO | None = None) -> Iterator[Progress]:
    """Show ``what`` as under way until the block ends.

    Args:
        what: a few words.
        total: how many there are, where that is known.
        unit: of what, in the plural.
        out: where to; standard error by default.
    """
    shown = Progress(what, total, unit, out or sys.stderr)
    try:
        yield shown
    except BaseException:
        shown.close(failed=True)
        raise
    shown.close()


def counted(items: Iterable[T], what: str, total: int | None = None, unit: str = "") -> Iterator[T]:
    """``items``, each counted when the next one is asked for."""
    with progress(what, total, unit) as shown:
        for item in items:
            yield item
            shown.advance()
