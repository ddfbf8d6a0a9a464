"""Is the engine ever idle? Real vLLM (its CPU build), the tiny trained model, 100 queries x 100 BM25 candidates.

    .venv-cluster/bin/python experiments/performance/never_idle.py

Windows of 5, step 2: 49 a query, each waiting for the one before. Four schemes hand vLLM the same windows, in turns,
one order and then its reverse, so that a busy machine hits all alike:

- ours: ``rerank_all`` over the recording engine, all queries at once, as ``task=evaluate`` does it;
- lock-step: batches of 16 queries; a batch's next window position waits for the slowest answer to its last;
- semaphore: all queries, 32 calls at once;
- floor: the very prompts that ours asked, already tokenized, given to vLLM at once with no dependencies.

Occupancy is the mean over vLLM's own steps of the sequences that got a token in the step, from a stat logger that the
engine is started with (every scheme pays for it). The prefix cache is emptied before each run. Needs vLLM: ``make
perf`` says so and goes on where there is none.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from common import Result

from rearank.data.bm25 import Bm25
from rearank.data.source import Source
from rearank.data.synthetic import SyntheticCollection
from rearank.engines import CompletionStore, PromptRanker, RecordingEngine
from rearank.engines.model import Model
from rearank.engines.vllm.engine import VllmEngine
from rearank.evaluation import render_table
from rearank.prompts import CompactPrompt
from rearank.ranking import Failure, SlidingWindow, rerank_all
from rearank.types import Candidates, Completion, Message, Permutation, Ranking, Sampling, Window

SIZE, STEP, DEPTH, BATCH, SEMAPHORE = 5, 2, 100, 16, 32
PASSAGES = 20_000
SLOTS = 64
SAMPLING = Sampling(max_tokens=96)
CURVE = (1, 2, 4, 8, 16, 32, 64, 128)
FASTER, FLOOR = 1.5, 1.15
OUTPUT = Path(__file__).resolve().parents[2] / "outputs" / "performance"


@dataclass
class Counter:
    """What vLLM's steps did since ``reset``."""

    steps: int = 0
    tokens: int = 0

    def reset(self) -> None:
        self.steps = self.tokens = 0


class Watched(VllmEngine):
    """The engine with a stat logger that counts vLLM's steps, and a list of what it was asked."""

    def __init__(self, model: str, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.counter = Counter()
        self.asked: list[tuple[Message, ...]] | None = None

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        if self.asked is not None:
            self.asked.append(tuple(messages))
        return await super().complete(messages, sampling)

    async def fresh(self) -> None:
        """Forget the cached prompts and what was counted."""
        assert self._home is not None
        await self._home.run(self._llm.reset_prefix_cache())
        self.counter.reset()

    async def bare(self, prompts: Sequence[list[int]], messages: Sequence[tuple[Message, ...]]) -> list[int]:
        """The answers' lengths: prompts straight to vLLM, all at once, in its own loop, no text made."""

        async def all_at_once() -> list[Any]:
            asked = zip(prompts, messages, strict=True)
            return await asyncio.gather(*(self._generate(prompt, said, SAMPLING) for prompt, said in asked))

        assert self._home is not None
        return [len(tokens) for tokens, _ in await self._home.run(all_at_once())]

    def _launch(self, settings: Mapping[str, Any]) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.metrics.loggers import StatLoggerBase

        counter = self.counter

        class Steps(StatLoggerBase):
            def __init__(self, *_: Any, **__: Any) -> None: ...

            def log_engine_initialized(self) -> None: ...

            def record(self, scheduler_stats: Any = None, iteration_stats: Any = None, *_: Any, **__: Any) -> None:
                if iteration_stats is not None and iteration_stats.num_generation_tokens:
                    counter.steps += 1
                    counter.tokens += iteration_stats.num_generation_tokens

        return AsyncLLM.from_engine_args(AsyncEngineArgs(**settings), stat_loggers=[Steps])


@dataclass
class Limited:
    """A ranker behind the semaphore that all share."""

    ranker: PromptRanker
    places: asyncio.Semaphore

    async def order(self, window: Window) -> Permutation:
        async with self.places:
            return await self.ranker.order(window)


@dataclass
class InStep:
    """A ranker that waits for the rest of its batch after each window."""

    ranker: PromptRanker
    barrier: asyncio.Barrier

    async def order(self, window: Window) -> Permutation:
        try:
            permutation = await self.ranker.order(window)
        except BaseException:
            await self.barrier.abort()  # or the rest would wait for ever
            raise
        await self.barrier.wait()
        return permutation


@dataclass
class Bench:
    """The four schemes over one engine."""

    engine: Watched
    work: Sequence[Candidates]
    strategy: SlidingWindow = field(default_factory=lambda: SlidingWindow(SIZE, STEP))
    prompt: CompactPrompt = field(default_factory=lambda: CompactPrompt(max_characters=400))
    asked: list[tuple[Message, ...]] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)

    def ranker(self, engine: Any) -> PromptRanker:
        return PromptRanker(engine, self.prompt, SAMPLING)

    async def ours(self) -> Mapping[str, Ranking | Failure]:
        if not self.asked:
            self.engine.asked = self.asked
        with tempfile.TemporaryDirectory() as folder:
            store = CompletionStore(Path(folder) / "completions.sqlite")
            recording = RecordingEngine(self.engine, store)
            try:
                return await rerank_all(
                    self.work,
                    self.strategy,
                    lambda _: PromptRanker(recording, self.prompt, SAMPLING, recording),
                )
            finally:
                self.engine.asked = None
                store.close()

    async def lock_step(self) -> Mapping[str, Ranking | Failure]:
        found: dict[str, Ranking | Failure] = {}
        for start in range(0, len(self.work), BATCH):
            batch = self.work[start : start + BATCH]
            barrier = asyncio.Barrier(len(batch))
            found |= await rerank_all(batch, self.strategy, lambda _, b=barrier: InStep(self.ranker(self.engine), b))
        return found

    async def semaphore(self) -> Mapping[str, Ranking | Failure]:
        places = asyncio.Semaphore(SEMAPHORE)
        return await rerank_all(self.work, self.strategy, lambda _: Limited(self.ranker(self.engine), places))

    async def floor(self) -> None:
        await self.engine.bare(self.prompts, self.asked)


@dataclass
class Measured:
    """One scheme's runs."""

    seconds: list[float] = field(default_factory=list)
    occupancy: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    """CPU seconds of this process: vLLM's model runs in others."""


async def measure(bench: Bench, rounds: int) -> tuple[dict[str, Measured], dict[str, Any]]:
    """Every scheme ``rounds`` times, each round in the reverse order of the last."""
    schemes: dict[str, Callable[[], Awaitable[Any]]] = {
        "ours": bench.ours,
        "floor": bench.floor,
        "lock-step": bench.lock_step,
        "semaphore": bench.semaphore,
    }
    found = {name: Measured() for name in schemes}
    rankings: dict[str, Any] = {}
    order = list(schemes)
    for number in range(rounds):
        for name in order:
            if name == "floor" and not bench.prompts:  # tokenized outside the clock
                bench.prompts = [bench.engine.chat.encode(messages) for messages in bench.asked]
            await bench.engine.fresh()
            began, spent = time.perf_counter(), time.process_time()
            result = await schemes[name]()
            seconds = time.perf_counter() - began
            found[name].own.append(time.process_time() - spent)
            counter, row = bench.engine.counter, found[name]
            row.seconds.append(seconds)
            row.occupancy.append(counter.tokens / counter.steps)
            row.tokens.append(counter.tokens)
            row.steps.append(counter.steps)
            if result is not None:
                assert all(isinstance(ranking, Ranking) for ranking in result.values()), str(result)[:500]
                rankings.setdefault(name, result)
            print(
                f"  round {number + 1}, {name}: {seconds:.1f} s, occupancy {row.occupancy[-1]:.1f}, "
                f"{counter.tokens / seconds:,.0f} tokens/s, {counter.steps / seconds:.0f} steps/s, "
                f"own CPU {row.own[-1]:.1f} s",
                flush=True,
            )
        order.reverse()
    return found, rankings


async def saturation(bench: Bench, counts: Sequence[int] = CURVE, seconds: float = 4.0) -> dict[int, float]:
    """Tokens a second with so many requests in flight at all times, each point for some seconds."""
    return {count: await in_flight(bench, count, seconds) for count in counts}


async def in_flight(bench: Bench, count: int, seconds: float) -> float:
    """Tokens a second, counted while ``count`` requests are in flight: after a quarter of the time, to its end."""
    engine = bench.engine
    assert engine._home is not None
    await engine.fresh()
    over = False
    supply = itertools.cycle(range(0, len(bench.prompts), 7))

    async def one() -> None:
        while not over:
            i = next(supply)
            await engine._generate(bench.prompts[i], bench.asked[i], SAMPLING)

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(count)))

    running = asyncio.create_task(engine._home.run(all_of_them()))
    await asyncio.sleep(seconds / 4)
    before, at = engine.counter.tokens, time.perf_counter()
    await asyncio.sleep(seconds * 3 / 4)
    rate = (engine.counter.tokens - before) / (time.perf_counter() - at)
    over = True
    await running
    print(f"  {count} in flight: {rate:,.0f} tokens/s", flush=True)
    return rate


def candidates(queries: int, cache: Path) -> list[Candidates]:
    """Full lists: with the usual 2,000 passages a query's words are in some twenty of them only."""
    collection = SyntheticCollection(split="test", passage_count=PASSAGES)
    judged = Source("synthetic", collection, Bm25(cache_dir=str(cache)), "keep").judged(DEPTH)
    full = [item.candidates for item in judged if len(item.candidates.passages) == DEPTH]
    assert len(full) >= queries, f"only {len(full)} queries have {DEPTH} candidates"
    return full[:queries]


async def benchmark(engine: Watched, queries: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(engine, candidates(queries, Path(folder)))
    # vLLM's first batches compile its kernels.
    first = [item.top(SIZE) for item in bench.work]
    await rerank_all(first, bench.strategy, lambda _: bench.ranker(engine))
    found, rankings = await measure(bench, rounds)
    curve = await saturation(bench)
    same = {
        name: sum(result[q] == ranking for q, ranking in rankings["ours"].items()) for name, result in rankings.items()
    }
    return {
        "queries": len(bench.work),
        "windows": len(bench.asked),
        "prompt_tokens": fmean(map(len, bench.prompts)),
        "schemes": {name: vars(row) for name, row in found.items()},
        "same_rankings": same,
        "curve": curve,
    }


def report(data: Mapping[str, Any]) -> str:
    best = {name: min(row["seconds"]) for name, row in data["schemes"].items()}
    rows = [
        {
            "scheme": name,
            "seconds": ", ".join(f"{s:.1f}" for s in row["seconds"]),
            "occupancy": f"{fmean(row['occupancy']):.1f}",
            "steps": f"{fmean(row['steps']):,.0f}",
            "own CPU s": f"{min(row['own']):.1f}",
            "tokens/s": f"{row['tokens'][0] / min(row['seconds']):,.0f}",
            "over the floor": f"{best[name] / best['floor']:.2f}",
            "over ours": f"{best[name] / best['ours']:.2f}",
        }
        for name, row in data["schemes"].items()
    ]
    curve = [{"in flight": str(count), "tokens/s": f"{value:,.0f}"} for count, value in data["curve"].items()]
    return f"{render_table(rows)}\n\n{render_table(curve)}"


def draw(data: Mapping[str, Any], folder: Path) -> None:
    """The saturation curve with each scheme's own point on it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    counts, values = zip(*((int(c), v) for c, v in data["curve"].items()), strict=True)
    axes.plot(counts, values, marker="o", markersize=4, color="0.5", label="so many requests at all times")
    for name, row in data["schemes"].items():
        axes.plot(fmean(row["occupancy"]), row["tokens"][0] / min(row["seconds"]), "D", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("requests in vLLM's batch")
    axes.set_ylabel("tokens a second")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    for ending in ("png", "svg"):
        figure.savefig(folder / f"never_idle.{ending}", dpi=120)


def run(queries: int = 100, rounds: int = 2, max_concurrent: int | None = SLOTS) -> list[Result]:
    if find_spec("vllm") is None:
        print(
            "never_idle: skipped, there is no vllm here; with the extra cluster-cpu: "
            ".venv-cluster/bin/python experiments/performance/never_idle.py"
        )
        return []
    engine = Watched(
        Model(name="tiny", path="pkg://rearank/training/assets/tiny").location, max_concurrent=max_concurrent
    )

    async def main() -> dict[str, Any]:
        try:
            return await benchmark(engine, queries, rounds)
        finally:
            await engine.aclose()

    data = asyncio.run(main())
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "never_idle.json").write_text(json.dumps(data, indent=2) + "\n")
    draw(data, OUTPUT)
    print(report(data))
    best = {name: min(row["seconds"]) for name, row in data["schemes"].items()}
    against, floor = best["lock-step"] / best["ours"], best["ours"] / best["floor"]
    steps = {name: fmean(row["steps"]) for name, row in data["schemes"].items()}
    what = f"{data['queries']} queries, {data['windows']:,} windows"
    return [
        Result("never_idle", f"{what}: lock-step over ours", against, "x", f"at least {FASTER}", against >= FASTER),
        Result("never_idle", f"{what}: ours over the floor", floor, "x", f"at most {FLOOR}", floor <= FLOOR),
        # The machine's other work moves the times, but not these.
        Result("never_idle", f"{what}: vLLM's steps, ours over the floor's", steps["ours"] / steps["floor"], "x"),
        Result("never_idle", f"{what}: semaphore of {SEMAPHORE} over ours", best["semaphore"] / best["ours"], "x"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--max-concurrent", type=int, default=SLOTS, help="0: as many as the engine chooses")
    chosen = parser.parse_args()
    for result in run(chosen.queries, chosen.rounds, chosen.max_concurrent or None):
        print(f"{result.what}: {result.value:.2f} {result.unit} {result.bar} {'' if result.ok else 'MISSED'}")
