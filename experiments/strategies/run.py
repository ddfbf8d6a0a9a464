"""Every strategy at equal model: calls, tokens, the longest chain of calls, and nDCG@10.

    python experiments/strategies/run.py                      # the oracles, then the trained small model
    python experiments/strategies/run.py --only report        # the table and the figure anew, from results.json

A cell that is done is kept in --work and not measured again; the small model's answers are kept there too. The model is
the quickstart's: python run.py experiment=quickstart name=strategies paths.outputs=outputs tracking=none
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import tables
from study import DRAWN, NOISES, ORACLE_ARMS, ROOT, SEEDS, TINY_ARMS, Arm, built_in_lists, oracle_lists, spread

from rearank.data import JudgedCandidates
from rearank.engines import CompletionStore, Engine, PromptRanker, RecordingEngine, ScriptedEngine
from rearank.engines.virtual_time import run_virtual
from rearank.evaluation import score
from rearank.progress import progress
from rearank.ranking import rerank_all
from rearank.types import Completion, Message, Ranking, Sampling

MEASURE = "ndcg_cut_10"
MAX_TOKENS = 96  # the small model's own


class Replay:
    """Answers from the store alone, each after a second: what a query takes is then the length of its chain."""

    def __init__(self, engine: Engine, store: CompletionStore) -> None:
        self.identity = engine.identity
        self._store = RecordingEngine(self, store)
        self.tokenizer = getattr(engine, "tokenizer", None)

    async def paced(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        await asyncio.sleep(1.0)
        return await self._store.complete(messages, sampling)

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        raise RuntimeError("not in the store: the strategy asked something else than when it was measured")

    async def aclose(self) -> None:
        """Nothing to release."""


class Paced:
    """A ``Replay`` as an engine."""

    def __init__(self, replay: Replay) -> None:
        self.identity = replay.identity
        self.complete = replay.paced

    async def aclose(self) -> None:
        """Nothing to release."""


def measure(arm: Arm, engine: Engine, items: Sequence[JudgedCandidates], seed: int, *, timed: bool) -> dict[str, Any]:
    """One strategy over all lists.

    Args:
        arm: the strategy and its prompt.
        engine: what answers.
        items: the lists.
        seed: of the sampling.
        timed: whether each call takes a (virtual) second, so that a query's time is its chain; else all queries run
            at once in real time, and the chain is not measured.
    """
    strategy, prompt = arm.build(), arm.build_prompt()
    sampling = Sampling(MAX_TOKENS, arm.temperature, seed=seed)
    recorder = engine if isinstance(engine, RecordingEngine) else None
    tokenizer = getattr(getattr(engine, "engine", engine), "tokenizer", None)
    rankers: list[PromptRanker] = []
    results: dict[str, Any] = {}
    chains: list[float] = []

    def ranker_for(_: Any) -> PromptRanker:
        rankers.append(PromptRanker(engine, prompt, sampling, recorder, tokenizer))
        return rankers[-1]

    with progress(f"{arm.label}", len(items), "queries") as bar:
        if timed:
            for item in items:
                result, seconds = run_virtual(rerank_all([item.candidates], strategy, ranker_for))
                results |= result
                chains.append(seconds)
                bar.advance()
        else:
            work = [item.candidates for item in items]
            results = asyncio.run(rerank_all(work, strategy, ranker_for, on_done=lambda _: bar.advance()))
    if lost := [str(result) for result in results.values() if not isinstance(result, Ranking)]:
        raise RuntimeError(f"{len(lost)} queries failed, the first: {lost[0]}")
    statuses: Counter[str] = Counter()
    for ranker in rankers:
        statuses.update({status.value: count for status, count in ranker.account.statuses.items()})
    n = len(items)
    return {
        "ndcg": per_query(results, items),
        "calls": sum(result.calls for result in results.values()) / n,
        "prompt_tokens": sum(ranker.account.prompt_tokens for ranker in rankers) / n,
        "completion_tokens": sum(ranker.account.completion_tokens for ranker in rankers) / n,
        "cut_answers": sum(ranker.account.cut_answers for ranker in rankers) / n,
        "unparsed": sum(ranker.unparsed for ranker in rankers) / n,
        "statuses": dict(statuses),
        "chain": fmean(chains) if chains else None,
        "most_calls": max(strategy.calls(len(item.candidates.passages)) for item in items),
        "longest_chain": max(strategy.chain(len(item.candidates.passages)) for item in items),
    }


def per_query(results: Mapping[str, Ranking], items: Sequence[JudgedCandidates]) -> dict[str, float]:
    """Query id -> nDCG@10."""
    qrels = {item.candidates.query.id: item.grades for item in items}
    return score({q: r.passage_ids for q, r in results.items()}, qrels, (MEASURE,), "zero")[MEASURE]


def bounds(items: Sequence[JudgedCandidates]) -> dict[str, dict[str, float]]:
    """What the first stage gives, and the best order of its lists."""
    first = {i.candidates.query.id: [p.id for p in i.candidates.passages] for i in items}
    qrels = {item.candidates.query.id: item.grades for item in items}
    ideal = {q: sorted(ids, key=lambda d: -max(qrels[q].get(d, 0), 0)) for q, ids in first.items()}
    return {
        name: score(run, qrels, (MEASURE,), "zero")[MEASURE] for name, run in (("first_stage", first), ("ideal", ideal))
    }


def cell(work: Path, name: str, settings: Mapping[str, Any], made: Any) -> dict[str, Any]:
    """The result kept under these settings, or ``made()``, which is kept."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = work / "cells" / f"{name.replace(' ', '_').replace('/', '-')}-{key}.json"
    if not path.is_file():
        began = time.monotonic()
        found = {**made(), "settings": settings, "seconds": time.monotonic() - began, "commit": commit()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".part").write_text(json.dumps(found))
        path.with_suffix(".part").replace(path)
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def oracles(work: Path) -> dict[str, Any]:
    """Every strategy over noisy oracles of three qualities, each with several seeds, whose values are averaged."""
    name, items = oracle_lists(work / "cache")
    qrels = {item.candidates.query.id: item.grades for item in items}
    arms: dict[str, Any] = {}
    for arm in ORACLE_ARMS:
        found = arms[arm.label] = {"noise": {}, **arm.described}
        for quality, noise in NOISES.items():
            cells = []
            for seed in SEEDS:
                settings = {"part": "oracles", "data": name, "noise": noise, "seed": seed, **arm.described}

                def made(noise: float = noise, seed: int = seed, arm: Arm = arm) -> dict[str, Any]:
                    engine = ScriptedEngine("noisy", judgements=qrels, seed=seed, noise=noise, seconds=1.0, sigma=0.0)
                    return measure(arm, engine, items, seed, timed=True)

                cells.append(cell(work, f"{arm.label} {quality} {seed}", settings, made))
            found["noise"][quality] = averaged(cells)
    return {"data": name, "queries": len(items), "depth": 100, "seeds": SEEDS, "noises": NOISES, "arms": arms,
            **bounds(items)}  # fmt: skip


def averaged(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seeds into one: per-query values and figures are means, statuses are summed."""
    statuses: Counter[str] = Counter()
    for one in cells:
        statuses.update(one["statuses"])
    figures = ("calls", "prompt_tokens", "completion_tokens", "cut_answers", "unparsed", "chain")
    return {
        "ndcg": {query: fmean(one["ndcg"][query] for one in cells) for query in cells[0]["ndcg"]},
        **{name: fmean(one[name] for one in cells) for name in figures},
        **{name: cells[0][name] for name in ("most_calls", "longest_chain")},
        "statuses": dict(statuses),
    }


def tiny(work: Path, checkpoint: Path, queries: int) -> dict[str, Any]:
    """Every strategy with the trained small model on lists of 20."""
    from rearank.engines.transformers import TransformersEngine

    items = spread(built_in_lists(work / "cache", 20), queries)
    engine = TransformersEngine(checkpoint, device="cpu")
    store = CompletionStore(work / "tiny.sqlite")
    arms: dict[str, Any] = {}
    try:
        for arm in TINY_ARMS:
            identity = dict(engine.identity) | {"model": None}
            settings = {"part": "tiny", "queries": queries, "engine": identity, **arm.described}

            def made(arm: Arm = arm) -> dict[str, Any]:
                found = measure(arm, RecordingEngine(engine, store), items, 1, timed=False)
                paced = Paced(Replay(engine, store))
                again = measure(arm, paced, items, 1, timed=True)
                if again["ndcg"] != found["ndcg"]:
                    raise RuntimeError(f"{arm.label}: the replay gives another ranking")
                return {**found, "chain": again["chain"]}

            arms[arm.label] = {**arm.described, **cell(work, f"tiny {arm.label}", settings, made)}
    finally:
        store.close()
    return {"queries": len(items), "depth": 20, "arms": arms, **bounds(items)}


def commit() -> str:
    """The code this was measured with."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Measure what is missing, then write results.json, table.md and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("oracles", "tiny", "report"))
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "outputs" / "strategies" / "training" / "model")
    parser.add_argument("--queries", type=int, default=100, help="for the small model, of its 320 test queries")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "strategies_study")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    path = given.out / "results.json"
    for part in ("oracles", "tiny"):
        if given.only in (None, part):
            found = oracles(given.work) if part == "oracles" else tiny(given.work, given.checkpoint, given.queries)
            # Read now and not before: the other part may have been measured meanwhile, by another process.
            results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
            results[part] = {**found, "commit": commit()}
            results["temperature"] = DRAWN
            path.write_text(json.dumps(rounded(results), indent=1) + "\n")
    tables.write(json.loads(path.read_text()), given.out)


def rounded(value: Any) -> Any:
    """Five digits are plenty for what is looked at."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    main()
