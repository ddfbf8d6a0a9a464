"""Answers and the prompts that they share, as padded tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import pad


@dataclass(frozen=True)
class GroupedBatch:
    """``N`` answers of up to ``R`` tokens to ``B`` prompts of up to ``P`` tokens.

    Args:
        prompt_ids: (B, P), padded on the left.
        prompt_mask: (B, P): 1 for a token, 0 for padding.
        answer_ids: (N, R), padded on the right.
        answer_mask: (N, R).
        group: (N,): the row of each answer's prompt.
    """

    prompt_ids: Any
    prompt_mask: Any
    answer_ids: Any
    answer_mask: Any
    group: Any

    @classmethod
    def from_rows(cls, input_ids: Any, attention_mask: Any, answer_tokens: int) -> GroupedBatch:
        """Of a trainer's rows, each with its prompt on the left and its answer in the last ``answer_tokens`` columns.

        Neighbours with the same prompt share it; the same prompt further away is a prompt of its own.

        Args:
            input_ids: (N, P + R).
            attention_mask: (N, P + R).
            answer_tokens: R.
        """
        length = input_ids.size(1) - answer_tokens
        prompts, masks = input_ids[:, :length], attention_mask[:, :length].long()
        is_new = (prompts[1:] != prompts[:-1]).any(1) | (masks[1:] != masks[:-1]).any(1)
        group = pad(is_new.long().cumsum(0), (1, 0))
        first = torch.cat([is_new.new_ones(1), is_new])
        return cls(prompts[first], masks[first], input_ids[:, length:], attention_mask[:, length:].long(), group)

    def part(self, start: int, stop: int) -> GroupedBatch:
        """The answers from ``start`` to ``stop``; all prompts."""
        rows = slice(start, stop)
        return replace(
            self, answer_ids=self.answer_ids[rows], answer_mask=self.answer_mask[rows], group=self.group[rows]
        )

    def trimmed_prompts(self) -> GroupedBatch:
        """Without the columns before the first token of any prompt."""
        before = int((self.prompt_mask.amax(0).cumsum(0) == 0).sum())
        return replace(self, prompt_ids=self.prompt_ids[:, before:], prompt_mask=self.prompt_mask[:, before:])

    def trimmed_answers(self) -> GroupedBatch:
        """Without the columns after the last token of any answer; one column stays where all are empty."""
        kept = max(1, int(self.answer_mask.amax(0).sum()))
        return replace(self, answer_ids=self.answer_ids[:, :kept], answer_mask=self.answer_mask[:, :kept])
