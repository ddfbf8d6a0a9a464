"""Prompts with all their answers in one row give what each answer gives alone: figures and gradients."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from rearank.training.shared_prompt.packed import _TokenFigures, kinds_of_layers, pack  # noqa: E402

VOCABULARY = 48
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = 4
MODELS: dict[str, Callable[[], Any]] = {
    "qwen3": lambda: transformers.Qwen3Config(**SIZES),
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "a window in every layer": lambda: transformers.MistralConfig(**SIZES, sliding_window=WINDOW),
    "windows in some layers": lambda: transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "windows and other positions": lambda: transformers.Gemma3TextConfig(
        **SIZES, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
}


def model_of(config: Any, *, eager: bool = False, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager" if eager else "sdpa")
    for parameter in model.parameters():  # far from uniform, so that a wrong mask shows
        parameter.data.normal_(0, 0.2) if parameter.dim() > 1 else parameter.data.add_(torch.randn(parameter.shape) / 9)
    return model.float()


def sampled(prompts: list[int], answers: list[list[int]], seed: int = 1) -> tuple[list[Any], list[Any], list[int]]:
    """Tokens of prompts of these lengths, of their answers, and the answers' prompts; answers in no order."""
    draw = torch.Generator().manual_seed(seed)
    tokens = [torch.randint(3, VOCABULARY, (length,), generator=draw) for length in prompts]
    all_answers = [
        (torch.randint(3, VOCABULARY, (length,), generator=draw), number)
        for number, lengths in enumerate(answers)
        for length in lengths
    ]
    mixed = [all_answers[index] for index in torch.randperm(len(all_answers), generator=draw)]
    return tokens, [answer for answer, _ in mixed], [number for _, number in mixed]


def alone(model: Any, prompt: Any, answer: Any, temperature: float) -> tuple[Any, Any]:
    """Log-probabilities and entropies of one answer, computed as text is: without anything beside it."""
    logits = model(input_ids=torch.cat([prompt, answer])[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
    log_probs = (logits.float() / temperature).log_softmax(-1)
    return log_probs.gather(1, answer[:, None])[:, 0], -(log_probs.exp() * log_probs).sum(-1)


def gradients(model: Any) -> Any:
    found = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None]).float()
    model.zero_grad()
    return found


def compare(
    model: Any,
    given: tuple[list[Any], list[Any], list[int]],
    *,
    temperature: float = 0.7,
    one_row: bool = False,
    figure: float = 1e-5,
) -> tuple[float, float]:
    """How far the two paths are apart: (loss, gradients), relative. ``figure``: how far a token's figures may be."""
    prompts, answers, group = given
    packed = pack(prompts, answers, group, one_row=one_row)
    logits = model(**packed.inputs(model.config), use_cache=False).logits
    assert logits.shape[:2] == (len(packed.ids), len(packed.kept))
    log_probs, entropies = packed.figures(logits, temperature)
    weights = torch.randn(2, *packed.mask.shape, generator=torch.Generator().manual_seed(5))
    loss = (weights[0] * log_probs + weights[1] * entropies).sum()
    loss.backward()
    ours = gradients(model)
    total = 0.0
    for index, (answer, number) in enumerate(zip(answers, group, strict=True)):
        figures = alone(model, prompts[number], answer, temperature)
        for made, plain in zip((log_probs, entropies), figures, strict=True):
            torch.testing.assert_close(made[index, : len(answer)], plain, rtol=figure, atol=figure, check_dtype=False)
            assert not made[index, len(answer) :].any()
        part = sum((weight[index, : len(answer)] * one).sum() for weight, one in zip(weights, figures, strict=True))
        part.backward()
        total += float(part.detach())
    plain = gradients(model)
    scale = float(weights.abs().sum())  # a sum of terms of both signs may be near 0
    return abs(float(loss.detach()) - total) / scale, float((ours - plain).norm() / plain.norm())


MIXED = ([9, 3, 1, 6], [[5, 1, 7, 2], [4], [3, 3], [1, 8]])
"""Prompts longer and shorter than a window, one of a single token; groups of four, one and two."""


@pytest.mark.parametrize("one_row", [False, True], ids=["row a prompt", "one row"])
@pytest.mark.parametrize("name", MODELS)
def test_figures_and_gradients_are_those_of_each_answer_alone(name: str, one_row: bool) -> None:
    loss, gradient = compare(model_of(MODELS[name]()), sampled(*MIXED), one_row=one_row)
    assert loss < 1e-6
    assert gradient < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_a_group_of_32(name: str) -> None:
    loss, gradient = compare(model_of(MODELS[name]()), sampled([17], [[1 + index % 6 for index in range(32)]]))
    assert loss < 1e-6
    assert gradient < 1e-5


@pytest.mark.parametrize("name", ["qwen3", "windows in some layers"])
def test_eager_attention_adds_the_mask(name: str) -> None:
    assert max(compare(model_of(MODELS[name](), eager=True), sampled(*MIXED))) < 1e-5


@pytest.mark.parametrize("name", ["qwen3", "windows in some layers"])
def test_gradient_checkpointing(name: str) -> None:
    model = model_of(MODELS[name]())
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    assert max(compare(model, sampled(*MIXED))) < 1e-5


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters(checkpointing: bool) -> None:
    peft = pytest.importorskip("peft")
    model = model_of(MODELS["qwen3"]())
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.0)).train()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # 0 at first: half of the gradients would be, too
            parameter.data.normal_(0, 0.1)
    assert max(compare(adapted, sampled(*MIXED))) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_rounds_both_paths(name: str) -> None:
    """Each by itself: .009 to .017 apart in the gradients where looked at, .06 in a log-probability."""
    model = model_of(MODELS[name]()).bfloat16()
    loss, gradient = compare(model, sampled(*MIXED), figure=0.15)
    assert loss < 0.01
    assert gradient < 0.04


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_shape(data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=1, max_size=4))
    prompts = [data.draw(st.integers(1, 11)) for _ in groups]
    one_row = data.draw(st.booleans())
    given = sampled(prompts, groups, seed=data.draw(st.integers(0, 99)))
    temperature = data.draw(st.sampled_from([0.5, 1.0, 1.3]))
    model = model_of(MODELS["windows in some layers"]())
    assert max(compare(model, given, one_row=one_row, temperature=temperature)) < 1e-5


def test_the_prompt_is_there_once() -> None:
    packed = pack(*sampled([10], [[4] * 8]))
    assert packed.ids.shape == (1, 9 + 8 * 4), "each answer has the prompt's last token in its own last one's place"
    assert len(packed.kept) == 8 * 4, "and logits are made of these alone"
    padded = pack(*sampled([10, 2], [[4] * 8, [3] * 8]))
    assert padded.ids.shape == (2, 9 + 8 * 4)
    assert len(padded.kept) == 8 * 4, "prompts end in the same column"


def test_blocks_are_the_same_mask() -> None:
    from torch.nn.attention.flex_attention import create_mask

    config = MODELS["windows in some layers"]()
    config._attn_implementation = "sdpa"
    packed = pack(*sampled(*MIXED))
    rows, length = packed.ids.shape
    dense, blocks = (packed.inputs(config, form)["attention_mask"] for form in ("dense", "flex"))
    assert dense.keys() == blocks.keys() == {"full_attention", "sliding_attention"}
    for kind, mask in dense.items():
        assert torch.equal(create_mask(blocks[kind].mask_mod, rows, None, length, length, device="cpu"), mask)


def compare_flex_with_dense() -> None:
    """Without gradients, which flex_attention has on GPUs alone."""
    model, packed = model_of(MODELS["windows in some layers"]()).eval(), pack(*sampled(*MIXED), one_row=True)
    with torch.no_grad():
        dense = packed.figures(model(**packed.inputs(model.config), use_cache=False).logits)
        model.set_attn_implementation("flex_attention")
        blocks = packed.figures(model(**packed.inputs(model.config, "flex"), use_cache=False).logits)
    for one, other in zip(dense, blocks, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None, reason="flex_attention is compiled")
def test_flex_attention_computes_the_same() -> None:
    """In a process of its own: torch's compiler wants setuptools before anything that imports distutils."""
    code = f"from {__name__} import compare_flex_with_dense as compare; compare(); print('the same')"
    place = f"import sys; sys.path[:0] = {[str(Path(__file__).parents[3]), str(Path(__file__).parent)]!r}; "
    done = subprocess.run([sys.executable, "-c", place + code], capture_output=True, text=True)
    assert done.stdout.endswith("the same\n"), done.stderr[-2000:]


def test_figures_have_the_gradients_of_their_definition() -> None:
    logits = torch.randn(7, 5, dtype=torch.double, requires_grad=True)
    targets = torch.tensor([0, 4, 2, 2, 1, 3, 0])
    assert torch.autograd.gradcheck(lambda x: _TokenFigures.apply(x, targets, 0.6), (logits,))
    assert torch.autograd.gradcheck(lambda x: _TokenFigures.apply(x, targets, 1.0)[0], (logits,))
    assert torch.autograd.gradcheck(lambda x: _TokenFigures.apply(x, targets, 1.0)[1], (logits,))


def test_slices_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    from rearank.training.shared_prompt import packed

    logits, targets = torch.randn(11, 6, requires_grad=True), torch.arange(11) % 6

    def made() -> tuple[Any, ...]:
        figures = _TokenFigures.apply(logits, targets, 0.8)
        (grad,) = torch.autograd.grad(figures[0].sum() + figures[1].square().sum(), logits)
        return (*figures, grad)

    whole = made()
    monkeypatch.setattr(packed, "_ELEMENTS", 3 * 6)
    assert all(torch.equal(one, other) for one, other in zip(whole, made(), strict=True))


def test_a_kind_of_layer_without_a_known_mask_is_refused() -> None:
    config = MODELS["qwen3"]()
    config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    assert kinds_of_layers(config) == {"full_attention", "linear_attention"}
    with pytest.raises(ValueError, match="no mask is known for layers of linear_attention"):
        pack(*sampled(*MIXED)).inputs(config)
