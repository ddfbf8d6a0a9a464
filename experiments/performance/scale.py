"""Reranking 10^6 and 10^9 queries on paper: prints the tables of scale.md from the inputs below, and what it measures.

Windows come from the strategies, tokens from this project's own prompts over made-up passages (4 bytes a token), bytes
and seconds of everything but the model from a few hundred real queries on this machine. A minute, nothing downloaded.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import perf_counter, process_time
from typing import Any

from common import words
from omegaconf import OmegaConf

from rearank.config import build
from rearank.data.topics import read_topics
from rearank.engines import CompletionStore, OpenAINode, RecordingEngine, ScriptedEngine
from rearank.engines.model import Model
from rearank.engines.session import Reranked, Session
from rearank.evaluation import Cell, render_table
from rearank.ranking import Failure, Planned
from rearank.reranker.setup import Parts
from rearank.sections import Machine, RerankColumns
from rearank.tasks.rerank.inputs import count
from rearank.tasks.rerank.records import record_of
from rearank.tasks.rerank.rows import SeenIds, TextRows
from rearank.tasks.rerank_cost import Work, measured
from rearank.types import Candidates, Completion, Passage, Query

CONF = Path(__file__).resolve().parents[2] / "conf"
SCALES = (10**6, 10**9)
DEPTH = 100  # passages a query
REASONED, SAID = 850, 5  # tokens of an answer: REARANK's after training (arXiv 2505.20046), and a word without reasons
SHARD = 10_000  # queries in a file of output
DEADLINE = 30  # days

# One H100 80GB, all tokens a second, prompts and answers together: how much it is goes by their lengths, so three.
SPEEDS = {
    "slow": (5_629, "Qwen3-8B bf16, vLLM 0.30.0, 2,048 read and 2,048 written, within a latency limit"),
    "middle": (9_218, "Qwen3-14B, vLLM as it comes, 4,000 read and 200 written"),
    "fast": (27_159, "Qwen3-8B bf16, vLLM 0.30.0, 1,024 read and 128 written, within a latency limit"),
}
RENTS = {"low": 2.69, "middle": 3.99, "high": 6.88}  # dollars an hour: RunPod Community, Lambda (8 of them), AWS p5
API = Machine("DeepSeek flash, off-peak", price_prompt=0.15, price_answer=0.60)


@dataclass(frozen=True)
class Way:
    """A strategy: its node and what is set in it, the prompt that it needs, tokens of an answer.

    ``calls`` are experiments/strategies' for those whose calls go by the answers; ``quality`` is nDCG@10 there, of the
    oracle of medium noise.
    """

    node: str
    quality: float
    calls: float | None = None
    prompt: str = "rearank"
    answer: int = REASONED
    tournaments: int | None = None


WAYS = {
    "full_list": Way("full_list", 0.5404),
    "pointwise": Way("pointwise", 0.5262, prompt="pointwise", answer=SAID),
    "sliding_window": Way("sliding_window", 0.6718),
    "top_down": Way("top_down", 0.6480, calls=10.5),
    "setwise": Way("setwise", 0.6316, calls=18.6, prompt="setwise"),
    "tournament (2)": Way("tournament", 0.7685),
    "several_passes (3)": Way("several_passes", 0.7654),
    "tournament (5)": Way("tournament", 0.8702, tournaments=5),
    "pairwise": Way("pairwise", 0.4993, prompt="pairwise", answer=SAID),
}


@dataclass(frozen=True)
class Shape:
    """Of one query under one strategy: calls, the longest chain, tokens."""

    calls: float
    chain: int
    prompt: float
    answer: float

    def work(self, queries: int) -> Work:
        return Work(self.calls * queries, self.prompt * queries, self.answer * queries, self.chain)


def lists(how_many: int, seed: int = 1) -> list[Candidates]:
    """Passages of about 600 bytes, of which prompts show 400 characters."""
    rng = Random(seed)
    found = []
    for number in range(how_many):
        passages = (
            Passage(f"doc{rng.randrange(10**9):09d}", words(110, 30_000, rng.random)[:600]) for _ in range(DEPTH)
        )
        found.append(Candidates(Query(f"q{number:09d}", words(8, 30_000, rng.random)), tuple(passages)))
    return found


def node(group: str, name: str, **settings: Any) -> Any:
    made = OmegaConf.load(CONF / group / f"{name}.yaml")
    return build(OmegaConf.create({**{key: value for key, value in made.items() if key != "defaults"}, **settings}))


def shape(way: Way) -> Shape:
    """Tokens of the calls that answers which keep the order bring about."""
    settings = {} if way.tournaments is None else {"tournaments": way.tournaments}
    strategy = node("strategy", way.node, **settings)
    model, server = Model(name="any", path="any"), OpenAINode(base_url="http://127.0.0.1/v1")
    sample = measured(lists(3), Parts(model, node("prompt", way.prompt), strategy, server))
    assert not sample.failures, sample.failures
    calls = way.calls or sum(sample.calls) / len(sample.calls)
    chain = strategy.chain(DEPTH) if isinstance(strategy, Planned) else 0
    return Shape(calls, chain, calls * sample.mean(), calls * way.answer)


def short(value: float) -> str:
    """Two digits or three, with a word."""
    for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if value >= size:
            return f"{value / size:.3g}{word}"
    return f"{value:.3g}"


def size(value: float) -> str:
    for unit, word in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:.3g} {word}"
    return f"{value:.0f} B"


def rented(speed: str, rent: str, many: int = 1) -> Machine:
    return Machine("published", speed=float(SPEEDS[speed][0]), dollars_an_hour=RENTS[rent], count=many)


def per_query(shapes: dict[str, Shape]) -> list[dict[str, Cell]]:
    rows = []
    for name, one in shapes.items():
        row: dict[str, Cell] = {"strategy": name, "calls": f"{one.calls:,g}", "chain": str(one.chain)}
        rows.append({**row, "prompt tokens": f"{one.prompt:,.0f}", "answer tokens": f"{one.answer:,.0f}"})
    return rows


def at_scale(shapes: dict[str, Shape], queries: int) -> list[dict[str, Cell]]:
    rows = []
    for name, one in shapes.items():
        work = one.work(queries)
        hours = {speed: work.hours(rented(speed, "middle")) or 0.0 for speed in SPEEDS}
        gpus = hours["middle"] / (DEADLINE * 24)
        rows.append(
            {
                "strategy": name,
                "tokens": short(work.prompt_tokens + work.answer_tokens),
                "H100 hours, fast to slow": f"{short(hours['fast'])} to {short(hours['slow'])}",
                f"H100s for {DEADLINE} days (middle)": f"{gpus:,.1f}" if gpus < 100 else f"{gpus:,.0f}",
                "rent (middle)": f"${short(work.dollars(rented('middle', 'middle')) or 0.0)}",
                "rent, least to most": f"${short(work.dollars(rented('fast', 'low')) or 0.0)} to "
                f"${short(work.dollars(rented('slow', 'high')) or 0.0)}",
                "API": f"${short(work.dollars(API) or 0.0)}",
            }
        )
    return rows


def worth_it(shapes: dict[str, Shape]) -> list[dict[str, Cell]]:
    """Those that no cheaper one is better than."""
    rows: list[dict[str, Cell]] = []
    best, rent = 0.0, rented("middle", "middle")
    for name, one in sorted(shapes.items(), key=lambda item: item[1].work(1).dollars(rent) or 0.0):
        if WAYS[name].quality <= best:
            continue
        best = WAYS[name].quality
        dollars = [short(one.work(queries).dollars(rent) or 0.0) for queries in SCALES]
        row: dict[str, Cell] = {f"10^{len(str(n)) - 1}": f"${text}" for n, text in zip(SCALES, dollars, strict=True)}
        rows.append({**row, "strategy": name, "nDCG@10": f"{best:.4f}", "chain": str(one.chain)})
    return rows


@dataclass(frozen=True)
class Measured:
    """On this machine, one core: bytes and seconds of one query, window or id."""

    input_bytes: float
    output_bytes: float
    store_bytes: float
    window_seconds: float
    stored_seconds: float
    counted_seconds: float
    id_seconds: float
    id_bytes: float
    topic_bytes: float


def measure(folder: Path) -> Measured:
    """The paper's strategy and prompt."""
    some = lists(60)
    rng = Random(3)
    rows = [
        {"id": one.query.id, "query": one.query.text, "passages": [{"id": p.id, "text": p.text} for p in one.passages]}
        for one in some
    ]
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    strategy, prompt = node("strategy", "sliding_window"), node("prompt", "rearank")
    began = perf_counter()
    count(TextRows(str(path), RerankColumns(), parquet=False, plain_ids=False), DEPTH, strategy)
    counted = (perf_counter() - began) / len(some)

    written: list[int] = []

    def done(one: Reranked) -> None:
        assert not isinstance(one.result, Failure)
        written.append(len(json.dumps(record_of(one.candidates, one.result, one, texts=False))) + 1)

    def rerank(store: CompletionStore | None) -> float:
        scripted = ScriptedEngine("reverse")
        engine: Any = scripted if store is None else RecordingEngine(scripted, store)
        session = Session(engine, prompt, strategy, max_concurrent_queries=32)
        start = process_time()
        asyncio.run(session.rerank(some, traced=(), on_done=done))
        return (process_time() - start) / (9 * len(some))

    bare = rerank(None)
    store = CompletionStore(folder / "store.sqlite")
    stored = rerank(store)
    store.close()

    filled = CompletionStore(folder / "long.sqlite")
    for number in range(1_000):
        text = words(4 * REASONED // 5, 30_000, rng.random)[: 4 * REASONED]
        filled.put(f"{rng.getrandbits(256):064x}", (), Completion(text, 2_500, REASONED, seconds=float(number)))
    filled.close()
    store_bytes = sum(one.stat().st_size for one in folder.glob("long.sqlite*")) / 1_000

    ids, seen = 300_000, SeenIds()
    began = perf_counter()
    for _ in range(ids):
        seen.add(f"q{rng.randrange(10**9):09d}")
    id_seconds = (perf_counter() - began) / ids
    pages, page = (seen._db.execute(f"pragma {name}").fetchone()[0] for name in ("page_count", "page_size"))

    topics = folder / "topics.tsv"
    topics.write_text("".join(f"q{number:09d}\t{words(8, 30_000, rng.random)}\n" for number in range(20_000)))
    tracemalloc.start()
    read = read_topics(str(topics))
    topic_bytes = tracemalloc.get_traced_memory()[0] / len(read)
    tracemalloc.stop()
    return Measured(
        path.stat().st_size / len(some), sum(written) / len(written), store_bytes, bare, stored, counted, id_seconds,
        pages * page / ids, topic_bytes,
    )  # fmt: skip


def around(found: Measured, paper: Shape) -> list[dict[str, Cell]]:
    """What there is beside the model, with the paper's strategy."""
    prompt_bytes = paper.prompt * 4 + paper.answer * 4
    feeds = (paper.prompt + paper.answer) / paper.calls / SPEEDS["middle"][0] / found.stored_seconds
    rows: list[tuple[str, str, Any]] = [
        ("input, JSONL", f"{size(found.input_bytes)} a query", lambda n: size(found.input_bytes * n)),
        ("output, JSONL without texts", f"{size(found.output_bytes)} a query", lambda n: size(found.output_bytes * n)),
        (f"shards of {SHARD:,} queries", "", lambda n: f"{n // SHARD:,}"),
        (
            "store of answers",
            f"{size(found.store_bytes)} an answer",
            lambda n: size(found.store_bytes * paper.calls * n),
        ),
        ("to engines and back", f"{size(prompt_bytes)} a query", lambda n: size(prompt_bytes * n)),
        (
            f"the same a second over {DEADLINE} days",
            "",
            lambda n: f"{size(prompt_bytes * n / (DEADLINE * 86400))}/s",
        ),
        (
            "own CPU, windows without the store",
            f"{found.window_seconds * 1e3:.2f} ms a window",
            lambda n: f"{short(found.window_seconds * paper.calls * n / 3600)} core hours",
        ),
        (
            "own CPU, windows with the store",
            f"{found.stored_seconds * 1e3:.2f} ms a window",
            lambda n: f"{short(found.stored_seconds * paper.calls * n / 3600)} core hours",
        ),
        (
            "H100s (middle) that one core feeds, with the store",
            f"{feeds:,.0f}",
            lambda n: f"{short(found.stored_seconds * paper.calls * n / 86400)} days of one core",
        ),
        (
            "counting the input first",
            f"{found.counted_seconds * 1e3:.2f} ms a query",
            lambda n: f"{short(found.counted_seconds * n / 3600)} hours",
        ),
        (
            "ids met, in a temporary file",
            f"{size(found.id_bytes)}, {found.id_seconds * 1e6:.1f} µs an id",
            lambda n: size(found.id_bytes * n),
        ),
        (
            "topics of a TREC run, in memory",
            f"{size(found.topic_bytes)} a topic",
            lambda n: size(found.topic_bytes * n),
        ),
    ]
    return [{"what": what, "each": each, **{f"10^{len(str(n)) - 1}": of(n) for n in SCALES}} for what, each, of in rows]


def main() -> None:
    shapes = {name: shape(way) for name, way in WAYS.items()}
    print("A query of", DEPTH, "passages\n")
    print(render_table(per_query(shapes)))
    for queries in SCALES:
        print(f"\n10^{len(str(queries)) - 1} queries\n")
        print(render_table(at_scale(shapes, queries)))
    print("\nWhat a larger budget buys\n")
    print(render_table(worth_it(shapes)))
    with tempfile.TemporaryDirectory() as folder:
        print("\nBeside the model, strategy=sliding_window\n")
        print(render_table(around(measure(Path(folder)), shapes["sliding_window"])))


if __name__ == "__main__":
    main()
