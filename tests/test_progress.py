"""What a user sees while work is under way."""

from __future__ import annotations

import io
import time

import pytest

from rearank import progress as module
from rearank.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("out", [io.StringIO(), Terminal()])
def test_a_note_that_is_asked_for(out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.02)
    told: list[float] = []

    def note(seconds: float) -> str:
        told.append(seconds)
        return f"{len(told)} looks, $0.01"

    with progress("ranking", 2, "queries", out, note=note, left=lambda seconds: 75.0) as shown:
        shown.advance()
        while len(told) < 2:  # it is streamed without anything being done
            time.sleep(0.01)
        shown.advance()
    said = out.getvalue()
    assert "ranking" in said
    assert "1/2" in said
    assert "2/2" in said
    assert "looks, $0.01" in said
    assert "75 s left" in said
    assert told == sorted(told)


def test_the_time_left_follows_from_the_count_where_nothing_knows_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.02)
    out = io.StringIO()
    with progress("reading", 4, "files", out) as shown:
        shown.advance(2, "half")
        while " left" not in out.getvalue():
            time.sleep(0.01)
    assert "reading: 2/4 files" in out.getvalue()
    assert "s left (half)" in out.getvalue()


def test_work_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.01)
    out = io.StringIO()

    def fail() -> None:
        with progress("work", 3, "parts", out) as shown:
            shown.advance()
            while not out.getvalue():
                time.sleep(0.005)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    assert out.getvalue().splitlines()[-1].endswith("- stopped")
