"""The next token of each row, from a number that the row brings along. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rearank.types import Sampling

_BLOCK = 128
"""Words whose shares are added up first: a draw then reads the words of one block alone."""


def drawn(logits: torch.Tensor, samplings: Sequence[Sampling], points: Sequence[float]) -> list[int]:
    """The next token of each row.

    One number picks from the cumulated distribution, in the vocabulary's order: sorting by probability would let a
    rounding error swap two tokens and change the draw.

    Args:
        logits: of the next token, shape (rows, words).
        samplings: of each row.
        points: of each row, a number in [0, 1); not looked at where nothing is drawn (temperature 0).
    """
    tokens = logits.argmax(-1)
    sampled = [i for i, sampling in enumerate(samplings) if sampling.temperature > 0]
    if sampled:
        double = {"dtype": torch.float64, "device": logits.device}
        heat = torch.tensor([samplings[i].temperature for i in sampled], device=logits.device)
        point = torch.tensor([points[i] for i in sampled], **double)
        chosen = logits if len(sampled) == len(samplings) else logits[sampled]
        share = torch.softmax(chosen.float() / heat[:, None], dim=-1)
        if any(samplings[i].top_p < 1 for i in sampled):
            share = _nucleus(share.double(), torch.tensor([samplings[i].top_p for i in sampled], **double))
        tokens[sampled] = _at(share, point)
    return [int(token) for token in tokens.tolist()]


def _at(share: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """The first word of each row up to which the shares add to more than ``point`` of them all."""
    blocks = torch.nn.functional.pad(share, (0, -share.shape[-1] % _BLOCK)).view(len(share), -1, _BLOCK)
    sums = blocks.sum(-1).double()
    total = sums.cumsum(-1)
    whole = total[:, -1:]
    target = (point[:, None] * whole).minimum(whole.nextafter(torch.zeros_like(whole)))
    block = (total <= target).sum(-1, keepdim=True)
    before = total.gather(-1, block) - sums.gather(-1, block)
    inside = blocks[torch.arange(len(share), device=share.device), block[:, 0]]
    word = (before + inside.double().cumsum(-1) <= target).sum(-1)
    # A block's sum may be more than its words' by rounding, and the point between the two: its last word with a share.
    last = _BLOCK - 1 - (inside > 0).flip(-1).int().argmax(-1)
    return block[:, 0] * _BLOCK + word.minimum(last)


def _nucleus(share: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """``share`` with 0 outside the fewest tokens that together reach ``top_p``."""
    ordered, index = share.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    kept = ordered.masked_fill(before >= top_p[:, None], 0.0)
    kept[:, 0] = ordered[:, 0]
    return share.new_zeros(share.shape).scatter(-1, index, kept)
