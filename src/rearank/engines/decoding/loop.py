"""The one decode loop over a model of transformers: rows that are answered together, each prompt computed once.

Whoever decodes chooses the tokens: the engine by each call's random stream, validation greedily, TRL's sampling as TRL
draws them. Imports torch and transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

_STEPS = 64
"""Places that are added to a layer's keys and values when they are full: every further token would copy them whole."""
_DENSE = 0.75
"""Rows that have ended are computed on until fewer than this share go on: leaving them out copies the cache."""


class Decoding:
    """Rows that are decoded together.

    Equal prompts are computed once, whatever their number. Then again and again: read ``logits``, choose a token for
    each row, call ``step``. The caller turns gradients off, and dropout.

    Args:
        model: a causal language model of transformers.
        prompts: the tokens of each row's prompt; none is empty.
        pad: any token; it stands before shorter prompts and is masked.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad: int) -> None:
        self._model, self._device = model, model.device
        places: dict[tuple[int, ...], int] = {}
        of_row = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
        lengths = torch.tensor([len(prompt) for prompt in places], device=self._device)
        width = int(lengths.max())
        tokens = torch.tensor([[pad] * (width - len(p)) + list(p) for p in places], device=self._device)
        self._mask = (torch.arange(width, device=self._device) >= width - lengths[:, None]).long()
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._cache: Any = None
        logits = self._forward(tokens)
        self._positions = self._positions[:, -1:]
        if len(places) < len(of_row):
            kept = torch.tensor(of_row, device=self._device)
            self._select(kept)
            logits = logits[kept]
        self.logits = logits
        """Of each row's next token, shape (rows, words)."""
        self._slots = list(range(len(of_row)))  # where each row lies in what is computed

    def step(self, tokens: Sequence[int] | torch.Tensor, going: Sequence[int] | None = None) -> None:
        """Append a token to each row that goes on; ``logits`` then holds these rows alone, in the order given.

        Args:
            tokens: one for each row that goes on.
            going: which rows do, ascending; ``None`` for all.
        """
        if going is not None:
            self._slots = [self._slots[row] for row in going]
        held = self._mask.shape[0]
        if len(self._slots) < _DENSE * held:
            self._select(torch.tensor(self._slots, device=self._device))
            held, self._slots = len(self._slots), list(range(len(self._slots)))
        tokens = torch.as_tensor(tokens, device=self._device).reshape(-1, 1)
        everyone = len(self._slots) == held
        slots = None if everyone else torch.tensor(self._slots, device=self._device)
        if slots is not None:  # those that have ended go on with any token: nobody reads what comes of it
            tokens = tokens.new_zeros(held, 1).index_copy_(0, slots, tokens)
        self._positions = self._positions + 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(held, 1)], dim=1)
        logits = self._forward(tokens)
        self.logits = logits if slots is None else logits[slots]

    def _forward(self, tokens: torch.Tensor) -> torch.Tensor:
        output = self._model(
            input_ids=tokens,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        if self._cache is None:
            self._cache = output.past_key_values
            for i, layer in enumerate(layers := getattr(self._cache, "layers", [])):
                if type(layer) is DynamicLayer:  # other kinds (sliding, recurrent) stay as they are
                    layers[i] = _RoomyLayer(layer)
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _select(self, kept: torch.Tensor) -> None:
        self._mask, self._positions = self._mask[kept], self._positions[kept]
        self._cache.reorder_cache(kept)  # every kind of layer can, as beam search needs it


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values, shape (rows, heads, tokens, width), with room for tokens to come."""

    def __init__(self, filled: DynamicLayer) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = filled.keys.dtype, filled.keys.device, True
        self.keys, self.values = filled.keys, filled.values
        self._rooms = (self.keys, self.values)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append, and return all there is."""
        before = self.keys.shape[-2]
        after = before + key_states.shape[-2]
        if after > self._rooms[0].shape[-2]:
            self._rooms = (_roomy(self.keys, after + _STEPS), _roomy(self.values, after + _STEPS))
        for room, new in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, before:after] = new
        self.keys, self.values = (room[:, :, :after] for room in self._rooms)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may be named many times."""
        super().reorder_cache(beam_idx)
        self._rooms = (self.keys, self.values)


def _roomy(filled: torch.Tensor, tokens: int) -> torch.Tensor:
    """A copy with room for so many tokens."""
    rows, heads, before, width = filled.shape
    room = filled.new_empty(rows, heads, tokens, width)
    room[:, :, :before] = filled
    return room
