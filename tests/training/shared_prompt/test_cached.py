"""Prompts computed once give what rows by themselves give: log-probabilities, entropies, gradients, updates."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.training.shared_prompt.plain import (  # noqa: E402
    CONFIGS,
    Rows,
    away,
    decoder,
    gradients,
    grpo,
    plainly,
    rows,
    shared,
)

from rearank.training.shared_prompt.batch import GroupedBatch  # noqa: E402
from rearank.training.shared_prompt.cached import CachedPrompts  # noqa: E402

EXACT = 1e-5
UNEQUAL = rows([12, 3, 9], [4, 4, 4], [7, 1, 5, 6, 2])
BFLOAT16 = 3e-2
"""Relative distance of gradients in bfloat16, whose own rounding is 2^-8; the plain path is as far from float32."""


def learn(model: Any, given: Rows, size: int | None, old: Any, reference: Any) -> tuple[float, Any, Any]:
    """Loss, gradients and log-probabilities of one update, in parts of ``size``; ``None``: on the plain path."""
    model.zero_grad()
    count, tokens = len(given.ids), int(given.targets[1].sum())
    advantages = torch.linspace(-1.5, 1.0, count)[:, None]
    parts = [(0, *plainly(model, given))] if size is None else shared(model, given, size)
    total, found = 0.0, []
    for start, logps, entropies in parts:
        part = slice(start, start + len(logps))
        before = logps.detach() if old is None else old[part]
        after = logps.detach() if reference is None else reference[part]
        loss = grpo(logps, entropies, before, after, advantages[part], tokens)
        (loss * 8).backward()  # as a gradient scaler does
        total += float(loss.detach())
        found.append(logps.detach())
    return total, gradients(model) / 8, torch.cat(found)


@pytest.mark.parametrize("size", [12, 8, 4, 3, 1])
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_those_of_the_plain_path(name: str, size: int) -> None:
    model = decoder(name)
    plain = learn(model, UNEQUAL, None, None, None)
    ours = learn(model, UNEQUAL, size, None, None)
    assert ours[0] == pytest.approx(plain[0], rel=EXACT)
    assert away(ours[2], plain[2]) < EXACT
    assert away(ours[1], plain[1]) < EXACT


@pytest.mark.parametrize(("groups", "size"), [([1, 1, 1], 3), ([1, 1, 1], 1), ([32], 32), ([32], 8), ([32, 32], 12)])
def test_groups_of_one_and_of_many(groups: list[int], size: int) -> None:
    model, given = decoder("qwen3"), rows([11, 7, 2][: len(groups)], groups, [5, 3, 6])
    plain, ours = (learn(model, given, n, None, None) for n in (None, size))
    assert ours[0] == pytest.approx(plain[0], rel=EXACT)
    assert away(ours[1], plain[1]) < EXACT


@pytest.mark.parametrize("name", ["qwen3", "mistral"])
def test_several_updates_with_a_reference_end_at_the_same_weights(name: str) -> None:
    start, ends = decoder(name), []
    reference = decoder(name, seed=7)
    for size in (None, 3):
        model = deepcopy(start)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
        with torch.no_grad():
            both = [
                plainly(one, UNEQUAL)[0] if size is None else torch.cat([p[1] for p in shared(one, UNEQUAL, size)])
                for one in (model, reference)
            ]
        for _ in range(3):
            _, _, last = learn(model, UNEQUAL, size, *both)
            optimiser.step()
        assert away(last, both[0]) > 0.01, "the policy moves"
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    moved = torch.cat([p.detach().flatten() for p in start.parameters()])
    assert away(ends[1] - moved, ends[0] - moved) < 3 * EXACT, "more than the rounding of three updates"


@pytest.mark.parametrize("size", [12, 5])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters(size: int) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(decoder("llama"), config)
    plain, ours = (learn(model, UNEQUAL, n, None, None) for n in (None, size))
    assert ours[0] == pytest.approx(plain[0], rel=EXACT)
    assert away(ours[1], plain[1]) < EXACT


@pytest.mark.parametrize("name", ["qwen3", "llama", "mistral"])
def test_bfloat16_is_as_near_to_float32_as_the_plain_path(name: str) -> None:
    exact = learn(decoder(name), UNEQUAL, None, None, None)
    model = decoder(name).bfloat16()
    plain, ours = (learn(model, UNEQUAL, n, None, None) for n in (None, 4))
    assert away(ours[1], plain[1]) < BFLOAT16
    assert away(ours[1], exact[1]) < 1.5 * away(plain[1], exact[1])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_shape(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(CONFIGS)))
    prompts = data.draw(st.lists(st.integers(1, 14), min_size=1, max_size=4), "prompts")
    groups = data.draw(st.lists(st.integers(1, 5), min_size=len(prompts), max_size=len(prompts)), "groups")
    answers = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), "answers")
    size = data.draw(st.integers(1, sum(groups)), "size")
    model, given = decoder(name), rows(prompts, groups, answers)
    if not int(given.targets[1].sum()):
        return
    plain, ours = (learn(model, given, n, None, None) for n in (None, size))
    assert away(ours[2], plain[2]) < EXACT
    assert away(ours[1], plain[1]) < EXACT


def test_a_prompt_is_gone_through_once() -> None:
    """Tokens that reach the first layer: those of the prompts but their last ones, and as many as the answers have."""
    model, seen = decoder("qwen3"), 0

    def count(_: Any, arguments: Any) -> None:
        nonlocal seen
        seen += arguments[0].numel()

    model.model.embed_tokens.register_forward_pre_hook(count)
    for _ in shared(model, rows([20, 20], [8, 8], [6]), 4):
        pass
    assert seen == 2 * 19 + 16 * 6


def test_without_gradients_nothing_is_kept() -> None:
    model = decoder("llama")
    with torch.no_grad():
        found = torch.cat([logps for _, logps, _ in shared(model, UNEQUAL, 4)])
        assert away(found, plainly(model, UNEQUAL)[0]) < EXACT
    assert not found.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_a_part_has_as_many_columns_as_its_longest_answer() -> None:
    given = rows([9, 4], [2, 2], [8, 8, 2, 1])
    prompts = CachedPrompts(decoder("qwen3"), GroupedBatch.from_rows(given.ids, given.mask, given.answer))
    long, short = (prompts.answers(start, start + 2, last=False)[0]["input_ids"] for start in (0, 2))
    assert (long.shape, short.shape) == ((2, 8), (2, 2))
