"""What a training with TRL's trainers takes of one GPU, or of the machine's memory, and how much of it fits.

A process that asks for more than a machine has is killed without a word, so what is left open (``trainer.micro_batch``,
``gradient_checkpointing: null``) is chosen, and logged, before. ``PassMemory`` counts; ``chosen_passes`` chooses for a
training that begins; ``rearank.training.trl.plan`` for ``task=preflight``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

from rearank.engines.model import Architecture
from rearank.training.base import Lora, TrainingJob
from rearank.training.footprint import GIB, Parts, describe, total
from rearank.training.machine_memory import memory_bytes
from rearank.training.rows import TrainingRow, chats

SHARE = 0.8
"""Of the free memory that a training may take by this count: what is counted here is not all."""
_TILE = (4096, 32768)  # tokens and words of which TRL's fused output layer makes logits at once
_TILE_BYTES = 32  # a token and word on a CPU, where eight copies in float32 are alive; a GPU's kernel works in place
_HALF, _FLOAT = 2, 4
# What a layer keeps, in terms of the same in pure bfloat16 (``Architecture.saved_by_a_layer``), measured on a CPU:
_IN_FLOAT32 = 2.05
_MIXED = 1.4  # float32 weights under autocast: the residual stream is float32, and inputs are kept once more
_ADAPTED = 1.25  # bfloat16 weights with float32 adapters, whose inputs are kept, too
_ALWAYS = 1.0  # GiB that a pass may take without a look at the machine, so that small runs are the same everywhere
_LONGEST = 16  # rows, by characters, whose prompts are measured
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassMemory:
    """What passes over answers take, by the model's sizes ``a``.

    Args:
        a: the model's sizes.
        prompt: tokens of the longest prompt.
        answer: tokens of the longest answer.
        gpu: whether a GPU trains: weights that are trained are float32 there too, the computation is bfloat16.
        checkpointing: only each layer's input is kept.
        lora: what is trained.
        reference: a second copy of the model is held, for the KL.
        group: answers that share a prompt that is computed once; 1 where each computes its own.
    """

    a: Architecture
    prompt: int
    answer: int
    gpu: bool = False
    checkpointing: bool = False
    lora: Lora | None = None
    reference: bool = False
    group: int = 1

    @property
    def shares(self) -> bool:
        """Whether prompts are shared: a cache of them and checkpointing exclude each other."""
        return self.group > 1 and not self.checkpointing

    @property
    def state(self) -> Parts:
        """GiB that stay, by part: weights, gradients, AdamW's two moments, the reference."""
        adapters = self.a.adapter_parameters(self.lora.rank) if self.lora else 0
        trained = adapters or self.a.parameters
        frozen = _HALF if self.gpu and self.lora else _FLOAT
        parts = {
            "weights": frozen * self.a.parameters + _FLOAT * adapters,
            "gradients": _FLOAT * trained,
            "optimiser": 2 * _FLOAT * trained,
            "reference": frozen * self.a.parameters if self.reference and not self.lora else 0,
        }
        return {name: size / GIB for name, size in parts.items() if size}

    def of_pass(self, answers: int) -> Parts:
        """GiB of a forward and backward pass over so many answers, by part.

        Shared prompts are kept once, with their gradients' keys and values: those of a block, the least number of
        answers that is whole groups and whole passes. Each answer has a copy of its prompt's keys and values.
        """
        a, number = self.a, _HALF if self.gpu else _FLOAT
        scale = _ADAPTED if self.lora and self.gpu else _MIXED if self.gpu else _IN_FLOAT32
        layer = scale * a.saved_by_a_layer()
        kept = a.layers * layer
        if self.checkpointing:
            kept = layer + a.layers * a.hidden * (_HALF if self.lora and self.gpu else _FLOAT)
        whole = self.prompt + self.answer
        own, prompts = (self.answer, lcm(answers, self.group) // self.group) if self.shares else (whole, 0)
        copies = 2 * a.layers * a.query_width * number * answers * whole if self.shares else 0
        # On a CPU TRL makes logits of every position of the plain path, a prompt's too.
        scored = min(answers * (own if not self.gpu else self.answer), _TILE[0])
        parts = {
            "activations": answers * own * kept,
            "prompts": prompts * self.prompt * (kept + 2 * a.layers * a.key_width * number),
            "copies of keys and values": copies,
            "logits": scored * min(a.vocabulary, _TILE[1]) * (_HALF if self.gpu else _TILE_BYTES),
            "output layer's gradient": 0 if self.lora else _FLOAT * a.embedding_parameters,
            "bfloat16 weights": _HALF * a.parameters if self.gpu and not self.lora else 0,
        }
        return {name: size / GIB for name, size in parts.items() if size}

    def most(self, answers: int, free: float) -> int | None:
        """The largest part of ``answers`` that divides it and fits ``free`` GiB; ``None`` where not even one does."""
        room = max(_ALWAYS, SHARE * free - total(self.state))
        parts = (n for n in range(answers, 0, -1) if answers % n == 0)
        return next((n for n in parts if total(self.of_pass(n)) <= room), None)

    def peak(self, answers: int) -> Parts:
        """GiB in a pass over so many answers, of everything."""
        return {**self.state, **self.of_pass(answers)}


@dataclass(frozen=True)
class Passes:
    """How the answers of an update are gone through."""

    micro_batch: int
    checkpointing: bool


def fitting(
    memory: PassMemory, answers: int, free: float | None, micro: int | None, checkpointing: bool | None
) -> Passes:
    """What is open (``None``) is chosen so that it fits: no checkpointing where that can be, then large passes.

    Where nothing fits it is what takes least, and where nothing is known all answers at once.

    Args:
        memory: of the training.
        answers: of an update.
        free: GiB; ``None`` where it isn't known.
        micro: as ``trainer.micro_batch``.
        checkpointing: as ``trainer.gradient_checkpointing``.
    """
    if free is None:
        return Passes(micro or answers, bool(checkpointing))
    for checkpointed in (False, True) if checkpointing is None else (checkpointing,):
        tried = replace(memory, checkpointing=checkpointed)
        if micro is None and (found := tried.most(answers, free)) is not None:
            return Passes(found, checkpointed)
        if micro is not None and total(tried.peak(micro)) <= SHARE * free:
            return Passes(micro, checkpointed)
    return Passes(micro or 1, checkpointing is not False)


def chosen_passes(
    job: TrainingJob,
    tokenizer: Any,
    rows: Sequence[TrainingRow],
    answers: int,
    *,
    gpu: bool,
    micro: int | None,
    checkpointing: bool | None,
    key: str = "trainer.micro_batch",
    taken: float = 0.0,
    lora: Lora | None = None,
    reference: bool = False,
    group: int = 1,
) -> Passes:
    """``fitting`` for a training that begins. The choice is logged.

    Args:
        job: the model, and how long its answers may be.
        tokenizer: the model's.
        rows: to train on.
        answers: of an update.
        gpu: whether a GPU trains.
        micro: as ``trainer.micro_batch``.
        checkpointing: as ``trainer.gradient_checkpointing``.
        key: what sets the number by hand.
        taken: GiB that something else will take of the GPU.
        lora: as ``trainer.lora``.
        reference: whether there is a reference model.
        group: answers that share a prompt that is computed once.
    """
    sizes, free = job.sizes or _sizes(job), free_gib(gpu=gpu)
    if sizes is None or free is None:
        chosen = Passes(micro or answers, bool(checkpointing))
        if micro is None:
            what = "the model's sizes are" if sizes is None else "this machine's free memory is"
            _log.info("%s: all %d answers of an update in one pass: %s not known", key, answers, what)
        return chosen
    free -= taken
    prompt = longest_prompt(tokenizer, rows)
    memory = PassMemory(sizes, prompt, job.max_tokens, gpu, bool(checkpointing), lora, reference, group)
    chosen = fitting(memory, answers, free, micro, checkpointing)
    memory = replace(memory, checkpointing=chosen.checkpointing)
    parts = memory.of_pass(chosen.micro_batch)
    if micro is None or checkpointing is None:
        _log.info(
            "%s: %d of an update's %d answers in one pass%s (%.1f GiB: %s; beside %.1f GiB for the training state, by "
            "estimate; %.1f GiB are free)", key, chosen.micro_batch, answers,
            ", with gradient checkpointing" if chosen.checkpointing else "", total(parts), describe(parts),
            total(memory.state), free,
        )  # fmt: skip
    if (needed := total(parts) + total(memory.state)) > free:
        _log.warning(
            "this training may not fit the memory (%.1f GiB by estimate, %.1f free): lower model.max_tokens, shorten "
            "passages (prompt.max_characters), set trainer.gradient_checkpointing=true or trainer.lora, or take a "
            "smaller model", needed, free,
        )  # fmt: skip
    return chosen


def longest_prompt(tokenizer: Any, rows: Sequence[TrainingRow]) -> int:
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


def free_gib(*, gpu: bool) -> float | None:
    """GiB free where the model will be trained; ``None`` where that isn't known."""
    if gpu:
        import torch

        return float(torch.cuda.mem_get_info()[0]) / GIB
    found = memory_bytes("MemAvailable")
    return None if found is None else found / GIB
