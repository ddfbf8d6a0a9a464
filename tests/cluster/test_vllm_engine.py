"""The vLLM engine over the tiny model: what the transformers engine says, drawn by seed, and gone when it is closed."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# Not imported to find out: vLLM sets its logging up when it is imported, and that is the engine's to say.
if find_spec("vllm") is None:
    pytest.skip("the cluster stack is not installed (extra cluster-cpu): no vllm", allow_module_level=True)

from rearank.data.synthetic import SyntheticCollection
from rearank.engines import Engine, EngineError, VllmNode
from rearank.engines.model import Architecture, Model
from rearank.engines.transformers import TransformersEngine
from rearank.engines.vllm.capacity import MOST_SEQUENCES, Split, bytes_per_token
from rearank.engines.vllm.engine import VllmEngine
from rearank.prompts import CompactPrompt
from rearank.types import Completion, Message, Sampling, Window

# vLLM and what it imports warn of their own deprecations.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

TINY = Model(name="tiny", path="pkg://rearank/training/assets/tiny").location
HOT: dict[str, Any] = {"max_tokens": 120, "temperature": 1.0, "top_p": 0.95}
LONG = (Message("user", "Query: ship\n[1] " + "old storm vessel " * 700 + "\n[2] port"),)


def compact() -> CompactPrompt:
    """As conf/prompt/compact.yaml."""
    return CompactPrompt(
        system="",
        opening="Query: {query}",
        passage="[{i}] {passage}",
        final="Think about each passage in <think> tags, then rank all {num} in <answer> tags: [2] > [1]",
        max_characters=400,
    )


def windows(count: int, size: int = 5) -> list[tuple[Message, ...]]:
    collection = SyntheticCollection(split="dev")
    passages = list(collection.iter_passages())
    queries = list(collection.queries().values())[:count]
    found = [Window(query, tuple(passages[7 * i : 7 * i + size])) for i, query in enumerate(queries)]
    return [compact().render(window) for window in found]


def ask(engine: Engine, calls: list[tuple[tuple[Message, ...], Sampling]]) -> list[Completion]:
    async def all_at_once() -> list[Completion]:
        return await asyncio.gather(*(engine.complete(*call) for call in calls))

    return asyncio.run(all_at_once())


def processes() -> set[int]:
    """Every process below this one, but for Python's own resource tracker, which stays until the end."""
    below = {os.getpid()}
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            command = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        if state != "Z" and "resource_tracker" not in command:
            parents[int(stat.parent.name)] = int(parent)
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return below - {os.getpid()}


@pytest.fixture(scope="module")
def before() -> Iterator[set[int]]:
    """What runs below this process before any engine does."""
    yield processes()
    with warnings.catch_warnings():  # vLLM leaves its ZeroMQ context to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def engine(before: set[int]) -> Iterator[VllmEngine]:
    """Created outside an event loop, as the commands do; closed by the last test that uses it.

    With the prefix cache, as by default, and as many calls at once as it chooses.
    """
    made = VllmNode(device="cpu", kv_cache_gib=0.5).create(TINY)
    assert isinstance(made, VllmEngine)
    assert isinstance(made, Engine)
    assert processes() == before, "nothing starts before the first call"
    yield made
    asyncio.run(made.aclose())


def test_greedy_says_what_transformers_says(engine: VllmEngine) -> None:
    calls = [(messages, Sampling(max_tokens=120)) for messages in windows(8)]
    calls.append((calls[0][0], Sampling(max_tokens=7)))
    reference = TransformersEngine(TINY, device="cpu")
    for expected, said in zip(ask(reference, calls), ask(engine, calls), strict=True):
        assert said.text == expected.text
        assert (said.prompt_tokens, said.completion_tokens) == (expected.prompt_tokens, expected.completion_tokens)
        assert said.finish == expected.finish
        assert said.seconds > 0
    assert said.finish == "length"
    assert "<answer>" in ask(engine, calls[:1])[0].text
    begun = [((*asked, Message("assistant", "<think> </think> <answer>")), drawn) for asked, drawn in calls]
    for expected, said in zip(ask(reference, begun), ask(engine, begun), strict=True):
        assert said.text == expected.text
        assert said.text.startswith("<think> </think> <answer>")
        assert (said.prompt_tokens, said.completion_tokens) == (expected.prompt_tokens, expected.completion_tokens)
    ours, theirs = dict(engine.identity), dict(reference.identity)
    assert (ours.pop("engine"), ours.pop("context"), theirs.pop("engine")) == ("vllm", 1024, "transformers")
    assert ours == theirs


def test_seed_and_sample_index_name_the_draw(engine: VllmEngine) -> None:
    prompts = windows(30)  # all at once they are more tokens than one step of vLLM's reads
    draws = [Sampling(**HOT), Sampling(**HOT, sample=1), Sampling(**HOT, seed=1)]
    together = [[answer.text for answer in ask(engine, [(m, draw) for m in prompts])] for draw in draws]
    assert sum(len(engine.chat.encode(messages)) for messages in prompts) > 2048
    assert together[0] != together[1] != together[2] != together[0]
    alone = [ask(engine, [(messages, draws[1])])[0].text for messages in prompts[:6]]
    assert alone == together[1][:6], "the company changes a sample"


def test_the_prefix_cache_changes_no_greedy_answer(engine: VllmEngine) -> None:
    """Windows of one query that begin alike, blocks of them long: asked twice, and by the engine without a cache."""
    (whole,) = windows(1, size=30)
    lines = whole[0].content.splitlines()
    alike = [(Message("user", "\n".join([*lines[:last], lines[-1]])),) for last in range(24, 31)]
    calls = [(messages, Sampling(max_tokens=100)) for messages in alike]
    assert len({tuple(engine.chat.encode(messages)[:256]) for messages in alike}) == 1, "two blocks of 128"
    first, again = ask(engine, calls), ask(engine, calls)
    reference = TransformersEngine(TINY, device="cpu")
    assert [c.text for c in again] == [c.text for c in first] == [c.text for c in ask(reference, calls)]


def test_the_cache_and_the_calls_at_once_are_what_was_chosen(engine: VllmEngine) -> None:
    config = engine._llm.vllm_config
    assert config.cache_config.enable_prefix_caching
    assert config.scheduler_config.max_num_seqs == MOST_SEQUENCES
    # What was foreseen (half a GiB at 3,072 bytes a token) is what vLLM has, to a block.
    foreseen = (1 << 29) // bytes_per_token(Architecture.from_folder(TINY), Split(), "float32")
    real = config.cache_config.num_gpu_blocks * config.cache_config.block_size
    assert foreseen - config.cache_config.block_size < real <= foreseen


def test_neither_loop_waits_for_a_long_text_and_the_tokenizer_has_one_user(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer that takes its time: no loop has it but the engine's own, and that for short texts alone."""
    threads: dict[str, set[str]] = {"long": set(), "short": set(), "answer": set()}
    users, most = 0, 0
    prompt, text = engine.chat.prompt, engine.chat.text

    def slowly(kind: str, work: Any, *given: Any) -> Any:
        nonlocal users, most
        threads[kind].add(threading.current_thread().name)
        users += 1
        most = max(most, users)
        time.sleep(0.05)
        users -= 1
        return work(*given)

    chat = SimpleNamespace(
        prompt=lambda messages, sampling: slowly("long" if messages == LONG else "short", prompt, messages, sampling),
        text=lambda tokens, messages: slowly("answer", text, tokens, messages),
        room=engine.chat.room,
        ends=engine.chat.ends,
        sizes=engine.chat.sizes,
        context=engine.chat.context,
    )
    monkeypatch.setattr(engine, "chat", chat)
    asked = [
        pair for messages in windows(4) for pair in ((LONG, Sampling(max_tokens=4)), (messages, Sampling(max_tokens=4)))
    ]
    ask(engine, asked)
    assert most == 1
    assert len(threads["long"]) == 1, "one thread beside the loops has the tokenizer"
    (aside,) = threads["long"]
    assert aside not in ("rearank-vllm", threading.main_thread().name)
    assert threads["short"] | threads["answer"] <= {aside, "rearank-vllm"}
    monkeypatch.setattr("rearank.engines.vllm.engine._SHORT_ANSWER", -1)
    threads["answer"].clear()
    ask(engine, asked[:1])
    assert threads["answer"] == {aside}, "a long answer"


def test_a_prompt_too_long_is_cut_and_counted(engine: VllmEngine) -> None:
    sampling, before = Sampling(max_tokens=40), engine.truncated
    cut, whole = ask(engine, [(LONG, sampling), (windows(1)[0], sampling)])
    assert cut.prompt_truncated
    assert 900 < cut.prompt_tokens <= engine.context - 40
    assert not whole.prompt_truncated
    assert engine.truncated == before + 1


def test_a_call_that_vllm_refuses_fails_alone(engine: VllmEngine) -> None:
    async def both() -> list[Any]:
        messages = windows(1)[0]
        calls = [engine.complete(messages, Sampling(max_tokens=4, temperature=t)) for t in (9.0, 0.0)]
        return await asyncio.gather(*calls, return_exceptions=True)

    refused, answered = asyncio.run(both())
    assert isinstance(refused, EngineError)
    assert "temperature must be in" in str(refused)
    assert isinstance(answered, Completion)


def test_a_cancelled_call_leaves_the_engine_working(engine: VllmEngine) -> None:
    async def cancel() -> None:
        call = asyncio.create_task(engine.complete(windows(1)[0], Sampling(**{**HOT, "max_tokens": 800, "sample": 7})))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(cancel())
    assert ask(engine, [(windows(1)[0], Sampling(max_tokens=4))])[0].completion_tokens == 4


def test_requests_that_a_dead_engine_leaves_hanging_fail_together(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(*_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(engine, "_generate", hangs)
    monkeypatch.setattr(engine, "_llm", SimpleNamespace(errored=True))
    monkeypatch.setattr(engine, "_death", " (as a test says)")

    async def several() -> list[Any]:
        calls = [asyncio.create_task(engine.complete(messages, Sampling(max_tokens=4))) for messages in windows(4)]
        await asyncio.sleep(0.01)
        calls[0].cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    cancelled, *failed = asyncio.run(several())
    assert isinstance(cancelled, asyncio.CancelledError), "its caller gave it up, and is told so"
    assert ["died (as a test says)" in str(error) for error in failed] == [True] * 3
    assert {type(error) for error in failed} == {EngineError}


def test_closed_and_gone(engine: VllmEngine, before: set[int]) -> None:
    assert processes() > before
    asyncio.run(engine.aclose())
    assert processes() == before
    assert multiprocessing.active_children() == []
    with pytest.raises(EngineError, match="closed"):
        ask(engine, [(windows(1)[0], Sampling())])


def test_a_second_engine_works_and_its_death_is_told_at_once(before: set[int]) -> None:
    other = VllmEngine(TINY, kv_cache_gib=0.5, max_model_len=512, max_concurrent=64, prefix_caching=False)
    assert other.context == other.identity["context"] == 512
    assert "<answer>" in ask(other, [(windows(1)[0], Sampling(max_tokens=120))])[0].text
    config = other._llm.vllm_config
    assert (config.scheduler_config.max_num_seqs, config.cache_config.enable_prefix_caching) == (64, False)

    async def die() -> tuple[list[Any], float]:
        draw = {**HOT, "temperature": 2.0, "max_tokens": 400}
        calls = [asyncio.create_task(other.complete(windows(1)[0], Sampling(**draw, sample=i))) for i in range(40)]
        await asyncio.sleep(0.2)
        (core,) = multiprocessing.active_children()
        assert core.pid is not None
        os.kill(core.pid, signal.SIGKILL)
        began = time.perf_counter()
        return await asyncio.gather(*calls, return_exceptions=True), time.perf_counter() - began

    answers, seconds = asyncio.run(die())
    failed = [answer for answer in answers if not isinstance(answer, Completion)]
    assert failed
    assert seconds < 5
    assert all(isinstance(answer, EngineError) and "exit code -9" in str(answer) for answer in failed)
    assert all(type(answer.__cause__).__name__ == "EngineDeadError" for answer in failed)
    with pytest.raises(EngineError, match="engine process died"):
        ask(other, [(windows(1)[0], Sampling(max_tokens=3))])
    asyncio.run(other.aclose())
    assert processes() == before


@pytest.mark.full
@pytest.mark.parametrize("split", ["tensor_parallel", "data_parallel"])
def test_a_model_in_two_parts_says_the_same(before: set[int], split: str) -> None:
    """On a CPU each part has cores of its own; what is split over GPUs is started by the same arguments."""
    node = VllmNode(kv_cache_gib=0.25, **{split: 2})  # type: ignore[arg-type]
    if node.preflight():
        pytest.skip("two parts need two cores")
    calls = [(messages, Sampling(max_tokens=60)) for messages in windows(6)]
    expected = [c.text for c in ask(TransformersEngine(TINY, device="cpu"), calls)]
    parted = node.create(TINY)
    try:
        assert [c.text for c in ask(parted, calls)] == expected
    finally:
        asyncio.run(parted.aclose())
    assert processes() == before


def test_what_needs_no_start(before: set[int]) -> None:
    refusing = VllmEngine(TINY, overflow="refuse")
    with pytest.raises(EngineError, match=r"context of 1024.*engine\.overflow=truncate"):
        ask(refusing, [(LONG, Sampling(max_tokens=16))])
    asyncio.run(refusing.aclose())
    asyncio.run(VllmEngine(TINY).aclose())
    with pytest.raises(EngineError, match=r"engine\.max_model_len=2048"):
        VllmEngine(TINY, max_model_len=2048)
    with pytest.raises(EngineError, match=r"engine\.dtype"):
        VllmEngine(TINY, dtype="float33")
    with pytest.raises(EngineError, match=r"no model at .*nowhere"):
        VllmEngine("/nowhere")
    with pytest.raises(EngineError, match=r"tensor_parallel=3 does not divide .*choose one of 1, 2, 4"):
        VllmEngine(TINY, tensor_parallel=3)
    with pytest.raises(EngineError, match=r"set model\.thinking=null"):
        VllmEngine(TINY, thinking=True)
    assert processes() == before
