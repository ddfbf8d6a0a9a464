"""The answers of a model in training: sampled to learn from, and greedy ones to validate it. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from rearank.engines.chat import opening
from rearank.engines.decoding.loop import Decoding
from rearank.engines.tokens import decoded


def sampled(
    model: Any, prompts: Sequence[list[int]], max_tokens: int, ends: frozenset[int], temperature: float, top_p: float
) -> list[list[int]]:
    """The tokens of one drawn answer to each prompt, its end token included. The caller turns gradients off.

    The same numbers are drawn from torch's stream as by transformers' ``generate``: one ``multinomial`` a token over
    all rows, those that have ended among them, until the last one ends.
    """
    heat = LogitsProcessorList()
    if temperature != 1.0:
        heat.append(TemperatureLogitsWarper(temperature))
    if top_p < 1.0:
        heat.append(TopPLogitsWarper(top_p))
    answers: list[list[int]] = [[] for _ in prompts]
    decoding = Decoding(model, prompts, min(ends))
    rows = list(range(len(prompts)))
    while True:
        shares = torch.softmax(heat(None, decoding.logits.float()), dim=-1)
        if len(rows) < len(prompts):  # any distribution will do for the others
            everyone = torch.ones(len(prompts), shares.shape[-1], device=shares.device)
            shares = everyone.index_copy_(0, torch.tensor(rows, device=shares.device), shares)
        tokens = torch.multinomial(shares, num_samples=1)[:, 0].tolist()
        for row in rows:
            answers[row].append(tokens[row])
        going = [i for i, row in enumerate(rows) if tokens[row] not in ends and len(answers[row]) < max_tokens]
        if not going:
            return answers
        ended = len(going) < len(rows)
        rows = [rows[i] for i in going]
        decoding.step([tokens[row] for row in rows], going if ended else None)


def greedy(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    max_tokens: int,
    batch: int,
    on_batch: Callable[[int], None] = lambda _: None,
) -> list[tuple[str, int]]:
    """The model's greedy answers and their lengths in tokens, computed in batches of like length.

    An answer has the ``<think>`` that the chat template opened for it. As in the engine, whose answers these stand
    for, the likeliest word is taken as it is: penalties in the model's generation config don't count.
    """
    texts = [
        tokenizer.apply_chat_template([asdict(m) for m in prompt], tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    opened, end = opening(tokenizer), tokenizer.eos_token_id
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    answers: dict[int, tuple[str, int]] = {}
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            asked = tokenizer([texts[i] for i in chosen], add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                found = _likeliest(Decoding(model, asked, end), [max_tokens] * len(asked), frozenset({end}))
            answers |= {i: (opened + decoded(tokenizer, t), len(t)) for i, t in zip(chosen, found, strict=True)}
            on_batch(len(answers))
    finally:
        model.train(was_training)
    return [answers[i] for i in range(len(texts))]


def likeliest(
    model: Any, prompts: Sequence[list[int]], rooms: Sequence[int], ends: frozenset[int], batch: int
) -> list[list[int]]:
    """The tokens of the model's greedy answer to each prompt, its end token included, in batches of like length.

    Args:
        model: in training or not; its mode is put back.
        prompts: tokens.
        rooms: tokens that each answer may have, at least 1.
        ends: what ends an answer.
        batch: prompts answered at once.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, list[int]] = {}
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            with torch.inference_mode():
                decoding = Decoding(model, [prompts[i] for i in chosen], min(ends))
                answers |= zip(chosen, _likeliest(decoding, [rooms[i] for i in chosen], ends), strict=True)
    finally:
        model.train(was_training)
    return [answers[i] for i in range(len(prompts))]


def _likeliest(decoding: Decoding, rooms: Sequence[int], ends: frozenset[int]) -> list[list[int]]:
    """Each row's tokens, the end token included, and no more than it has room for."""
    answers: list[list[int]] = [[] for _ in decoding.logits]
    rows = list(range(len(answers)))
    while True:
        tokens = decoding.logits.argmax(-1).tolist()
        for row, token in zip(rows, tokens, strict=True):
            answers[row].append(token)
        going = [i for i, row in enumerate(rows) if tokens[i] not in ends and len(answers[row]) < rooms[row]]
        if not going:
            return answers
        ended = len(going) < len(rows)
        rows = [rows[i] for i in going]
        decoding.step([tokens[i] for i in going], going if ended else None)
