"""The completions store keeps what was paid for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rearank.engines.store import CompletionStore, call_key
from rearank.types import Completion, Message, Sampling

MESSAGES = (Message("user", "rank"),)


def test_a_call_is_named_by_engine_messages_and_sampling() -> None:
    key = call_key({"model": "a"}, MESSAGES, Sampling())
    assert key == call_key({"model": "a"}, MESSAGES, Sampling())
    others = {
        call_key({"model": "b"}, MESSAGES, Sampling()),
        call_key({"model": "a"}, (Message("user", "rank!"),), Sampling()),
        call_key({"model": "a"}, MESSAGES, Sampling(sample=1)),
    }
    assert len(others | {key}) == 4


def test_round_trip_and_first_answer_stays(tmp_path: Path) -> None:
    store = CompletionStore(tmp_path / "new" / "completions.sqlite")
    first = Completion("[1] \ud800", 3, 4, "length", 0.5, True)
    store.put("k", MESSAGES, first)
    store.put("k", MESSAGES, Completion("other"))
    store.close()
    again = CompletionStore(tmp_path / "new" / "completions.sqlite")
    assert again.get("k") == Completion("[1] ?", 3, 4, "length", 0.5, True)
    assert again.get("other") is None
    assert len(again) == 1
    again.close()


def test_what_was_put_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "completions.sqlite"
    code = (
        "import os, signal, sys; from rearank.engines.store import CompletionStore; from rearank.types import *\n"
        "s = CompletionStore(sys.argv[1]); s.put('k', (Message('user', 'x'),), Completion('y'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    store = CompletionStore(path)
    assert store.get("k") == Completion("y")
    store.close()


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose a writable folder"):
        CompletionStore(tmp_path / "file" / "completions.sqlite")
