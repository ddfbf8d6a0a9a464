"""vLLM's CPU build and transformers write the same greedy texts with real weights, but for near ties."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import pytest

# Not imported to find out: vLLM sets its logging up when it is imported, and that is the engine's to say.
if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: make .venv-cluster/.installed", allow_module_level=True)

from tests.real.texts import ask, prompts, windows

from rearank.engines import Engine, TransformersNode, VllmNode
from rearank.engines.model import Model
from rearank.engines.transformers import TransformersEngine
from rearank.types import Completion, Message, Sampling

NEAR = 1e-3
"""Two tokens whose logits are nearer than this may change places: both engines compute in float32, in another order."""
DRAWN = Sampling(max_tokens=48)
QUESTIONS = ("What is the capital of France?", "Name three primary colours.", "Write 12.5 + 7 and then a short poem.")


def calls() -> list[tuple[tuple[Message, ...], Sampling]]:
    """Windows in both forms, plain questions (which end by themselves), and an answer with a given beginning."""
    shown = [prompt.render(window) for prompt in prompts() for window in windows()]
    shown += [(Message("user", question),) for question in QUESTIONS]
    shown += [(*shown[0], Message("assistant", "<think> [1] explains it. </think> <answer>"))]
    return [(messages, DRAWN) for messages in shown]


@pytest.fixture(scope="module")
def reference(real: Model) -> TransformersEngine:
    made = TransformersNode(device="cpu").create(real.location)
    assert isinstance(made, TransformersEngine)
    return made


@pytest.fixture(scope="module")
def vllm(real: Model) -> Iterator[Engine]:
    made = VllmNode(device="cpu", kv_cache_gib=0.5, max_model_len=2048).create(real.location)
    yield made
    asyncio.run(made.aclose())


def margin(engine: TransformersEngine, messages: Sequence[Message], written: str) -> float:
    """How far the likeliest next token is above the second, in logits, after ``written`` of the answer."""
    import torch

    chat = engine.chat
    prompt = chat.encode(tuple(messages)) + chat.tokenizer(written, add_special_tokens=False)["input_ids"]
    model: Any = engine._model
    with torch.inference_mode():
        first, second = model(input_ids=torch.tensor([prompt])).logits[0, -1].topk(2).values.tolist()
    return float(first - second)


def forked(engine: TransformersEngine, one: Completion, other: Completion, messages: Sequence[Message]) -> float:
    """The margin where two different answers part."""
    ours, theirs = (engine.chat.tokenizer.tokenize(said.text) for said in (one, other))
    same = next(
        (place for place, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    return margin(engine, messages, engine.chat.tokenizer.convert_tokens_to_string(ours[:same]))


def test_greedy_texts_are_the_same(reference: TransformersEngine, vllm: Engine) -> None:
    asked = calls()
    parted = []
    for (messages, _), expected, said in zip(asked, ask(reference, asked), ask(vllm, asked), strict=True):
        assert said.prompt_tokens == expected.prompt_tokens
        assert said.text.strip()
        if said.text != expected.text:
            parted.append(forked(reference, expected, said, messages))
            continue
        assert (said.completion_tokens, said.finish) == (expected.completion_tokens, expected.finish)
    assert all(one < NEAR for one in parted), parted
    assert len(parted) <= len(asked) // 3, parted


def test_a_question_is_answered_and_ends(vllm: Engine) -> None:
    (said,) = ask(vllm, [((Message("user", QUESTIONS[0]),), Sampling(max_tokens=60))])
    assert "Paris" in said.text
    assert said.finish == "stop"


def test_a_margin_is_a_margin(reference: TransformersEngine) -> None:
    """The bound above could fail: after a real answer's first words the choice is no near tie."""
    assert margin(reference, (Message("user", QUESTIONS[0]),), "The capital of") > 100 * NEAR
