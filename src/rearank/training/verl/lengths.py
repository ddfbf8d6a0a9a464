"""Prompts in tokens, with the model's own tokenizer, before anything is started."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from rearank.progress import progress
from rearank.training.base import TrainingError, TrainingJob
from rearank.training.rows import TrainingRow, chats
from rearank.training.verl.settings import Lengths

_BATCH = 256
_log = logging.getLogger(__name__)


def prompt_lengths(tokenizer: Any, rows: Sequence[TrainingRow], what: str) -> list[int]:
    """Tokens of each row's prompt as the model sees it, chat template included."""
    parallel = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # batches are spread over the cores
    lengths: list[int] = []
    try:
        with progress(f"measuring {what} prompts", len(rows), "windows") as shown:
            for start in range(0, len(rows), _BATCH):
                batch = chats(rows[start : start + _BATCH])
                texts = tokenizer.apply_chat_template(batch, tokenize=False, add_generation_prompt=True)
                lengths += _lengths(tokenizer, texts)
                shown.advance(len(batch))
    finally:
        if parallel is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = parallel
    return lengths


def _lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    if getattr(tokenizer, "is_fast", False):  # without the offsets that nobody asks for
        encoded = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(one.ids) for one in encoded]
    return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def rows_that_fit(
    job: TrainingJob, tokenizer: Any, rows: Sequence[TrainingRow], what: str, lengths: Lengths
) -> list[TrainingRow]:
    """The rows with prompts of at most ``lengths.prompt`` tokens; the others are counted and left out.

    Raises ``TrainingError`` where none is left, or prompt and answer together exceed the model's context.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(job.model, revision=job.revision)
    context = int(getattr(config, "max_position_embeddings", 0) or 0)
    if context and lengths.total > context:
        raise TrainingError(
            f"trainer.max_prompt_tokens ({lengths.prompt}) and model.max_tokens ({lengths.answer}) together exceed the "
            f"model's context of {context}; lower one of them"
        )
    measured = prompt_lengths(tokenizer, rows, what)
    kept = [row for row, length in zip(rows, measured, strict=True) if length <= lengths.prompt]
    advice = (
        "raise trainer.max_prompt_tokens, or shorten passages (prompt.max_characters) or windows (augmentation.size)"
    )
    if not kept:
        raise TrainingError(
            f"every {what} prompt ({min(measured)} tokens at least) is longer than trainer.max_prompt_tokens "
            f"({lengths.prompt}); {advice}"
        )
    if len(kept) < len(rows):
        _log.warning(
            "%d of %d %s windows left out: their prompts (up to %d tokens) exceed trainer.max_prompt_tokens=%d; %s",
            *(len(rows) - len(kept), len(rows), what, max(measured), lengths.prompt, advice),
        )
    return kept
