"""No call is paid for twice: not in one run, not after a kill, not when two ask at once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

from rearank.engines import (
    CompletionStore,
    Engine,
    EngineError,
    PromptRanker,
    RecordingEngine,
    ScriptedEngine,
    StoreError,
)
from rearank.prompts import CompactPrompt
from rearank.ranking import Failure, Pointwise, SlidingWindow, Strategy, rerank_all
from rearank.types import Candidates, Completion, Message, Passage, Query, Ranking, Sampling, Window

ASK = (Message("user", "[1] a"),)
PASSAGES = tuple(Passage(f"d{i}", f"text {i}") for i in range(30))
JUDGED = {str(q): {f"d{(7 * q + i) % 30}": i for i in range(5)} for q in range(8)}


def rerank(engine: RecordingEngine, queries: int = 8) -> dict[str, Ranking | Failure]:
    lists = [Candidates(Query(str(q), f"query {q}"), PASSAGES) for q in range(queries)]
    return asyncio.run(
        rerank_all(lists, SlidingWindow(10, 5), lambda _: PromptRanker(engine, CompactPrompt(), recorder=engine))
    )


def test_a_second_run_pays_for_nothing(tmp_path: Path) -> None:
    store = CompletionStore(tmp_path / "c.sqlite")
    first, second = (RecordingEngine(ScriptedEngine(judgements=JUDGED), store) for _ in range(2))
    results = rerank(first)
    assert rerank(second) == results
    assert (first.spent.calls, first.recalled, len(store)) == (40, 0, 40)
    assert (second.spent.calls, second.recalled, len(store)) == (0, 40, 40)
    other = RecordingEngine(ScriptedEngine("reverse"), store)
    assert rerank(other) != results
    assert other.spent.calls == 40
    store.close()


def test_what_was_made_of_an_answer_is_kept_beside_it(tmp_path: Path) -> None:
    store = CompletionStore(tmp_path / "c.sqlite")
    rerank(RecordingEngine(ScriptedEngine("malformed"), store))
    store.close()
    with sqlite3.connect(tmp_path / "c.sqlite") as db:
        rows = db.execute("select parse_status, permutation from completions").fetchall()
    db.close()
    assert len({status for status, _ in rows}) > 2
    assert all(sorted(json.loads(permutation)) == list(range(10)) for _, permutation in rows)


class Counting:
    """An engine that is slow enough for two to ask at once."""

    identity = {"engine": "counting"}  # noqa: RUF012

    def __init__(self, fails: bool = False) -> None:
        self.calls = 0
        self.fails = fails

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        self.calls += 1
        await asyncio.sleep(0.01)
        if self.fails:
            raise EngineError("down")
        return Completion("fine \ud800")

    async def aclose(self) -> None: ...


def test_equal_calls_under_way_are_one(tmp_path: Path) -> None:
    store, inner = CompletionStore(tmp_path / "c.sqlite"), Counting()
    engine = RecordingEngine(inner, store)

    async def main() -> list[Completion]:
        same = [engine.complete(ASK, Sampling()) for _ in range(5)]
        return await asyncio.gather(*same, engine.complete(ASK, Sampling(sample=1)))

    # A run that pays and a run that recalls read the same text, lone surrogates included.
    assert {c.text for c in asyncio.run(main())} == {"fine ?"}
    assert (inner.calls, engine.spent.calls, engine.recalled, len(store)) == (2, 2, 4, 2)
    store.close()


def test_a_failure_is_shared_but_not_recorded(tmp_path: Path) -> None:
    store, inner = CompletionStore(tmp_path / "c.sqlite"), Counting(fails=True)
    engine = RecordingEngine(inner, store)

    async def main() -> None:
        calls = [engine.complete(ASK, Sampling()) for _ in range(3)]
        assert all(isinstance(r, EngineError) for r in await asyncio.gather(*calls, return_exceptions=True))
        inner.fails = False
        await engine.complete(ASK, Sampling())

    asyncio.run(main())
    assert inner.calls == 2
    assert len(store) == 1
    store.close()


def test_an_answer_nobody_waits_for_is_kept(tmp_path: Path) -> None:
    store, inner = CompletionStore(tmp_path / "c.sqlite"), Counting()
    engine = RecordingEngine(inner, store)

    async def main() -> None:
        call = asyncio.create_task(engine.complete(ASK, Sampling()))
        await asyncio.sleep(0.001)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await engine.aclose()

    asyncio.run(main())
    assert len(store) == 1
    store.close()


def test_a_full_disk_stops_the_run(tmp_path: Path) -> None:
    store = CompletionStore(tmp_path / "c.sqlite")
    pages = store._db.execute("pragma page_count").fetchone()[0]
    store._db.execute(f"pragma max_page_count = {pages + 1}")  # SQLite then says "database or disk is full"
    engine = RecordingEngine(ScriptedEngine("reverse"), store)
    with pytest.raises(StoreError, match=r"c\.sqlite: can't record a completion .*full.*free some disk space"):
        rerank(engine)
    assert engine.spent.calls < 40
    kept = len(store)
    assert kept > 0
    store._db.execute("pragma max_page_count = 10000")
    again = RecordingEngine(ScriptedEngine("reverse"), store)
    assert all(isinstance(r, Ranking) for r in rerank(again).values())
    assert again.spent.calls == 40 - kept
    store.close()


KILLED = """
import asyncio, os, signal, sys
from rearank.engines import *
from tests.engines.test_recording import JUDGED, rerank
class Dying(ScriptedEngine):
    async def complete_window(self, *call):
        if self.calls == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().complete_window(*call)
rerank(RecordingEngine(Dying(judgements=JUDGED), CompletionStore(sys.argv[1])))
"""


def test_a_killed_run_continues(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "c.sqlite"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=root, check=False).returncode == -9
    store, clean = CompletionStore(path), CompletionStore(tmp_path / "clean.sqlite")
    kept = len(store)
    assert 0 < kept <= 17
    resumed = RecordingEngine(ScriptedEngine(judgements=JUDGED), store)
    assert rerank(resumed) == rerank(RecordingEngine(ScriptedEngine(judgements=JUDGED), clean))
    assert resumed.spent.calls == 40 - kept
    store.close()
    clean.close()


class Judging(Counting):
    """Says yes or no by the question's own hash."""

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        self.calls += 1
        said = "yes" if hashlib.sha256(messages[-1].content.encode()).digest()[0] % 2 else "no"
        return Completion(f"<answer> {said} </answer>")


@pytest.mark.parametrize(
    ("strategy", "asks", "engine", "top", "shared"),
    [
        (Pointwise(), "yes_no", Judging(), 20, 20),  # every passage was asked about
        (
            SlidingWindow(10, 5),
            "ranking",
            ScriptedEngine("random"),
            3,
            0,
        ),  # the deep run asked about other windows
        (SlidingWindow(20, 10), "ranking", ScriptedEngine("given"), 1, 1),  # the top window came up as it was
    ],
)
def test_a_top_100_store_serves_a_top_20_evaluation(
    tmp_path: Path, strategy: Strategy, asks: Literal["yes_no", "ranking"], engine: Engine, top: int, shared: int
) -> None:
    passages = tuple(Passage(f"d{i}", f"text {i}") for i in range(100))
    prompt = CompactPrompt(asks=asks)

    def at_depth(depth: int, store: CompletionStore) -> tuple[dict[str, Ranking | Failure], RecordingEngine]:
        recording = RecordingEngine(engine, store)
        lists = [Candidates(Query(str(q), f"query {q}"), passages[:depth]) for q in range(3)]
        work = rerank_all(lists, strategy, lambda _: PromptRanker(recording, prompt, recorder=recording))
        return asyncio.run(work), recording

    store, fresh = CompletionStore(tmp_path / "c.sqlite"), CompletionStore(tmp_path / "fresh.sqlite")
    at_depth(100, store)
    again, served = at_depth(20, store)
    undisturbed, paying = at_depth(20, fresh)
    assert all(isinstance(result, Ranking) for result in again.values())
    assert again == undisturbed
    assert (served.recalled, served.spent.calls) == (3 * shared, 3 * (top - shared))
    assert (paying.recalled, paying.spent.calls) == (0, 3 * top)
    store.close()
    fresh.close()


def test_another_revision_prompt_or_sampling_is_asked_anew(tmp_path: Path) -> None:
    store = CompletionStore(tmp_path / "c.sqlite")
    window = Window(Query("1", "ships"), PASSAGES[:3])

    def paid(identity: dict[str, str], prompt: CompactPrompt, sampling: Sampling) -> int:
        inner = Counting()
        inner.identity = {"engine": "counting", **identity}
        recording = RecordingEngine(inner, store)
        asyncio.run(PromptRanker(recording, prompt, sampling, recording).order(window))
        return inner.calls

    base = ({"model": "m", "revision": "1"}, CompactPrompt(), Sampling())
    others = [
        ({"model": "m", "revision": "2"}, CompactPrompt(), Sampling()),
        ({"model": "m", "revision": "1"}, CompactPrompt(final="Rank them."), Sampling()),
        ({"model": "m", "revision": "1"}, CompactPrompt(max_characters=3), Sampling()),
        ({"model": "m", "revision": "1"}, CompactPrompt(), Sampling(temperature=0.5)),
        ({"model": "m", "revision": "1"}, CompactPrompt(), Sampling(max_tokens=7)),
    ]
    assert [paid(*call) for call in (base, base, *others, *others, base)] == [1, 0, *[1] * 5, *[0] * 5, 0]
    store.close()
