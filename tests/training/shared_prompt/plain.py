"""Small decoders, rows of answers, and GRPO's loss on both paths: each row by itself, and each prompt once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from rearank.training.shared_prompt.batch import GroupedBatch
from rearank.training.shared_prompt.cached import CachedPrompts

WORDS, TEMPERATURE = 50, 0.8
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # far from uniform, so that attention matters
}
# Windows of 5 tokens are shorter than most prompts, and than some answers.
CONFIGS: dict[str, Callable[[], Any]] = {
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=8),
    "llama": lambda: LlamaConfig(**SIZES),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=5),
    "gemma2": lambda: Gemma2Config(**SIZES, head_dim=8, sliding_window=5),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=5, layer_types=_ALTERNATING),
    "qwen2": lambda: Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1),
}
_ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]


def decoder(name: str, seed: int = 0, dtype: Any = torch.float32) -> Any:
    """A random model of that kind, in training mode."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=dtype).train()


@dataclass(frozen=True)
class Rows:
    """A trainer's rows: left-padded prompts, right-padded answers of up to ``answer`` tokens."""

    ids: Any
    mask: Any
    answer: int

    @property
    def targets(self) -> tuple[Any, Any]:
        return self.ids[:, -self.answer :], self.mask[:, -self.answer :]


def rows(prompts: Sequence[int], groups: Sequence[int], answers: Sequence[int], seed: int = 1) -> Rows:
    """Lengths of the prompts, answers of each, and the answers' lengths, repeated as often as needed."""
    random = torch.Generator().manual_seed(seed)
    long, most = max(prompts), max(answers)
    ids = torch.randint(3, WORDS, (sum(groups), long + most), generator=random)
    mask = torch.ones_like(ids)
    row = 0
    for length, times in zip(prompts, groups, strict=True):
        ids[row : row + times, :long] = ids[row, :long].clone()
        mask[row : row + times, : long - length] = 0
        row += times
    for row in range(len(ids)):
        mask[row, long + answers[row % len(answers)] :] = 0
    return Rows(ids * mask, mask, most)


def scores(logits: Any, ids: Any, mask: Any) -> tuple[Any, Any]:
    """Log-probabilities and entropies (N, R), 0 for padding."""
    logps = torch.log_softmax(logits.float() / TEMPERATURE, -1)
    chosen = logps.gather(-1, ids[..., None])[..., 0]
    return chosen * mask, -(logps.exp() * logps).sum(-1) * mask


def plainly(model: Any, given: Rows) -> tuple[Any, Any]:
    """Each row by itself, as trainers do."""
    logits = model(input_ids=given.ids, attention_mask=given.mask, use_cache=False).logits
    return scores(logits[:, -given.answer - 1 : -1], *given.targets)


def shared(model: Any, given: Rows, size: int) -> Any:
    """Parts of ``size`` answers on prompts computed once: (first row, log-probabilities, entropies) of each."""
    count = len(given.ids)
    prompts = CachedPrompts(model, GroupedBatch.from_rows(given.ids, given.mask, given.answer))
    for start in range(0, count, size):
        stop = min(start + size, count)
        arguments, part = prompts.answers(start, stop, last=stop == count)
        found = scores(model(**arguments).logits, part.answer_ids, part.answer_mask)
        yield start, *(pad(one, (0, given.answer - one.size(1))) for one in found)


def grpo(logps: Any, entropies: Any, old: Any, reference: Any, advantages: Any, tokens: int) -> Any:
    """Clipped ratios, a KL to a reference, an entropy bonus; by tokens."""
    ratios = (logps - old).exp()
    gain = torch.minimum(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages)
    kl = (reference - logps).exp() - (reference - logps) - 1
    return ((kl * 0.1 - gain - 0.01 * entropies) * (logps != 0)).sum() / tokens


def gradients(model: Any) -> Any:
    """Of all that is trained, as one vector."""
    return torch.cat([p.grad.flatten().float() for p in model.parameters() if p.requires_grad])


def away(one: Any, other: Any) -> float:
    """Relative distance."""
    return float(((one - other).norm() / other.norm()).detach())
