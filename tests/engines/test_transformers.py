"""The transformers engine over a tiny random model: what is in a batch changes no answer."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.engines.models import WORDS, save_tiny_model

from rearank.engines import EngineError, TransformersNode
from rearank.engines.checkpoint import fingerprint
from rearank.engines.transformers import TransformersEngine
from rearank.types import Completion, Message, Sampling


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


def prompt(length: int, start: int = 0) -> tuple[Message, ...]:
    return (Message("user", " ".join(WORDS[(start + 7 * i) % len(WORDS)] for i in range(length))),)


def ask(engine: TransformersEngine, calls: list[tuple[tuple[Message, ...], Sampling]]) -> list[Completion]:
    async def all_at_once() -> list[Completion]:
        return await asyncio.gather(*(engine.complete(*call) for call in calls))

    return asyncio.run(all_at_once())


def test_greedy_is_what_the_model_says_by_itself(folder: Path) -> None:
    import torch

    engine = TransformersEngine(folder)
    calls = [(prompt(n, n), Sampling(max_tokens=24)) for n in (3, 40, 9, 25)]
    for (messages, _), completion in zip(calls, ask(engine, calls), strict=True):
        text = f"<|start|> user {messages[0].content} <|end|> <|start|> assistant "
        ids = engine.chat.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        tokens: list[int] = []
        with torch.inference_mode():
            while len(tokens) < 24:  # no cache, no padding, no batch
                token = int(engine._model(torch.cat([ids, torch.tensor([tokens]).long()], 1)).logits[0, -1].argmax())
                if token == engine.chat.tokenizer.eos_token_id:
                    break
                tokens.append(token)
        assert completion.text == engine.chat.tokenizer.decode(tokens, skip_special_tokens=True)
        assert completion.prompt_tokens == ids.shape[1]
        assert completion.finish == ("length" if len(tokens) == 24 else "stop")
        assert completion.completion_tokens == len(tokens) + (completion.finish == "stop")
    assert engine.batches == 1


def test_a_sample_is_the_same_in_any_company(folder: Path) -> None:
    calls = [
        (prompt(5 + 11 * (i % 4), i % 5), Sampling(max_tokens=30, temperature=1.0, top_p=p, seed=3, sample=i))
        for i in range(24)
        for p in (1.0, 0.8)
    ]
    engine = TransformersEngine(folder, max_batch=32)
    together = ask(engine, calls)
    assert engine.batches == 2
    assert {c.finish for c in together} == {"stop", "length"}
    alone = TransformersEngine(folder, max_batch=1)
    backwards = ask(alone, calls[::-1])[::-1]
    assert alone.batches == len(calls)
    by_tokens = TransformersEngine(folder, max_batch_tokens=200)
    mixed = ask(by_tokens, calls[1::2])
    assert by_tokens.batches > 2
    assert [c.text for c in together] == [c.text for c in backwards]
    assert [c.text for c in together[1::2]] == [c.text for c in mixed]


def test_a_small_model_answers_a_batch_a_core(folder: Path) -> None:
    import torch

    calls = [(prompt(5 + i % 9, i), Sampling(max_tokens=8, temperature=1.0, sample=i)) for i in range(80)]
    expected = [c.text for c in ask(TransformersEngine(folder), calls)]
    torch.set_num_threads(2)
    try:
        engine = TransformersEngine(folder, device="cpu")
        assert torch.get_num_threads() == 2, "the caller's own is left alone"
        met, first = threading.Barrier(2), threading.local()
        threads: list[int] = []

        def together(*_: Any) -> None:
            if not hasattr(first, "seen"):
                first.seen = True
                threads.append(torch.get_num_threads())
                met.wait(timeout=60)  # broken where the second batch waits for the first

        engine._model.register_forward_hook(together)
        assert [c.text for c in ask(engine, calls)] == expected
        assert engine.batches == 2
        assert threads == [1, 1]
        asyncio.run(engine.aclose())
    finally:
        torch.set_num_threads(1)


def test_seed_and_sample_index_name_the_draw(folder: Path) -> None:
    hot = {"max_tokens": 20, "temperature": 1.0}
    engine = TransformersEngine(folder)
    samplings = [Sampling(**hot), Sampling(**hot, sample=1), Sampling(**hot, seed=1), Sampling(**hot)]  # type: ignore[arg-type]
    texts = [c.text for c in ask(engine, [(prompt(8), s) for s in samplings])]
    assert texts[0] == texts[3]
    assert len(set(texts)) == 3


def test_samples_follow_the_models_distribution(folder: Path) -> None:
    import torch

    engine = TransformersEngine(folder, max_batch=256)
    n = 1024
    drawn = ask(engine, [(prompt(4), Sampling(max_tokens=1, temperature=0.7, sample=i)) for i in range(n)])
    ids = torch.tensor([engine.chat.encode(prompt(4))])
    with torch.inference_mode():
        share = torch.softmax(engine._model(ids).logits[0, -1] / 0.7, -1)
    best = int(share.argmax())
    word = engine.chat.tokenizer.decode([best], skip_special_tokens=True)
    seen = sum(c.text == word for c in drawn) / n
    expected = float(share[best])
    assert abs(seen - expected) < 4 * (expected * (1 - expected) / n) ** 0.5
    # The narrowest nucleus is the best token alone.
    (narrow,) = ask(engine, [(prompt(4), Sampling(max_tokens=1, temperature=0.7, top_p=1e-9))])
    assert narrow.text == word


def test_a_short_answer_does_not_wait_for_a_long_one(folder: Path) -> None:
    engine = TransformersEngine(folder)

    async def race() -> tuple[str, ...]:
        order: list[str] = []

        async def call(name: str, tokens: int) -> None:
            await engine.complete(prompt(6), Sampling(max_tokens=tokens, temperature=5.0, sample=2))
            order.append(name)

        await asyncio.gather(call("long", 120), call("short", 1))
        return tuple(order)

    assert asyncio.run(race()) == ("short", "long")
    assert engine.batches == 1


@pytest.mark.parametrize("turns", range(6))
def test_a_call_that_comes_as_the_last_one_ends_is_answered(folder: Path, turns: int) -> None:
    """However many turns of the loop lie between: the one that hands out batches may be about to end."""
    engine = TransformersEngine(folder, gather_seconds=0)

    async def main() -> list[Completion]:
        found = []
        for number in range(20):
            found.append(await engine.complete(prompt(4, number), Sampling(max_tokens=1)))
            for _ in range(turns):
                await asyncio.sleep(0)
        return found

    assert len(asyncio.run(asyncio.wait_for(main(), timeout=60))) == 20, "a call without an answer is a time-out"


def test_the_event_loop_runs_on_while_the_model_works(folder: Path) -> None:
    engine = TransformersEngine(folder)

    async def main() -> float:
        call = asyncio.create_task(engine.complete(prompt(6), Sampling(max_tokens=200, temperature=5.0)))
        longest = 0.0
        while not call.done():
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)
        await engine.aclose()
        return longest - call.result().seconds

    assert asyncio.run(main()) < 0, "the loop stood still for the whole call"


def test_an_abandoned_call_stops_early(folder: Path) -> None:
    engine = TransformersEngine(folder)
    steps: list[int] = []
    engine._model.register_forward_hook(lambda *_: steps.append(1))

    async def main() -> None:
        call = asyncio.create_task(engine.complete(prompt(6), Sampling(max_tokens=240, temperature=9.0)))
        while not steps:
            await asyncio.sleep(0.001)
        call.cancel()
        await engine.aclose()

    asyncio.run(main())
    assert 0 < len(steps) < 200


def test_a_prompt_too_long_is_cut_and_counted_or_refused(folder: Path) -> None:
    long = (Message("system", "w1 w2 w3"), Message("user", " ".join(["w9"] * 600) + " w4 w5"), prompt(4)[0])
    sampling = Sampling(max_tokens=16)
    engine = TransformersEngine(folder)
    cut, whole = ask(engine, [(long, sampling), (prompt(200), sampling)])
    assert cut.prompt_truncated
    assert 200 < cut.prompt_tokens <= 256 - 16
    assert not whole.prompt_truncated
    assert engine.truncated == 1
    kept = engine.chat.tokenizer.decode(engine.chat.prompt(long, sampling)[0])
    assert "system w1 w2 w3" in kept
    assert "w4 w5" in kept
    refusing = TransformersEngine(folder, overflow="refuse")
    with pytest.raises(EngineError, match=r"context of 256.*engine\.overflow=truncate"):
        ask(refusing, [(long, sampling)])
    with pytest.raises(EngineError, match="frame alone"):
        ask(engine, [((Message("user", "w1"),) * 90, sampling)])


def test_models_that_cannot_chat_are_named(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(EngineError, match=r"no model at .*nowhere"):
        TransformersEngine(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EngineError, match=r"can't load .*empty"):
        TransformersEngine(tmp_path / "empty")
    with pytest.raises(EngineError, match="no chat template"):
        TransformersEngine(save_tiny_model(tmp_path / "mute", chat=None))
    with pytest.raises(EngineError, match="end token"):
        TransformersEngine(save_tiny_model(tmp_path / "endless", end=None))
    with pytest.raises(EngineError, match=r"engine\.dtype"):
        TransformersEngine(tmp_path / "mute", dtype="float33")


def test_a_template_that_refuses_fails_its_call_alone(tmp_path: Path) -> None:
    picky = "{{ raise_exception('no system role') if messages[0].role == 'system' else '<|start|> user w1 ' }}"
    engine = TransformersEngine(save_tiny_model(tmp_path, chat=picky))

    async def main() -> list[Any]:
        calls = [engine.complete((Message(role, "x"),), Sampling(max_tokens=2)) for role in ("system", "user")]  # type: ignore[arg-type]
        return await asyncio.gather(*calls, return_exceptions=True)

    refused, answered = asyncio.run(main())
    assert isinstance(refused, EngineError)
    assert "no system role" in str(refused)
    assert isinstance(answered, Completion)


def test_an_error_in_the_model_reaches_every_caller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(folder)
    monkeypatch.setattr(engine._model, "forward", lambda **_: (_ for _ in ()).throw(MemoryError("full")))
    with pytest.raises(EngineError, match="MemoryError: full"):
        ask(engine, [(prompt(3), Sampling(max_tokens=2))])


def test_identity_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other")
    assert fingerprint(str(folder)) == fingerprint(str(other))
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert fingerprint(str(folder)) != fingerprint(str(other))
    engine = TransformersNode(device="cpu").create(str(folder))
    assert engine.identity["fingerprint"] == fingerprint(str(folder))
    assert engine.identity["dtype"] == "float32"
