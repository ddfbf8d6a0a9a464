"""Answers of a model in training are those that transformers' own ``generate`` makes, draw for draw."""

from __future__ import annotations

from typing import Any

import pytest
from tests import shipped

from rearank.training.local import load_tokenizer
from rearank.types import Message

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXTS = [
    f"Query: {q}\n[1] a couch in the basement\n[2] {q} and more" for q in ("couch", "song", "mill wire", "a b c d e")
]


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(shipped.ASSETS, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(str(shipped.ASSETS), None)


def asked(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    chats = [[{"role": "user", "content": text}] for text in texts]
    rendered = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def generated(model: Any, tokenizer: Any, prompts: list[list[int]], **settings: Any) -> list[list[int]]:
    """Cut after the end token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    end = tokenizer.eos_token_id
    with torch.no_grad():
        made = model.generate(
            ids, attention_mask=mask, pad_token_id=tokenizer.pad_token_id, eos_token_id=end, **settings
        )
    rows = [row[width:].tolist() for row in made]
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


@pytest.mark.parametrize(("temperature", "top_p", "longest"), [(1.0, 1.0, 96), (1.6, 0.9, 96), (1.0, 1.0, 30)])
def test_samples_are_generates_own(model: Any, tokenizer: Any, temperature: float, top_p: float, longest: int) -> None:
    from rearank.training.trl.answers import sampled

    prompts = [prompt for prompt in asked(tokenizer, TEXTS) for _ in range(4)]
    torch.manual_seed(11)
    settings = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    theirs = generated(model, tokenizer, prompts, max_new_tokens=longest, **settings)
    after = torch.rand(4)
    torch.manual_seed(11)
    with torch.no_grad():
        ours = sampled(model, prompts, longest, frozenset({tokenizer.eos_token_id}), temperature, top_p)
    assert ours == theirs
    assert len(set(map(len, ours))) > 1 or longest == 30
    torch.testing.assert_close(torch.rand(4), after, rtol=0, atol=0, msg="the stream stands elsewhere")


def test_greedy_answers_are_generates_own(model: Any, tokenizer: Any) -> None:
    from rearank.training.trl.answers import greedy

    theirs = generated(model, tokenizer, asked(tokenizer, TEXTS), do_sample=False, max_new_tokens=40)
    seen: list[int] = []
    model.train()
    ours = greedy(model, tokenizer, [(Message("user", text),) for text in TEXTS], 40, 3, seen.append)
    assert model.training
    model.eval()
    assert ours == [(tokenizer.decode(row, skip_special_tokens=True), len(row)) for row in theirs]
    assert seen == [3, 4]
