"""What is under way and how far it is: a bar on a terminal, a line every few seconds in a log.

Work that counts advances; work that can't count (loading a library, one long call) is shown by the seconds gone by.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

T = TypeVar("T")

EVERY = 3.0
"""Seconds between two lines where there is no terminal; nothing is silent for longer than five."""


class Progress:
    """One piece of work under way; made by ``progress``."""

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        out: TextIO,
        note: Callable[[float], str] | None = None,
        left: Callable[[float], float | None] | None = None,
    ) -> None:
        self._what, self._total, self._unit, self._out = what, total, unit, out
        self._note_of, self._left_of = note, left
        self._began = time.monotonic()
        self._done = 0
        self._note = ""
        self._shown = ""
        self._stop = threading.Event()
        self._bar = None
        if out.isatty():
            from tqdm import tqdm

            form = None if total is not None else "{desc} {elapsed} {postfix}"
            if left is not None:  # tqdm knows only the rate of what it counts
                form = "{l_bar}{bar}| {n_fmt}/{total_fmt}{unit} [{elapsed}{postfix}]"
            self._bar = tqdm(desc=what, total=total, unit=f" {unit}", file=out, bar_format=form, leave=True)
        self._thread = threading.Thread(target=self._beat, daemon=True, name="progress")
        self._thread.start()

    def advance(self, count: int = 1, note: str = "") -> None:
        """``count`` more are done; ``note`` stands behind the figures from now on."""
        self._done += count
        self._note = note or self._note
        if self._bar is not None:
            self._bar.set_postfix_str(self._noted(), refresh=False)
            self._bar.update(count)

    def close(self, failed: bool = False) -> None:
        """Show how it ended; called by ``progress``."""
        self._stop.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.set_postfix_str(self._noted(), refresh=True)
            self._bar.close()
        else:
            self._write(" - stopped" if failed else " - done")

    def _beat(self) -> None:
        while not self._stop.wait(1.0 if self._bar is not None else EVERY):
            if self._bar is not None:
                self._bar.set_postfix_str(self._noted(), refresh=True)
            else:
                self._write("")

    def _write(self, ending: str) -> None:
        seconds = time.monotonic() - self._began
        counts = self._done or (self._note_of is not None and self._total)
        count = f" {self._done}{f'/{self._total}' if self._total else ''} {self._unit}".rstrip() if counts else ""
        left = "" if ending else self._left(seconds)
        noted = self._note_of(seconds) if self._note_of is not None else self._note
        note = f" ({noted})" if noted else ""
        line = f"{self._what}:{count} {seconds:.0f} s{left}{note}{ending}"
        if not ending or self._shown or seconds >= 1:  # what took no time and showed no line needs none
            self._out.write(line + "\n")
            self._out.flush()
        self._shown = line

    def _left(self, seconds: float) -> str:
        left = None
        if self._left_of is not None:
            left = self._left_of(seconds)
        elif self._total and 0 < self._done < self._total:
            left = seconds * (self._total - self._done) / self._done
        return "" if left is None else f", {left:.0f} s left"

    def _noted(self) -> str:
        """Of the bar: the note, and the time left where the work knows it better than the bar."""
        if self._note_of is None:
            return self._note
        seconds = time.monotonic() - self._began
        return (self._left(seconds) + ", " + self._note_of(seconds)).removeprefix(", ")


@contextmanager
def progress(
    what: str,
    total: int | None = None,
    unit: str = "",
    out: TextIO | None = None,
    *,
    note: Callable[[float], str] | None = None,
    left: Callable[[float], float | None] | None = None,
) -> Iterator[Progress]:
    """Show ``what`` as under way until the block ends.

    Args:
        what: a few words.
        total: how many there are, where that is known.
        unit: of what, in the plural.
        out: where to; standard error by default.
        note: asked for what stands behind the figures whenever they are shown, with the seconds gone by.
        left: asked for the seconds to come, ``None`` while they aren't known; by default they follow from the count.
    """
    shown = Progress(what, total, unit, out or sys.stderr, note, left)
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
