"""TRL's GRPOTrainer with each prompt computed once. Imports torch and TRL: for a training that has begun."""

from __future__ import annotations

import logging
from math import lcm
from typing import Any, Literal

import torch
from torch.nn.functional import pad
from trl import GRPOTrainer

from rearank.training.base import TrainingError
from rearank.training.shared_prompt.batch import GroupedBatch
from rearank.training.shared_prompt.cached import CachedPrompts
from rearank.training.shared_prompt.packed import pack
from rearank.training.shared_prompt.support import unwrapped, why_not_packed, why_plain

_log = logging.getLogger(__name__)


class SharingTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer whose passes over answers share their prompts, where ``shares``.

    Two forms: prompts' keys and values in a cache, and packed rows where gradient checkpointing allows no cache.

    Cached, answers come in blocks, the least number that is whole groups and whole passes: a block's prompts are
    computed before its first pass, and gone through backwards after its last. They are never more than the answers of
    a pass. Packed, each pass computes its own prompts.
    """

    shares: bool
    _open: CachedPrompts | None = None

    def __init__(self, shared_prompt: Literal["auto", True, False], **settings: Any) -> None:
        """``shared_prompt``: as ``trainer.shared_prompt``; ``settings``: TRL's.

        Raises:
            TrainingError: where prompts must be shared and can't.
        """
        super().__init__(**settings)
        self._passes = lcm(micro := self.args.per_device_train_batch_size, self.num_generations) // micro  # of a block
        self.shares = shared_prompt is not False
        why_not = why_not_packed if self.args.gradient_checkpointing else why_plain
        if self.shares and (reason := why_not(self.model)) is not None:
            if shared_prompt is True:
                raise TrainingError(
                    f"trainer.shared_prompt=true: this model's prompts can't be shared: {reason}; "
                    "set trainer.shared_prompt=auto"
                )
            _log.info("trainer.shared_prompt: each answer's prompt is computed anew: %s", reason)
            self.shares = False

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **others: Any,
    ) -> tuple[Any, Any, Any]:
        if not self.shares:
            plain: tuple[Any, Any, Any] = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **others
            )
            return plain
        if torch.is_grad_enabled():
            if self.args.gradient_checkpointing:
                found = [self._packed(model, input_ids, attention_mask, logits_to_keep)]
            else:
                found = [self._of_update(model, len(input_ids))]
        else:
            size = batch_size or len(input_ids)
            found = []
            for start in range(0, len(input_ids), size * self._passes):
                block = slice(start, start + size * self._passes)
                batch = GroupedBatch.from_rows(input_ids[block], attention_mask[block], logits_to_keep)
                prompts, rows = self._computed(model, batch), len(batch.group)
                found += [self._scores(model, prompts, at, min(at + size, rows)) for at in range(0, rows, size)]

        def whole(which: int) -> Any:
            return torch.cat([pad(part[which], (0, logits_to_keep - part[which].size(1))) for part in found])

        return whole(0), whole(1) if compute_entropy else None, None

    def _of_update(self, model: Any, answers: int) -> tuple[Any, Any]:
        """Of the pass that TRL is at, of so many answers; the first of a block computes its prompts."""
        at = self._step % self.args.steps_per_generation
        number = at % self._passes
        if number == 0:
            parts = self._buffered_inputs[at : at + self._passes]
            ids, mask = (
                torch.cat([torch.cat([part[f"prompt_{what}"], part[f"completion_{what}"]], 1) for part in parts])
                for what in ("ids", "mask")
            )
            batch = GroupedBatch.from_rows(ids, mask, parts[0]["completion_ids"].size(1))
            self._open = self._computed(model, batch)
        prompts, last = self._open, number + 1 == self._passes
        if last:
            self._open = None
        return self._scores(model, prompts, number * answers, (number + 1) * answers, last=last)

    def _packed(self, model: Any, ids: Any, mask: Any, answer_tokens: int) -> tuple[Any, Any]:
        """Of a pass under gradient checkpointing."""
        batch = GroupedBatch.from_rows(ids, mask, answer_tokens)
        prompts, answers = (
            [row[kept] for row, kept in zip(rows, masks.bool(), strict=True)]
            for rows, masks in ((batch.prompt_ids, batch.prompt_mask), (batch.answer_ids, batch.answer_mask))
        )
        packed = pack(prompts, answers, batch.group.tolist())
        with self.accelerator.autocast():
            logits = model(**packed.inputs(unwrapped(model).config), use_cache=False).logits
        return packed.figures(logits, self.temperature)

    def _computed(self, model: Any, batch: GroupedBatch) -> CachedPrompts:
        with self.accelerator.autocast():
            return CachedPrompts(self.accelerator.unwrap_model(model), batch)

    def _scores(self, model: Any, prompts: Any, start: int, stop: int, *, last: bool = True) -> tuple[Any, Any]:
        """Log-probabilities and entropies of a pass, 0 for padding; as many columns as its longest answer has tokens.

        By the output layer that TRL fuses for the plain path, too, which knows the temperature.
        """
        arguments, part = prompts.answers(start, stop, last=last)
        labels = part.answer_ids.masked_fill(part.answer_mask == 0, -100)
        with self.accelerator.autocast():
            outputs = model(**arguments, shift_labels=labels, fused_lm_head=True)
        return outputs.log_probs, outputs.entropy
