"""How many answers one pass of TRL's trainers may take in the memory there is: ``trainer.micro_batch`` left open.

A process that asks for more than a machine has is killed without a word, so the choice is made, and logged, before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rearank.engines.model import Architecture
from rearank.training.base import Lora, TrainingJob
from rearank.training.footprint import GIB
from rearank.training.machine_memory import memory_bytes
from rearank.training.rows import TrainingRow, chats

_LOGITS = 13
"""Copies of an answer's logits at the peak of a pass. Measured on a CPU in float32: 52 bytes a token and word."""
_SHARE = 0.8  # of the free memory: what is counted here is not all
_ALWAYS = 1.0  # GiB that a pass may take without a look at the machine, so that small runs are the same everywhere
_LONGEST = 16  # rows, by characters, whose prompts are measured
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassMemory:
    """What passes of a model take, as ``rearank.training.footprint`` counts activations; by its sizes ``a``.

    Args:
        a: the model's sizes.
        bytes: of a number: 4 on a CPU, 2 on a GPU.
        tokens: of the longest sequence, prompt and answer together.
        graded: of these, those whose logits are made.
        checkpointing: only each layer's input is kept.
        lora: what is trained.
        reference: a second copy of the model is held, for the KL.
    """

    a: Architecture
    bytes: int
    tokens: int
    graded: int
    checkpointing: bool = False
    lora: Lora | None = None
    reference: bool = False

    @property
    def held(self) -> float:
        """GiB that stay: weights, gradients and AdamW's two moments."""
        trained = self.a.adapter_parameters(self.lora.rank) if self.lora else self.a.parameters
        copies = 2 if self.reference and not self.lora else 1
        return self.bytes * (copies * self.a.parameters + 3 * trained) / GIB

    @property
    def each(self) -> float:
        """GiB of one answer in a pass."""
        layer = self.a.saved_by_a_layer() * self.bytes / 2  # counted there for bfloat16
        kept = layer + self.a.layers * self.a.hidden * self.bytes if self.checkpointing else self.a.layers * layer
        return (self.tokens * kept + self.graded * self.a.vocabulary * _LOGITS * self.bytes) / GIB

    def most(self, answers: int, free: float) -> int:
        """The largest part of ``answers`` that divides it and fits ``free`` GiB; 1 where none does."""
        room = max(_ALWAYS, _SHARE * free - self.held)
        return max((n for n in range(1, answers + 1) if answers % n == 0 and n * self.each <= room), default=1)


def micro_batch(
    job: TrainingJob,
    tokenizer: Any,
    rows: Sequence[TrainingRow],
    answers: int,
    *,
    gpu: bool,
    key: str = "trainer.micro_batch",
    checkpointing: bool = False,
    lora: Lora | None = None,
    reference: bool = False,
    whole_logits: bool = False,
) -> int:
    """Answers in one pass, of the ``answers`` of an update: all of them where they fit. The choice is logged.

    Args:
        job: the model, and how long its answers may be.
        tokenizer: the model's.
        rows: to train on.
        answers: of an update.
        gpu: whether a GPU trains.
        key: what sets the number by hand.
        checkpointing: as ``trainer.gradient_checkpointing``.
        lora: as ``trainer.lora``.
        reference: whether there is a reference model.
        whole_logits: whether logits are made of the prompt, too.
    """
    sizes, free = job.sizes or _sizes(job), _free(gpu)
    if sizes is None or free is None:
        what = "the model's sizes are" if sizes is None else "this machine's free memory is"
        _log.info("%s: all %d answers of an update in one pass: %s not known", key, answers, what)
        return answers
    tokens = _longest_prompt(tokenizer, rows) + job.max_tokens
    graded = tokens if whole_logits else job.max_tokens
    memory = PassMemory(sizes, 2 if gpu else 4, tokens, graded, checkpointing, lora, reference)
    chosen = memory.most(answers, free)
    _log.info(
        "%s: %d of an update's %d answers in one pass (%.1f GiB beside %.1f GiB for the training state, by estimate; "
        "%.1f GiB are free)", key, chosen, answers, chosen * memory.each, memory.held, free,
    )  # fmt: skip
    if chosen * memory.each + memory.held > free:
        _log.warning(
            "this training may not fit the memory (%.1f GiB by estimate, %.1f free): lower model.max_tokens, shorten "
            "passages (prompt.max_characters), set trainer.gradient_checkpointing=true or trainer.lora, or take a "
            "smaller model", chosen * memory.each + memory.held, free,
        )  # fmt: skip
    return chosen


def _longest_prompt(tokenizer: Any, rows: Sequence[TrainingRow]) -> int:
    """Tokens; looked for among the rows of most characters."""
    longest = sorted(rows, key=lambda row: -sum(len(turn.content) for turn in row.prompt))[:_LONGEST]
    texts = tokenizer.apply_chat_template(chats(longest), tokenize=False, add_generation_prompt=True)
    return max(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])


def _sizes(job: TrainingJob) -> Architecture | None:
    """Of a model whose node doesn't name them; ``None`` for a kind whose parameters can't be counted."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(job.model, revision=job.revision)
        return Architecture.from_config(config.get_text_config().to_dict(), job.model)
    except ValueError:
        return None


def _free(gpu: bool) -> float | None:
    """GiB free where the model will be trained."""
    if gpu:
        import torch

        return float(torch.cuda.mem_get_info()[0]) / GIB
    found = memory_bytes("MemAvailable")
    return None if found is None else found / GIB
