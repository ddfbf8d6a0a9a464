"""The decode loop: its logits are what the model says of each row by itself, whatever has joined, ended or moved."""

from __future__ import annotations

from typing import Any

import pytest

from rearank.types import Sampling

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.4,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
MODELS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=8),
    "sliding": lambda: transformers.MistralConfig(**SIZES, sliding_window=6),
    "mixed": lambda: transformers.Gemma3TextConfig(
        **SIZES, head_dim=8, sliding_window=6, layer_types=["sliding_attention", "full_attention"]
    ),
    "recurrent": lambda: transformers.Qwen3NextConfig(
        **SIZES, head_dim=8, layer_types=["linear_attention", "full_attention"], num_experts=2, num_experts_per_tok=1,
        moe_intermediate_size=8, shared_expert_intermediate_size=8, linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=8, linear_value_head_dim=8,
    ),
}  # fmt: skip


def made(name: str) -> Any:
    torch.manual_seed(3)
    return transformers.AutoModelForCausalLM.from_config(MODELS[name]()).eval()


@pytest.mark.parametrize("name", MODELS)
def test_every_row_reads_what_the_model_says_of_it_alone(name: str) -> None:
    from rearank.engines.decoding.loop import Decoding

    model = made(name)
    draw = torch.Generator().manual_seed(7)
    groups = [torch.randint(2, 40, (n,), generator=draw).tolist() for n in (9, 4, 12)]
    rows = [[*groups[i]] for i in (0, 1, 0, 2, 1, 0, 2, 0)]
    with torch.inference_mode():
        decoding = Decoding(model, rows, 0)
        for step in range(70):  # beyond the room that a layer has at first
            for row, logits in zip(rows, decoding.logits, strict=True):
                alone = model(torch.tensor([row])).logits[0, -1]
                torch.testing.assert_close(logits, alone, rtol=1e-3, atol=1e-3)
            # One ends and is computed on, then more, and the cache is compacted.
            ending = {2: {1}, 5: {0, 3}, 9: {0}, 30: {2}}.get(step, set())
            going = [i for i in range(len(rows)) if i not in ending]
            rows = [rows[i] for i in going]
            tokens = torch.randint(2, 40, (len(rows),), generator=draw).tolist()
            decoding.step(tokens, going if ending else None)
            for row, token in zip(rows, tokens, strict=True):
                row.append(token)


def test_equal_prompts_are_computed_once() -> None:
    from rearank.engines.decoding.loop import Decoding

    model, shapes = made("llama"), []
    model.model.layers[0].register_forward_hook(lambda _, args, output: shapes.append(tuple(args[0].shape[:2])))
    with torch.inference_mode():
        decoding = Decoding(model, [[5, 6, 7]] * 6 + [[8, 9]], 0)
        assert shapes == [(2, 3)]
        decoding.step([3] * 7)
        assert shapes[1:] == [(7, 1)]


def test_rows_that_ended_are_left_out_where_they_are_many() -> None:
    from rearank.engines.decoding.loop import Decoding

    model, rows = made("llama"), []
    model.model.layers[0].register_forward_hook(lambda _, args, output: rows.append(args[0].shape[0]))
    with torch.inference_mode():
        decoding = Decoding(model, [[5, 6, i] for i in range(8)], 0)
        decoding.step([3] * 7, list(range(7)))
        decoding.step([3] * 5, [0, 1, 2, 3, 6])
    assert rows == [8, 8, 5], "the first to end is computed on: leaving it out would copy the cache"


@pytest.mark.parametrize("words", [5, 128, 300, 1024])
def test_a_number_draws_the_word_that_it_falls_on(words: int) -> None:
    from rearank.engines.decoding.draws import drawn

    stream = torch.Generator().manual_seed(words)
    logits = 3 * torch.randn(40, words, generator=stream)
    points = torch.rand(40, generator=stream, dtype=torch.float64)
    points[0], points[1] = 0.0, 1 - 2**-53
    for temperature, top_p in ((1.0, 1.0), (0.6, 1.0), (1.3, 0.7)):
        settings = Sampling(temperature=temperature, top_p=top_p)
        share = torch.softmax(logits.double() / temperature, -1)
        if top_p < 1:
            ordered, index = share.sort(dim=-1, descending=True)
            least = (ordered.cumsum(-1) - ordered < top_p).scatter(-1, index, ordered.cumsum(-1) - ordered < top_p)
            share = share * least
        edges = (share / share.sum(-1, keepdim=True)).cumsum(-1)
        found = drawn(logits, [settings] * 40, points.tolist())
        for row, (word, point) in enumerate(zip(found, points.tolist(), strict=True)):
            assert share[row, word] > 0
            low = edges[row, word - 1] if word else 0.0
            assert low - 1e-6 <= point <= edges[row, word] + 1e-6
    mixed = [Sampling(temperature=float(i % 2)) for i in range(40)]
    found = drawn(logits, mixed, points.tolist())
    assert found[::2] == logits[::2].argmax(-1).tolist()
    assert found[1::2] == drawn(logits[1::2], mixed[1::2], points[1::2].tolist())
