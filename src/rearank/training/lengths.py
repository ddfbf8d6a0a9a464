"""Prompts in tokens, with the model's own tokenizer, before anything is started."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from rearank.engines.base import turns
from rearank.engines.template import refusal
from rearank.progress import progress
from rearank.training.base import TrainingError, TrainingJob
from rearank.training.rows import TrainingRow, chats
from rearank.types import Message

_BATCH = 256
_log = logging.getLogger(__name__)


def prompt_lengths(tokenizer: Any, rows: Sequence[TrainingRow], what: str) -> list[int]:
    """Tokens of each row's prompt as the model sees it, chat template included.

    Raises:
        TrainingError: where the model's chat template refuses a row's prompt; the message says what to set.
    """
    parallel = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # batches are spread over the cores
    lengths: list[int] = []
    try:
        with progress(f"measuring {what} prompts", len(rows), "windows") as shown:
            for start in range(0, len(rows), _BATCH):
                batch = chats(rows[start : start + _BATCH])
                try:
                    texts = tokenizer.apply_chat_template(batch, tokenize=False, add_generation_prompt=True)
                except Exception:
                    check_template(tokenizer, rows[start : start + _BATCH])
                    raise
                lengths += _lengths(tokenizer, texts)
                shown.advance(len(batch))
    finally:
        if parallel is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = parallel
    return lengths


def check_template(tokenizer: Any, rows: Sequence[TrainingRow]) -> None:
    """Raises ``TrainingError`` at the first prompt that the model's chat template refuses."""

    def render(messages: Sequence[Message]) -> object:
        return tokenizer.apply_chat_template(turns(messages), tokenize=False, add_generation_prompt=True)

    for row in rows:
        if (reason := refusal(render, row.prompt)) is not None:
            raise TrainingError(reason)


def _lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    if getattr(tokenizer, "is_fast", False):  # without the offsets that nobody asks for
        encoded = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(one.ids) for one in encoded]
    return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def context_of(job: TrainingJob) -> int | None:
    """Tokens that the model can read and write; ``None`` where its config doesn't say."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(job.model, revision=job.revision)
    return int(getattr(config, "max_position_embeddings", 0) or 0) or None


def rows_that_fit(
    tokenizer: Any, rows: Sequence[TrainingRow], what: str, most: int, limit: str, remedy: str = ""
) -> list[TrainingRow]:
    """The rows with prompts of at most ``most`` tokens; the others are counted and left out.

    Args:
        tokenizer: the model's.
        rows: to measure.
        what: for messages: "training".
        most: tokens of a prompt.
        limit: what sets it.
        remedy: besides shorter prompts.

    Raises:
        TrainingError: where rows were given and none is left.
    """
    measured = prompt_lengths(tokenizer, rows, what) if rows else []
    kept = [row for row, length in zip(rows, measured, strict=True) if length <= most]
    advice = f"{remedy}shorten passages (prompt.max_characters) or windows (augmentation.size)"
    if rows and not kept:
        raise TrainingError(f"every {what} prompt ({min(measured)} tokens at least) is longer than {limit}; {advice}")
    if len(kept) < len(rows):
        left = len(rows) - len(kept)
        left_out = (left, len(rows), what, max(measured), limit, advice)
        _log.warning("%d of %d %s windows left out: their prompts (up to %d tokens) are longer than %s; %s", *left_out)
    return kept
