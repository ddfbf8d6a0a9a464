"""Where ``flex_attention`` can't be used, training goes on without it: it is tried first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG = transformers.LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16)


def test_what_a_device_lacks_is_said() -> None:
    from rearank.training.shared_prompt.trial import why_not_flex

    before = torch.random.get_rng_state()
    said = why_not_flex(CONFIG, "cpu", torch.float32)  # it has no backward pass on CPUs
    assert said is not None
    assert said.startswith("flex_attention doesn't run here (")
    assert torch.equal(torch.random.get_rng_state(), before), "the training's own draws are left alone"


def test_wrong_gradients_are_seen_and_right_ones_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from rearank.training.shared_prompt import trial

    real = trial.pack

    def as_dense(wrong: bool) -> Any:
        """Masks of torch's own attention in place of blocks, right or with one that sees everything before it."""

        def packed(*args: Any, **kwargs: Any) -> Any:
            batch = real(*args, **kwargs)

            def inputs(config: Any, form: str) -> dict[str, Any]:
                given = batch.inputs(config, "dense")
                if wrong and form == "flex":
                    given["attention_mask"] = torch.ones_like(given["attention_mask"]).tril()
                return given

            return SimpleNamespace(inputs=inputs, figures=batch.figures)

        return packed

    monkeypatch.setattr(transformers.LlamaForCausalLM, "set_attn_implementation", lambda *_: None)
    monkeypatch.setattr(trial, "pack", as_dense(wrong=False))
    assert trial.why_not_flex(CONFIG, "cpu", torch.float32) is None
    monkeypatch.setattr(trial, "pack", as_dense(wrong=True))
    assert "other gradients" in str(trial.why_not_flex(CONFIG, "cpu", torch.float32))
