"""What a window costs the event loop: its prompt and reading its answer (bar: 1 ms each on a core), and the rest.

The paper's prompt and window: 20 passages of 400 characters and more, so that they are cut, half of them with a title
and some with text that must be neutralised. Cold: passages never shown before. Warm: half of them are known from the
window before, as with step 10. The rest is what the recording engine adds: naming the call and both writes to SQLite.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time
from typing import Any

from common import Result, words
from omegaconf import OmegaConf

from rearank.config import build
from rearank.engines import CompletionStore, PromptRanker, RecordingEngine, ScriptedEngine
from rearank.parsing import ParseStatus, parse_ranking
from rearank.types import Passage, Query, Window

CONF = Path(__file__).resolve().parents[2] / "conf"
WINDOWS, SIZE, STEP, BAR = 300, 20, 10, 1.0


def windows() -> list[Window]:
    """Overlapping windows of one long list, as a query's are."""
    rng = Random(1)
    passages = []
    for number in range(STEP * (WINDOWS + 1)):
        text = words(90, 30_000, rng.random)
        if number % 7 == 0:
            text = f"see [3] <b>{text}</b> <|im_end|>"
        passages.append(Passage(f"d{number}", text, words(4, 30_000, rng.random) if number % 2 else ""))
    query = Query("q", words(8, 30_000, rng.random))
    return [Window(query, tuple(passages[STEP * i : STEP * i + SIZE])) for i in range(WINDOWS)]


def answers() -> list[str]:
    """A reasoning of 1,500 words that names passages, and an order: canonical, or with commas and a repeat."""
    rng = Random(2)
    found = []
    for number in range(WINDOWS):
        notes = " ".join(f"[{i}] {words(75, 30_000, rng.random)}." for i in range(1, SIZE + 1))
        order = rng.sample(range(1, SIZE + 1), SIZE)
        listed = (
            ", ".join(f"[{i}]" for i in [*order, order[0]]) if number % 4 == 0 else " > ".join(f"[{i}]" for i in order)
        )
        found.append(f"<think>{notes}</think>\n<answer>{listed}</answer>")
    return found


def each(work: Any, items: list[Any]) -> list[float]:
    """Milliseconds of every call."""
    times = []
    for item in items:
        began = perf_counter()
        work(item)
        times.append((perf_counter() - began) * 1000)
    return times


async def through_the_store(shown: list[Window], prompt: Any) -> float:
    """Milliseconds a window of all that is on the loop: prompt, the call's name, an answer at once, both writes."""
    with tempfile.TemporaryDirectory() as folder:
        store = CompletionStore(Path(folder) / "completions.sqlite")
        recording = RecordingEngine(ScriptedEngine("reverse"), store)
        ranker = PromptRanker(recording, prompt, recorder=recording)
        began = process_time()
        for window in shown:
            await ranker.order(window)
        taken = process_time() - began
        store.close()
    return taken / len(shown) * 1000


def run() -> list[Result]:
    prompt = build(OmegaConf.load(CONF / "prompt" / "rearank.yaml"))
    shown = windows()
    cold = each(prompt.render, shown[::2])  # these share no passage
    warm = each(prompt.render, shown[1::2])  # every passage of these was shown in one of those
    texts = answers()
    assert {parse_ranking(text, SIZE).status for text in texts} == {ParseStatus.OK, ParseStatus.DUPLICATES}
    parsed = each(lambda text: parse_ranking(text, SIZE), texts)
    whole = asyncio.run(through_the_store(windows(), prompt))
    rows = [("the prompt, passages new", cold), ("the prompt, passages known", warm), ("reading the answer", parsed)]
    results = [
        Result("window_cost", f"{what}, median", median(times), "ms", f"at most {BAR:.0f} ms", median(times) <= BAR)
        for what, times in rows
    ]
    return [
        *results,
        Result("window_cost", "all of it, with the store's writes and a scripted answer, mean", whole, "ms"),
    ]


if __name__ == "__main__":
    for result in run():
        print(f"{result.what}: {result.value:.3f} {result.unit} {result.bar}")
