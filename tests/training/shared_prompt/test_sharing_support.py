"""Which models share prompts, and why others don't."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.training.shared_prompt.plain import CONFIGS, SIZES, decoder  # noqa: E402

from rearank.training.shared_prompt.support import why_not_packed, why_plain  # noqa: E402

SMALL = {name: value for name, value in SIZES.items() if name != "initializer_range"}


@pytest.mark.parametrize("name", CONFIGS)
def test_decoders_with_softmax_attention_do(name: str) -> None:
    assert why_plain(decoder(name)) is None
    assert why_not_packed(decoder(name)) is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (lambda: transformers.LlamaConfig(**SMALL, attention_dropout=0.1), "dropout is above 0"),
        (lambda: transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50), "no rotary positions"),
        (lambda: transformers.MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=50), "other layers"),
        (
            lambda: transformers.Qwen3NextConfig(
                **SMALL, head_dim=8, layer_types=["linear_attention"] * 2 + ["full_attention"], num_experts=2
            ),
            "other layers",
        ),
        (
            lambda: transformers.LlamaConfig(
                **SMALL, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
            ),
            "depend on the length",
        ),
        (
            lambda: transformers.MixtralConfig(**SMALL, num_local_experts=2, output_router_logits=True),
            "balances its experts",
        ),
    ],
    ids=["dropout", "gpt2", "mamba", "linear", "dynamic", "experts"],
)
def test_others_say_why_not(config: Any, reason: str) -> None:
    found = why_plain(transformers.AutoModelForCausalLM.from_config(config()))
    assert found is not None
    assert reason in found


def test_packed_rows_need_a_mask_of_their_own() -> None:
    model = decoder("qwen3")
    model.config._attn_implementation = "flash_attention_2"
    assert why_plain(model) is None
    assert "takes no mask of its own" in str(why_not_packed(model))


@pytest.mark.parametrize(("dropout", "shares"), [(0.0, True), (0.1, False)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_share_without_dropout(dropout: float, shares: bool) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules="all-linear", lora_dropout=dropout, task_type="CAUSAL_LM")
    assert (why_plain(peft.get_peft_model(decoder("llama"), config)) is None) is shares


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_of_tokens_does_not() -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    assert "tokens of its own" in str(why_plain(peft.get_peft_model(decoder("llama"), config)))
