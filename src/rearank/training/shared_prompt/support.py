"""Which models may share prompts: decoders with softmax attention and rotary positions, without dropout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.nn import Dropout

_LAYERS = {"full_attention", "sliding_attention"}
_ATTENTION = {"eager", "sdpa", "flash_attention_2", "flash_attention_3"}
_MASKED = {"eager", "sdpa"}
_LENGTH_DEPENDENT = {"dynamic", "longrope"}


def why_plain(model: Any) -> str | None:
    """Why this model's prompts can't be shared, as the end of a sentence about it; ``None`` where they can.

    The cached form needs a cache as well, which gradient checkpointing excludes; the packed form a mask of its own.
    """
    return next(_reasons(model), None)


def why_not_packed(model: Any) -> str | None:
    """The same for ``packed.PackedBatch`` with a dense mask, which gradient checkpointing leaves as the only form."""
    kind = unwrapped(model).config._attn_implementation
    if (reason := why_plain(model)) is None and kind not in _MASKED:
        return f"its attention ({kind}) takes no mask of its own under gradient checkpointing"
    return reason


def unwrapped(model: Any) -> Any:
    """The causal language model that peft's adapters lie in."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _reasons(model: Any) -> Iterator[str]:
    base = unwrapped(model)
    config = base.config
    if config.is_encoder_decoder or config.get_text_config() is not config:
        yield "it isn't a decoder of text alone"
        return
    if base._is_stateful or not set(getattr(config, "layer_types", None) or ()) <= _LAYERS:
        yield "it has other layers than softmax attention over all tokens or a sliding window"
    if getattr(config, "num_kv_shared_layers", 0):
        yield "some of its layers take their keys from other layers"
    kinds = set(_rope_kinds(getattr(config, "rope_parameters", None)))
    if not kinds:
        yield "it has no rotary positions"
    elif kinds & _LENGTH_DEPENDENT:
        yield "its rotary positions depend on the length of a text"
    if config._attn_implementation not in _ATTENTION:
        yield f"its attention is computed by {config._attn_implementation}"
    if getattr(config, "output_router_logits", False):
        yield "the loss that balances its experts counts each answer's prompt"
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        yield "its adapter puts tokens of its own before the prompt"
    if any(_drops(module) for module in model.modules()):
        yield "dropout is above 0, and would differ from answer to answer"


def _rope_kinds(parameters: Any) -> Iterator[str]:
    """Kinds of rotary positions: of all layers, or of each kind of layer."""
    for name, value in (parameters or {}).items():
        if isinstance(value, dict):
            yield from _rope_kinds(value)
        elif name == "rope_type":
            yield value


def _drops(module: Any) -> bool:
    rate = module.p if isinstance(module, Dropout) else getattr(module, "attention_dropout", 0.0)
    return isinstance(rate, float) and rate > 0
