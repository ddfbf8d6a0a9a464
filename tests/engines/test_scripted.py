"""The fake keeps its promises, through a real prompt and the real parser."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from rearank.config import build
from rearank.engines import Engine, EngineError, EngineNode, PromptRanker, ScriptedEngine, SeesWindows
from rearank.engines.virtual_time import run_virtual
from rearank.parsing import ParseStatus, parse_ranking
from rearank.prompts import CompactPrompt
from rearank.ranking import Failure, SlidingWindow, rerank_all
from rearank.types import Candidates, Message, Passage, Query, Ranking, Sampling, Window

WINDOW = Window(Query("q", "what"), tuple(Passage(f"d{i}", f"text {i}") for i in range(4)))
JUDGED = {"q": {"d1": 1, "d3": 3, "d0": -1}}


def order(engine: Engine, prompt: Any = None) -> tuple[tuple[int, ...], PromptRanker]:
    ranker = PromptRanker(engine, prompt or CompactPrompt())
    return asyncio.run(ranker.order(WINDOW)).order, ranker


@pytest.mark.parametrize("prompt", ["rearank", "rankgpt", "compact"])
def test_orders(prompt: str, root: Path) -> None:
    node = build(OmegaConf.to_container(OmegaConf.load(root / f"conf/prompt/{prompt}.yaml")))
    assert order(ScriptedEngine("oracle", judgements=JUDGED), node)[0] == (3, 1, 0, 2)
    assert order(ScriptedEngine("reverse"), node)[0] == (3, 2, 1, 0)
    assert order(ScriptedEngine("given"), node)[0] == (0, 1, 2, 3)
    shuffled, ranker = order(ScriptedEngine("random", seed=4), node)
    assert shuffled == order(ScriptedEngine("random", seed=4), node)[0]
    assert ranker.account.statuses == {ParseStatus.OK: 1}
    # Without the window, its size is read off the messages.
    bare = asyncio.run(ScriptedEngine("reverse").complete(node.render(WINDOW), Sampling()))
    assert "[4] > [3] > [2] > [1]" in bare.text


def test_a_malformed_answer_is_counted() -> None:
    counts = [order(ScriptedEngine("malformed", seed=seed))[1] for seed in range(60)]
    seen = {status for ranker in counts for status in ranker.account.statuses}
    assert seen == set(ParseStatus) - {ParseStatus.OK}
    assert {ranker.unparsed for ranker in counts} == {0, 1}


def test_slow_with_slots() -> None:
    engine = ScriptedEngine("given", seconds=1.0, sigma=0.0, slots=2)

    async def six() -> None:
        await asyncio.gather(*(engine.complete((Message("user", str(i)),), Sampling()) for i in range(6)))

    start = time.perf_counter()
    _, seconds = run_virtual(six())
    assert seconds == pytest.approx(3.0)
    assert time.perf_counter() - start < 1.0
    assert engine.calls == 6


def test_virtual_time_says_when_nothing_is_due() -> None:
    async def stuck() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing is due"):
        run_virtual(stuck())


def test_failing_fails_the_same_calls_again_and_no_order_is_kept() -> None:
    lists = [Candidates(Query(str(q), f"query {q}"), WINDOW.passages) for q in range(200)]

    def failed() -> set[str]:
        engine = ScriptedEngine("reverse", failing=0.25)
        results = asyncio.run(rerank_all(lists, SlidingWindow(), lambda _: PromptRanker(engine, CompactPrompt())))
        assert all(r.passage_ids == ("d3", "d2", "d1", "d0") for r in results.values() if isinstance(r, Ranking))
        return {r.query_id for r in results.values() if isinstance(r, Failure) and isinstance(r.error, EngineError)}

    assert 25 < len(failed()) < 75
    assert failed() == failed()


def test_an_oracle_without_judgements_says_so() -> None:
    with pytest.raises(EngineError, match="needs judgements"):
        order(ScriptedEngine("oracle"))


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"failing": 1.5}, {"seconds": -1}, {"sigma": -0.1}, {"noise": -1}])
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ScriptedEngine(**wrong)


def test_identity_distinguishes_answers_not_speed() -> None:
    fast, slow = ScriptedEngine("random"), ScriptedEngine("random", seconds=9, failing=0.5, slots=3)
    assert fast.identity == slow.identity
    assert fast.identity != ScriptedEngine("random", seed=1).identity
    assert ScriptedEngine(judgements=JUDGED).identity != ScriptedEngine(judgements={}).identity
    noisy = [ScriptedEngine("noisy", judgements=JUDGED, noise=noise).identity for noise in (1, 2)]
    assert noisy[0] != noisy[1] != ScriptedEngine("noisy", judgements={}, noise=2).identity
    assert isinstance(fast, Engine)
    assert isinstance(fast, SeesWindows)


def test_nodes_say_what_is_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    nodes = {p.stem: build(OmegaConf.to_container(OmegaConf.load(p))) for p in (root / "conf/engine").glob("*.yaml")}
    assert set(nodes) >= {"transformers", "scripted", "vllm", "openai", "none"}
    assert all(isinstance(node, EngineNode) for node in nodes.values())
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert nodes["transformers"].preflight() == []
    assert "OPENAI_API_KEY" in nodes["openai"].preflight()[0]
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert "OPENAI_API_KEY" not in " ".join(nodes["openai"].preflight())
    with pytest.raises(EngineError, match="engine=transformers"):
        nodes["none"].create("some/model")
    assert nodes["scripted"].preflight() == nodes["none"].preflight() == []


def prompt_node(root: Path, name: str) -> Any:
    return build(OmegaConf.to_container(OmegaConf.load(root / f"conf/prompt/{name}.yaml")))


@pytest.mark.parametrize(("name", "best"), [("setwise", 3), ("pairwise", 1), ("rank_r1", 3)])
def test_it_names_the_best_alone_where_that_is_asked(name: str, best: int, root: Path) -> None:
    prompt = replace(prompt_node(root, name), max_tokens=None)
    window = replace(WINDOW, passages=WINDOW.passages[:2]) if name == "pairwise" else WINDOW
    for behaviour, expected in (("oracle", best), ("reverse", len(window) - 1), ("given", 0)):
        ranker = PromptRanker(ScriptedEngine(behaviour, judgements=JUDGED), prompt)  # type: ignore[arg-type]
        assert asyncio.run(ranker.order(window)).order[0] == expected
        assert (ranker.account.statuses, ranker.unparsed) == ({ParseStatus.OK: 1}, 0)
        if behaviour == "reverse":  # the window's size is read off the messages
            bare = asyncio.run(ScriptedEngine(behaviour).complete(prompt.render(window), Sampling()))
            assert parse_ranking(bare.text, 9, best=True, letters=name == "pairwise").permutation.order[0] == expected


def test_it_says_yes_or_no_where_that_is_asked(root: Path) -> None:
    prompt = prompt_node(root, "pointwise")

    def scores(engine: ScriptedEngine) -> list[float]:
        ranker = PromptRanker(engine, prompt)
        found = [asyncio.run(ranker.score(replace(WINDOW, passages=(p,)))) for p in WINDOW.passages]
        assert ranker.account.statuses == {ParseStatus.OK: 4}
        return found

    assert scores(ScriptedEngine("oracle", judgements=JUDGED)) == [0, 1, 0, 1]
    assert scores(ScriptedEngine("given")) == [1, 1, 1, 1]
    assert scores(ScriptedEngine("reverse")) == [0, 0, 0, 0]
    assert len({tuple(scores(ScriptedEngine("random", seed=seed))) for seed in range(8)}) > 2


def test_a_noisy_oracle_misreads_anew_in_each_call_and_the_same_in_the_same() -> None:
    windows = [Window(Query("q", "what"), WINDOW.passages[i:] + WINDOW.passages[:i]) for i in range(4)]

    def orders(noise: float, sample: int = 0) -> list[tuple[str, ...]]:
        engine = ScriptedEngine("noisy", judgements=JUDGED, noise=noise)
        ranker = PromptRanker(engine, CompactPrompt(), Sampling(temperature=1, sample=sample))
        return [tuple(p.id for p in asyncio.run(ranker.order(w)).apply(w.passages)) for w in windows]

    assert {order[:2] for order in orders(0)} == {("d3", "d1")}
    assert orders(0) == [tuple(p.id for p in asyncio.run(_oracle().order(w)).apply(w.passages)) for w in windows]
    assert orders(5) == orders(5)
    assert len(set(orders(5))) > 1
    assert orders(5) != orders(5, sample=1)
    firsts = [order[0] for noise in (0.3, 30.0) for s in range(50) for order in orders(noise, s)]
    assert firsts[:200].count("d3") > 195
    assert 30 < firsts[200:].count("d3") < 80, "all but chance"


def _oracle() -> PromptRanker:
    return PromptRanker(ScriptedEngine(judgements=JUDGED), CompactPrompt())
