"""The completions store keeps what was paid for."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from rearank.engines.store import CompletionStore, StoreError, call_key, messages_hash
from rearank.types import Completion, Message, Permutation, Sampling

MESSAGES = (Message("user", "rank"),)


def test_a_call_is_named_by_engine_messages_and_sampling() -> None:
    key = call_key({"model": "a"}, MESSAGES, Sampling())
    assert key == call_key({"model": "a"}, MESSAGES, Sampling())
    others = {
        call_key({"model": "b"}, MESSAGES, Sampling()),
        call_key({"model": "a"}, (Message("user", "rank!"),), Sampling()),
        call_key({"model": "a", "revision": "x"}, MESSAGES, Sampling()),
        call_key({"model": "a"}, (Message("system", "rank"),), Sampling()),
        call_key({"model": "a"}, (*MESSAGES, *MESSAGES), Sampling()),
        *(
            call_key({"model": "a"}, MESSAGES, Sampling(**{name: value}))
            for name, value in {"max_tokens": 9, "temperature": 0.5, "top_p": 0.5, "seed": 1, "sample": 1}.items()
        ),
    }
    assert len(others | {key}) == 11


def test_keys_of_earlier_versions_name_the_same_calls() -> None:
    identity = {"engine": "vllm", "model": "m", "revision": None, "context": 4096}
    messages = (Message("system", "Rank \u00e9."), Message("user", "[1] a\n[2] b \u2028"))
    key = call_key(identity, messages, Sampling(max_tokens=96, temperature=0.7, top_p=0.9, seed=3, sample=2))
    assert key == "154958ccc0c987e74d08c64ddaed6ff450385c40fd8a2cca659cd6fc664ccf39"
    assert messages_hash(messages) == "13460e612cd3f30267ac5969cfa402ecb784cf9f81709b4d41ae1582e10077e1"


def test_how_an_answer_was_read_is_written_with_the_next_one_or_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "completions.sqlite"
    store = CompletionStore(path)

    def noted() -> dict[str, str | None]:
        with closing(sqlite3.connect(path)) as db:
            return dict(db.execute("select key, parse_status from completions"))

    store.put("a", MESSAGES, Completion("[1]"))
    store.annotate("a", "ok", Permutation((0,)))
    assert noted() == {"a": None}
    store.put("b", MESSAGES, Completion("[1]"))
    assert noted() == {"a": "ok", "b": None}
    for number in range(100):
        store.annotate("b", "partial" if number == 99 else "ok", Permutation((0,)))
    assert noted() == {"a": "ok", "b": "partial"}, "a run that recalls every answer writes them, too"
    store.annotate("a", "empty", Permutation((0,)))
    store.close()
    assert noted() == {"a": "empty", "b": "partial"}


def test_notes_that_cannot_be_written_are_an_error_once(tmp_path: Path) -> None:
    store = CompletionStore(tmp_path / "completions.sqlite")
    store.put("a", MESSAGES, Completion("[1]"))
    store._db.execute("pragma query_only=1")
    store.annotate("a", "ok", Permutation((0,)))
    with pytest.raises(StoreError, match=r"completions\.sqlite: can't record a completion"):
        store.put("b", MESSAGES, Completion("[1]"))
    store.close()


def test_round_trip_and_first_answer_stays(tmp_path: Path) -> None:
    store = CompletionStore(tmp_path / "new" / "completions.sqlite")
    first = Completion("[1] \ud800", 3, 4, "length", 0.5, True, 0.25, {"p_yes": 0.125})
    kept = Completion("[1] ?", 3, 4, "length", 0.5, True, 0.25, {"p_yes": 0.125})
    assert store.put("k", MESSAGES, first) == kept
    assert store.put("k", MESSAGES, Completion("other", cost=1.0)) == kept
    store.close()
    again = CompletionStore(tmp_path / "new" / "completions.sqlite")
    assert again.get("k") == kept
    assert again.cost() == 0.25
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


def test_a_file_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "completions.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(
            "create table completions (key text primary key, messages text not null, text text not null, "
            "prompt_tokens integer not null, completion_tokens integer not null, finish text not null, "
            "prompt_truncated integer not null, seconds real not null, parse_status text, permutation text) "
            "without rowid"
        )
        db.execute("insert into completions values ('old', 'm', '[1]', 3, 4, 'stop', 0, 0.5, 'ok', '[0]')")
    db.close()
    store = CompletionStore(path)
    assert store.get("old") == Completion("[1]", 3, 4, "stop", 0.5)
    store.put("new", MESSAGES, Completion("[2]", cost=0.5))
    assert (store.cost(), len(store)) == (0.5, 2)
    store.close()
    again = CompletionStore(path)
    assert again.get("new") == Completion("[2]", cost=0.5)
    again.close()


def test_another_file_is_not_taken_for_a_store(tmp_path: Path) -> None:
    path = tmp_path / "completions.sqlite"
    for number, damaged in enumerate(
        (b"no database " * 1000, random.Random(0).randbytes(5000), b"SQLite format 3\0" * 9)
    ):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"completions\.sqlite: can.t keep completions here.*: move it away"):
            CompletionStore(path)
        path.rename(tmp_path / f"moved-{number}")  # the way out
        CompletionStore(path).close()
        path.unlink()


def use(path: Path) -> None:
    with closing(CompletionStore(path)) as store:
        for number in range(200):
            store.get(f"k{number}")
            store.put(f"new{number}", MESSAGES, Completion("answer"))


def test_a_store_that_was_cut_or_overwritten_names_itself_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "completions.sqlite"
    store = CompletionStore(path)
    for number in range(200):
        store.put(f"k{number}", MESSAGES, Completion("answer " * 50))
    store.close()
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        whole[:middle],
        whole[:middle] + bytes(8192) + whole[middle + 8192 :],
        whole[:4096] + b"\xff" * 8192,
    ):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"completions\.sqlite: can.t .*the file is damaged.*: move it away"):
            use(path)


@pytest.mark.parametrize(
    "changed",
    [
        *("text = x'ff00'", "text = cast(x'ff' as text)", "prompt_tokens = 'abc'", "completion_tokens = 0.5"),
        *("finish = 'tool'", "seconds = 'long'", "cost = x'00'", "prompt_truncated = 'no'", "extra = '[1]'"),
        *("extra = 'x'", 'extra = \'{"p_yes": "high"}\'', "extra = x'00'"),
    ],
)
def test_a_value_of_another_kind_names_the_store_and_the_way_out(changed: str, tmp_path: Path) -> None:
    path = tmp_path / "completions.sqlite"
    store = CompletionStore(path)
    store.put("k", MESSAGES, Completion("[1]", 3, 4))
    with sqlite3.connect(path) as db:
        db.execute(f"update completions set {changed}")
    db.close()
    with pytest.raises(StoreError, match=r"completions\.sqlite: can.t read completions.*: move it away"):
        store.get("k")
    store.close()


@pytest.mark.parametrize(
    "changed",
    ["text = '[1] > [2]'", "finish = 'length'", "seconds = 1.0", "extra = '{\"p_yes\": 1}'", "key = 'other'"],
)
def test_an_answer_that_was_changed_in_the_file_is_not_believed(changed: str, tmp_path: Path) -> None:
    """Of a right kind, so that nothing else tells it; earlier versions wrote no digest, and theirs are taken."""
    path = tmp_path / "completions.sqlite"
    answer = Completion("[2] > [1]", 3, 4, "stop", 2, extra={"p_yes": 0.5})
    with closing(CompletionStore(path)) as store:
        assert store.put("k", MESSAGES, answer) == store.get("k") == answer
    key = "other" if changed.startswith("key") else "k"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"update completions set {changed}")
    with closing(CompletionStore(path)) as store, pytest.raises(StoreError) as error:
        store.get(key)
    said = f"{path}: can't read completions (the answer with the key {key} was changed after it was written); the file"
    assert str(error.value).startswith(said)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("update completions set digest = null")
    with closing(CompletionStore(path)) as store:
        assert store.get(key) is not None


def test_a_failure_that_was_asked_again_is_believed(tmp_path: Path) -> None:
    with closing(CompletionStore(tmp_path / "completions.sqlite")) as store:
        failed = store.put("k", MESSAGES, Completion("upstream error", cost=1.0))
        answer = store.put("k", MESSAGES, Completion("[1]", cost=0.5), failed)
        assert store.get("k") == answer == Completion("[1]", cost=1.5)


def test_a_folder_or_a_broken_link_in_the_stores_place_is_named(tmp_path: Path) -> None:
    folder, link = tmp_path / "folder.sqlite", tmp_path / "link.sqlite"
    folder.mkdir()
    link.symlink_to(link)
    for path in (folder, link):
        with pytest.raises(StoreError, match=rf"{path.name}: can.t keep completions here.*: move it away"):
            CompletionStore(path)


HAMMER = """
import json, random, sys
from rearank.engines.store import CompletionStore
from rearank.types import Completion, Message, Permutation
path, name = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
store, seen = CompletionStore(path), {}
for place, number in enumerate(random.Random(name).sample(range(300), 300)):
    if place == 150:
        print("half", flush=True)
        sys.stdin.readline()
    key = f"k{number}"
    answer = store.put(key, (Message("user", key),), Completion(f"{name} says {number}", cost=0.5))
    store.annotate(key, "ok", Permutation((1, 0)))
    assert store.get(key) == answer
    seen[key] = answer.text
store.close()
print(json.dumps(seen))
"""


def test_two_processes_on_one_file(tmp_path: Path) -> None:
    path = tmp_path / "completions.sqlite"
    command = [sys.executable, "-c", HAMMER, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*command, name], **pipes) for name in ("a", "b")]  # type: ignore[call-overload]
    # They open, and make, the file in the same moment; neither ends before the other is half done.
    for word in ("ready", "half"):
        for process in both:
            assert process.stdout.readline() == f"{word}\n"
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
    first, second = (json.loads(process.communicate(timeout=60)[0]) for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert first == second, "whoever came first, both read the same"
    assert {text[0] for text in first.values()} == {"a", "b"}, "each was first with some"
    store = CompletionStore(path)
    assert (len(store), store.cost()) == (300, 150.0)
    assert store._db.execute("pragma integrity_check").fetchall() == [("ok",)]
    store.close()
