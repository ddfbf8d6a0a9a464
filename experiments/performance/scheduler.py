"""Scheduler: 200 queries x 9 windows on a server of S slots, answers of log-normal length, in virtual time.

No clock waits here: the scripted engine's delays run on an event loop whose time jumps. The lower bound of a run is the
larger of its total work divided by the slots and its longest chain (one query's windows, which wait for one another).

Only a scheduler that knows every answer's length beforehand can come close to that bound with many slots: at the end of
a run each slot finishes its last answer at another moment, and with 128 slots a run is 14 answers long. What can be
reached without foresight is measured too: the same answers with no chains at all, each given to the next free slot.
That is an easier problem, and for lengths nobody knows no order of service is better than another.
"""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from common import Result

from rearank.engines import PromptRanker, ScriptedEngine
from rearank.engines.virtual_time import run_virtual
from rearank.prompts import CompactPrompt
from rearank.ranking import SlidingWindow, rerank_all
from rearank.types import Candidates, Completion, Message, Passage, Query, Ranking, Sampling, Window

QUERIES, DEPTH, SIGMA, SECONDS = 200, 100, 0.5, 10.0
SLOTS = (16, 32, 64, 128)
SEEDS = range(10)
BATCH = 16
BAR = 1.05
BLIND_BAR = 1.03  # of what is reachable without foresight, where that is above BAR


class Timed(ScriptedEngine):
    """Remembers how long each query's answers took."""

    def __init__(self, seed: int, slots: int) -> None:
        super().__init__("given", seed=seed, seconds=SECONDS, sigma=SIGMA, slots=slots)
        self.chains: defaultdict[str, list[float]] = defaultdict(list)

    async def complete_window(self, window: Window, messages: Sequence[Message], sampling: Sampling) -> Completion:
        completion = await super().complete_window(window, messages, sampling)
        self.chains[window.query.id].append(completion.seconds)
        return completion


def candidates() -> list[Candidates]:
    passages = tuple(Passage(f"d{i}", f"{i}") for i in range(DEPTH))
    return [Candidates(Query(str(number), f"query {number}"), passages) for number in range(QUERIES)]


def measure(seed: int, slots: int) -> tuple[float, float, float, float]:
    """Seconds taken; then, for the same answers, the lower bound, without foresight or chains, lock-step batches."""
    engine, strategy, prompt = Timed(seed, slots), SlidingWindow(20, 10), CompactPrompt()
    sampling = Sampling(seed=seed)
    results, taken = run_virtual(
        rerank_all(candidates(), strategy, lambda _: PromptRanker(engine, prompt, sampling), max_concurrent_calls=slots)
    )
    assert all(isinstance(result, Ranking) and result.calls == 9 for result in results.values())
    chains = [engine.chains[str(number)] for number in range(QUERIES)]
    bound = max(sum(map(sum, chains)) / slots, max(map(sum, chains)))
    return taken, bound, unforeseen(chains, slots, seed), lock_step(chains)


def unforeseen(chains: Sequence[Sequence[float]], slots: int, seed: int, orders: int = 10) -> float:
    """Independent answers, in orders that know nothing of their lengths, each to the next free slot: the mean time."""
    answers = [seconds for chain in chains for seconds in chain]
    draw = random.Random(seed)
    ends = []
    for _ in range(orders):
        draw.shuffle(answers)
        free = [0.0] * slots
        for seconds in answers:
            heapq.heapreplace(free, free[0] + seconds)
        ends.append(max(free))
    return fmean(ends)


def lock_step(chains: Sequence[Sequence[float]]) -> float:
    """Batches of 16 queries one after another; a batch's next window waits for the slowest answer to its last."""
    batches = [chains[start : start + BATCH] for start in range(0, len(chains), BATCH)]
    return sum(max(step) for batch in batches for step in zip(*batch, strict=True))


def run() -> list[Result]:
    results = []
    for slots in SLOTS:
        runs = [measure(seed, slots) for seed in SEEDS]
        ratio = fmean(taken / bound for taken, bound, *_ in runs)
        reachable = fmean(blind / bound for _, bound, blind, _ in runs)
        faster = fmean(batches / taken for taken, *_, batches in runs)
        bar = BAR if reachable <= BAR else BLIND_BAR * reachable
        what = f"S = {slots}: time over the lower bound, mean of {len(runs)} seeds"
        results.append(
            Result(
                "scheduler",
                what,
                ratio,
                "x",
                f"at most {bar:.4g}" + (f" ({BAR} is out of reach)" if bar > BAR else ""),
                ratio <= bar,
            )
        )
        results.append(Result("scheduler", f"S = {slots}: the same without chains or foresight", reachable, "x"))
        results.append(Result("scheduler", f"S = {slots}: lock-step batches of {BATCH} over ours", faster, "x"))
    return results
