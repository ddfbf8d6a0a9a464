"""Each prompt computed once, on real weights and real text: the gradients of the plain path."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.real.texts import prompts, windows

from rearank.engines.chat import load_chat
from rearank.engines.model import Model

EXACT = 1e-5
ANSWERS = (
    "<think> The first one names it. </think> <answer> [1] > [3] > [2] </answer>",
    "<answer> [2] > [1] > [3] </answer>",
    "I don't know which of these passages is meant, so I keep the order.",
    "<think> [3] says more than [1] does",
)


@pytest.fixture(scope="module")
def rows(real: Model) -> Any:
    """Two prompts with four answers each, as a trainer has them."""
    import torch
    from tests.training.shared_prompt.plain import Rows

    chat = load_chat(real.location, None)
    shown = [replace(window, passages=window.passages[:3]) for window in windows()[:2]]
    asked = [chat.encode(prompts()[0].render(window, chat.tokenizer)) for window in shown]
    answers = [chat.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ANSWERS]
    long, most = max(map(len, asked)), max(map(len, answers))
    ids = torch.zeros(len(asked) * len(answers), long + most, dtype=torch.long)
    mask = torch.zeros_like(ids)
    pairs = [(prompt, answer) for prompt in asked for answer in answers]
    for row, (prompt, answer) in enumerate(pairs):
        part = slice(long - len(prompt), long + len(answer))
        ids[row, part], mask[row, part] = torch.tensor([*prompt, *answer]), 1
    return Rows(ids, mask, most)


def test_gradients_are_those_of_the_plain_path(real: Model, rows: Any) -> None:
    import torch
    from tests.training.shared_prompt.plain import away, gradients, plainly, shared
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(real.location, dtype=torch.float32).train()
    weights = torch.linspace(-1, 1, len(rows.ids))[:, None]

    def learnt(parts: Any) -> tuple[Any, Any]:
        model.zero_grad()
        logps = []
        for start, part, entropies in parts:
            (part * weights[start : start + len(part)] + 0.01 * entropies).sum().backward()
            logps.append(part.detach())
        return torch.cat(logps), gradients(model)

    plain, expected = learnt([(0, *plainly(model, rows))])
    assert float(plain.min()) < -3, "nothing to compare"
    for size in (len(rows.ids), 2):
        ours, got = learnt(shared(model, rows, size))
        assert away(ours, plain) < EXACT
        assert away(got, expected) < EXACT
