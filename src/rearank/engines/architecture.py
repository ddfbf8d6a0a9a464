"""The sizes of a dense decoder: what memory is planned by where the weights are still on the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from rearank.checks import check_fields

_Size = Annotated[int, Ge(1)]
_KINDS = ("qwen2", "qwen3", "llama", "mistral")


@dataclass(frozen=True)
class Architecture:
    """The sizes of a dense decoder of Qwen2's, Qwen3's or Llama's kind: enough to count its parameters exactly.

    Args:
        layers: decoder layers.
        hidden: width of the residual stream.
        intermediate: width inside the MLP (gate, up, down).
        heads: attention heads.
        kv_heads: key and value heads; fewer than ``heads`` where they share them.
        head_dim: width of a head; ``heads * head_dim`` may differ from ``hidden`` (Qwen3).
        vocabulary: rows of the embedding, those that no token uses included.
        context: longest sequence, in tokens.
        tied_embeddings: the output layer is the embedding.
        attention_bias: the projections with a bias: ``none``, ``qkv`` (Qwen2), or ``all`` (the output's too).
        mlp_bias: biases in the MLP.
        qk_norm: queries and keys are normalised by head (Qwen3).
    """

    layers: _Size
    hidden: _Size
    intermediate: _Size
    heads: _Size
    kv_heads: _Size
    head_dim: _Size
    vocabulary: _Size
    context: _Size
    tied_embeddings: bool = False
    attention_bias: Literal["none", "qkv", "all"] = "none"
    mlp_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads})")

    @property
    def query_width(self) -> int:
        """Of all heads."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Of all key heads, and of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding, and of the output layer where it has its own."""
        return self.vocabulary * self.hidden

    @property
    def layer_parameters(self) -> int:
        """Of one decoder layer."""
        attention = 2 * self.hidden * (self.query_width + self.key_width)
        if self.attention_bias != "none":
            attention += self.query_width + 2 * self.key_width
        if self.attention_bias == "all":
            attention += self.hidden
        if self.qk_norm:
            attention += 2 * self.head_dim
        mlp = 3 * self.hidden * self.intermediate
        if self.mlp_bias:
            mlp += 2 * self.intermediate + self.hidden
        return attention + mlp + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """Of the whole model; a tied embedding counts once."""
        embeddings = self.embedding_parameters * (1 if self.tied_embeddings else 2)
        return embeddings + self.layers * self.layer_parameters + self.hidden

    @property
    def value_parameters(self) -> int:
        """Of the model with a head of one number, weights and bias, in place of its output layer."""
        output = 0 if self.tied_embeddings else self.embedding_parameters
        return self.parameters - output + self.hidden + 1

    def adapter_parameters(self, rank: int) -> int:
        """Of LoRA adapters on every linear layer but the output (peft's ``all-linear``)."""
        attention = 2 * (self.hidden + self.query_width) + 2 * (self.hidden + self.key_width)
        return rank * self.layers * (attention + 3 * (self.hidden + self.intermediate))

    def saved_by_a_layer(self, *, liger: bool = False) -> int:
        """Bytes a token that torch keeps for the backward pass of one layer in bfloat16 with a fused attention kernel.

        Two norms: their input in float32, the normalised values and the output. Attention: queries, keys, values,
        output; with ``qk_norm`` also the input in float32 and the normalised values of queries and keys. MLP: gate,
        activated gate, up, and their product. Liger keeps a norm's input as it came and its output, and computes the
        activated gate again.
        """
        float32, bfloat16 = 4, 2
        widths = self.query_width + self.key_width
        norms = 2 * (2 * bfloat16 if liger else float32 + 2 * bfloat16) * self.hidden
        attention = 2 * bfloat16 * widths
        if self.qk_norm:
            attention += (bfloat16 if liger else float32 + bfloat16) * widths
        return norms + attention + (3 if liger else 4) * bfloat16 * self.intermediate

    @classmethod
    def from_folder(cls, path: str | Path) -> Architecture:
        """What the ``config.json`` of a Hugging Face checkpoint says.

        Raises:
            ValueError: naming the file, and the key that is missing or unknown.
        """
        file = Path(path) / "config.json"
        try:
            config = json.loads(file.read_text())
        except OSError as error:
            raise ValueError(f"{file}: can't be read ({error.strerror}), so the model's sizes are not known") from error
        except ValueError as error:
            raise ValueError(f"{file}: is not JSON ({error})") from error
        if not isinstance(config, dict):
            raise ValueError(f"{file}: is not a JSON object")
        return cls.from_config(config, file)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], file: str | Path) -> Architecture:
        """What a Hugging Face config says; ``file`` names it in an error. Raises ``ValueError`` as ``from_folder``."""
        kind = config.get("model_type")
        if kind not in _KINDS:
            raise ValueError(
                f"{file}: model_type {kind!r} is none of {', '.join(_KINDS)}, whose parameters can be counted"
            )
        heads = _number(file, config, "num_attention_heads")
        hidden = _number(file, config, "hidden_size")
        biased = kind in ("qwen3", "llama") and bool(config.get("attention_bias", False))
        values: dict[str, Any] = {
            "layers": _number(file, config, "num_hidden_layers"),
            "hidden": hidden,
            "intermediate": _number(file, config, "intermediate_size"),
            "heads": heads,
            # Old Llama checkpoints don't have this key, and transformers then takes every head to have its own.
            "kv_heads": _number(file, config, "num_key_value_heads", heads if kind == "llama" else None),
            # Where the key is missing transformers takes Qwen3's own constant, or the share of the width.
            "head_dim": _number(file, config, "head_dim", 128 if kind == "qwen3" else hidden // max(heads, 1)),
            "vocabulary": _number(file, config, "vocab_size"),
            "context": _number(file, config, "max_position_embeddings"),
            "tied_embeddings": bool(config.get("tie_word_embeddings", False)),
            "attention_bias": "qkv" if kind == "qwen2" else "all" if biased else "none",
            "mlp_bias": kind == "llama" and bool(config.get("mlp_bias", False)),
            "qk_norm": kind == "qwen3",
        }
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error


def _number(file: str | Path, config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if value is None:
        raise ValueError(f"{file}: no key {key}")
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{file}: {key} must be a whole number, not {value!r}")
    return value
