"""Prompts computed once: their keys and values stay with their graph, and answers are computed on them, in parts.

Each answer is computed together with its prompt's last token, whose output predicts the answer's first token. So a pass
over answers is an ordinary forward pass of the model with a cache, whatever wraps the model (adapters, a fused output
layer), and only the other tokens of the prompt are shared.

Answers may come in several parts, each with a backward pass of its own. Until the last one, gradients gather in
detached keys and values; the last part's backward pass takes them along through the prompts, which are gone through
once. Losses may be scaled (gradient accumulation, a gradient scaler), as all of this is linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from rearank.training.shared_prompt.batch import GroupedBatch
from rearank.training.shared_prompt.support import unwrapped


class CachedPrompts:
    """The prompts of a batch, computed but for their last tokens.

    ``support.why_plain`` says which models this is right for; for others results may be wrong without an error.
    """

    def __init__(self, model: Any, batch: GroupedBatch) -> None:
        """Computes the prompts, with a graph where gradients are on.

        Args:
            model: a causal language model, with or without peft's adapters.
            batch: every answer that will be asked for, and its prompt.
        """
        self._batch = batch.trimmed_prompts()
        self._ids, self._mask = self._batch.prompt_ids, self._batch.prompt_mask
        self._groups: list[int] = self._batch.group.tolist()
        self._layers: list[tuple[_Kept, _Kept]] = []
        if self._ids.size(1) > 1:
            # Without the model's config, by which layers with sliding windows forget what later answers' windows hold.
            cache = DynamicCache()
            unwrapped(model).base_model(
                input_ids=self._ids[:, :-1],
                attention_mask=self._mask[:, :-1],
                position_ids=(self._mask[:, :-1].cumsum(1) - 1).clamp(min=0),
                past_key_values=cache,
                use_cache=True,
            )
            self._layers = [(_Kept(layer.keys), _Kept(layer.values)) for layer in cache.layers]

    def answers(self, start: int, stop: int, *, last: bool) -> tuple[dict[str, Any], GroupedBatch]:
        """Arguments for the model's forward pass over the answers from ``start`` to ``stop``, and these answers.

        The pass has as many columns as the longest of these answers has tokens: column t predicts token t.

        Args:
            start: the row of the first of them.
            stop: the row after the last of them.
            last: whether no part follows, so that the backward pass goes through the prompts. The backward passes of
                all other parts must be over when this one's begins.
        """
        part = self._batch.part(start, stop).trimmed_answers()
        ids, mask = self._ids[part.group], self._mask[part.group]
        columns = torch.arange(part.answer_ids.size(1), device=ids.device)
        arguments = {
            "input_ids": torch.cat([ids[:, -1:], part.answer_ids[:, :-1]], 1),
            "attention_mask": torch.cat([mask, part.answer_mask[:, :-1]], 1),
            "position_ids": mask.sum(1, keepdim=True) - 1 + columns,
            "past_key_values": DynamicCache(),
        }
        if self._layers:
            spread = _Spread.of(self._groups[start:stop], part.group)
            layers = [_AnswerLayer(keys.take(last), values.take(last), spread) for keys, values in self._layers]
            arguments["past_key_values"] = Cache(layers=layers)
        return arguments, part


class _Kept:
    """A tensor with its graph, and the gradient that parts before the last leave for it."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self._leaf: Any = None

    def take(self, last: bool) -> Any:
        """For one part: the tensor itself for the last one, else a copy that gathers the gradient."""
        if not self._tensor.requires_grad:
            return self._tensor
        if last:
            taken, leaf = self._tensor.view_as(self._tensor), self._leaf
            if leaf is not None:
                taken.register_hook(lambda gradient: gradient + leaf.grad)
            return taken
        if self._leaf is None:
            self._leaf = self._tensor.detach().requires_grad_()
        return self._leaf


@dataclass(frozen=True)
class _Spread:
    """Where each answer's prompt lies. ``times``: answers a prompt; 0 where prompts differ in it.

    The prompts of groups of one size are repeated without a copy, and their gradients are sums instead of a scatter.
    """

    first: int
    times: int
    group: Any

    @classmethod
    def of(cls, groups: list[int], group: Any) -> _Spread:
        runs = [(prompt, len(list(same))) for prompt, same in groupby(groups)]
        first, times = runs[0]
        regular = all(run == (first + number, times) for number, run in enumerate(runs))
        return cls(first, times if regular else 0, group)

    def joined(self, shared: Any, own: Any) -> Any:
        """Each answer's own keys or values (N, heads, R, size) after its prompt's, of (B, heads, P, size)."""
        if not self.times:
            return torch.cat([shared.index_select(0, self.group), own], 2)
        answers = own.unflatten(0, (-1, self.times))
        prompts = shared[self.first : self.first + answers.size(0), None].expand(-1, self.times, -1, -1, -1)
        return torch.cat([prompts, answers], 3).flatten(0, 1)


class _AnswerLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values of the prompts, to which a pass over answers adds its own; they aren't kept."""

    def __init__(self, keys: Any, values: Any, spread: _Spread) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self._spread = spread

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        return self._spread.joined(self.keys, key_states), self._spread.joined(self.values, value_states)
