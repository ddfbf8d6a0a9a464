"""Whether ``flex_attention`` computes on this device what torch's own attention does: tried, with gradients.

It is compiled for each kind of GPU, width of heads and version of torch, and a kernel that is missing or wrong would
end a training, or spoil it in silence.
"""

from __future__ import annotations

from typing import Any

import torch

from rearank.training.shared_prompt.packed import Form, pack

_NEAR = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""How far log-probabilities' gradients may lie apart, as a share of their length; TF32 is float32's bound."""


def why_not_flex(config: Any, device: Any, dtype: Any) -> str | None:
    """Why masks in blocks can't be used for a model, as the end of a sentence about it; ``None`` where they can.

    Args:
        config: the model's, for its heads.
        device: where it is trained.
        dtype: that it computes in.
    """
    try:
        apart = _apart(config, device, dtype)
    except Exception as error:  # compilers raise anything
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"flex_attention doesn't run here ({line[:200]})"
    if apart <= _NEAR.get(dtype, _NEAR[torch.bfloat16]):
        return None
    return f"flex_attention computes other gradients here than torch's own attention ({apart:.1e} apart)"


def _apart(config: Any, device: Any, dtype: Any) -> float:
    from transformers import LlamaConfig, LlamaForCausalLM

    text = config.get_text_config()
    heads, kv = text.num_attention_heads, getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    small = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=heads // kv, num_key_value_heads=1, head_dim=width,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(0)
        model = LlamaForCausalLM(small).to(device, dtype)
        ids = torch.randint(64, (2, 150), device=device)
    packed = pack([ids[0], ids[1, :40]], [ids[0, :9], ids[1, :70], ids[1, 70:90]], [0, 0, 1], one_row=True)

    def gradient(form: Form) -> Any:
        model.set_attn_implementation("flex_attention" if form == "flex" else "sdpa")
        model.zero_grad()
        figures = packed.figures(model(**packed.inputs(model.config, form), use_cache=False).logits)
        (figures[0].sum() + figures[1].sum()).backward()
        return torch.cat([weights.grad.flatten().float() for weights in model.parameters()])

    dense = gradient("dense")
    return float((gradient("flex") - dense).norm() / dense.norm())
