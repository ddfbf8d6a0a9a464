"""Memory does not grow with the number of queries finished: Python's own count of bytes over 20,000 calls.

One engine (scripted), one recording engine and one store serve query after query, ten windows each, as an evaluation's
do; prompts differ all the time, so that no call is answered twice. What stays is counted after 200 queries (2,000
calls, when caches are full and everything is imported) and after 2,000 (20,000 calls).

- engines: results are dropped as they come; the bar is a few bytes a query, for what a count of objects can't settle.
- a whole run: 200 and 600 queries in one ``rerank_all``, whose results are kept, as they must be: a ranking of 50 ids
  and its place in a table. Nothing else of a finished query may stay.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import tracemalloc
from pathlib import Path

from common import Result

from rearank.engines import CompletionStore, PromptRanker, RecordingEngine, ScriptedEngine
from rearank.prompts import CompactPrompt
from rearank.ranking import SlidingWindow, rerank_all
from rearank.types import Candidates, Passage, Query, Ranking

FEW, MANY, DEPTH, SIZE = 200, 2_000, 50, 5
ENGINES_BAR, RUN_BAR = 64, 1_536
STRATEGY, PROMPT = SlidingWindow(SIZE, SIZE), CompactPrompt(max_characters=400)
PASSAGES = tuple(Passage(f"d{i}", f"passage {i} of the list") for i in range(DEPTH))


def held() -> int:
    """Bytes of Python objects alive."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def queries(start: int, stop: int) -> list[Candidates]:
    return [Candidates(Query(f"q{i}", f"query {i}"), PASSAGES) for i in range(start, stop)]


async def engines_alone(recording: RecordingEngine) -> float:
    """Bytes a query that stay in the engine and its record."""
    at: dict[int, int] = {}
    for start in range(0, MANY, 100):
        await rerank_all(
            queries(start, start + 100), STRATEGY, lambda _: PromptRanker(recording, PROMPT, recorder=recording)
        )
        if start + 100 in (FEW, MANY):
            at[start + 100] = held()
    return (at[MANY] - at[FEW]) / (MANY - FEW)


async def whole_run(recording: RecordingEngine) -> float:
    """Bytes a finished query leaves in a run of all of them, its result among them.

    Queries that haven't begun weigh something, too, so that the count is taken when nothing is under way: in a run of
    few and in a run of many.
    """

    async def after(work: list[Candidates]) -> int:
        before = held()
        results = await rerank_all(
            work, STRATEGY, lambda _: PromptRanker(recording, PROMPT, recorder=recording), max_concurrent_queries=64
        )
        assert all(isinstance(result, Ranking) for result in results.values())
        return held() - before

    few = await after(queries(MANY, MANY + FEW))
    many = await after(queries(2 * MANY, 2 * MANY + 3 * FEW))
    return (many - few) / (2 * FEW)


async def measure() -> tuple[float, float, int]:
    """(bytes a query that stay in the engines, in a whole run, calls made)."""
    with tempfile.TemporaryDirectory() as folder:
        store = CompletionStore(Path(folder) / "completions.sqlite")
        recording = RecordingEngine(ScriptedEngine("reverse"), store)
        try:
            return await engines_alone(recording), await whole_run(recording), recording.spent.calls
        finally:
            store.close()


def run() -> list[Result]:
    tracemalloc.start()
    try:
        engines, whole, calls = asyncio.run(measure())
    finally:
        tracemalloc.stop()
    what = f"{calls:,} calls: what stays of a finished query"
    return [
        Result(
            "memory_growth",
            f"{what} in engine and record",
            engines,
            "bytes",
            f"at most {ENGINES_BAR}",
            engines <= ENGINES_BAR,
        ),
        Result(
            "memory_growth",
            f"{what} in a run, its ranking included",
            whole,
            "bytes",
            f"at most {RUN_BAR}",
            whole <= RUN_BAR,
        ),
    ]


if __name__ == "__main__":
    for result in run():
        print(f"{result.what}: {result.value:.1f} {result.unit} {result.bar}")
