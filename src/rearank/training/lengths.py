"""Prompts in tokens, with the model's own tokenizer, before anything is started."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from rearank.engines.base import turns
from rearank.engines.template import Frame, refusal
from rearank.progress import progress
from rearank.training.base import TrainingError, TrainingJob
from rearank.training.rows import TrainingRow, chats, guarded
from rearank.types import Message

_BATCH = 256
_NAMED = 5  # rows in a warning
_WORDS = "let other words stand before and behind {passage} and {query} in the prompt, and run task=prepare rerun=true"
_log = logging.getLogger(__name__)


def prompt_lengths(tokenizer: Any, rows: Sequence[TrainingRow], what: str) -> list[int]:
    """Tokens of each row's prompt as the model sees it, chat template included.

    Raises:
        TrainingError: where the model's chat template refuses a row's prompt; the message says what to set.
    """
    return [len(tokens) for tokens in _prompts(tokenizer, rows, what)]


def _prompts(tokenizer: Any, rows: Sequence[TrainingRow], what: str) -> Iterator[Sequence[int]]:
    """``prompt_lengths``' tokens themselves."""
    parallel = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # batches are spread over the cores
    try:
        with progress(f"measuring {what} prompts", len(rows), "windows") as shown:
            for start in range(0, len(rows), _BATCH):
                batch = chats(rows[start : start + _BATCH])
                try:
                    texts = tokenizer.apply_chat_template(batch, tokenize=False, add_generation_prompt=True)
                except Exception:
                    check_template(tokenizer, rows[start : start + _BATCH])
                    raise
                yield from _encoded(tokenizer, texts)
                shown.advance(len(batch))
    finally:
        if parallel is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = parallel


def check_template(tokenizer: Any, rows: Sequence[TrainingRow]) -> None:
    """Raises ``TrainingError`` at the first prompt that the model's chat template refuses."""

    def render(messages: Sequence[Message]) -> object:
        return tokenizer.apply_chat_template(turns(messages), tokenize=False, add_generation_prompt=True)

    for row in rows:
        if (reason := refusal(render, row.prompt)) is not None:
            raise TrainingError(reason)


def _encoded(tokenizer: Any, texts: Sequence[str]) -> Iterator[Sequence[int]]:
    if getattr(tokenizer, "is_fast", False):  # without the offsets that nobody asks for
        encoded = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return (one.ids for one in encoded)
    return iter(tokenizer(list(texts), add_special_tokens=False)["input_ids"])


def context_of(job: TrainingJob) -> int | None:
    """Tokens that the model can read and write; ``None`` where its config doesn't say."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(job.model, revision=job.revision)
    return int(getattr(config, "max_position_embeddings", 0) or 0) or None


def rows_that_fit(
    tokenizer: Any, rows: Sequence[TrainingRow], what: str, most: int | None, limit: str, remedy: str = ""
) -> list[TrainingRow]:
    """The rows, guarded, with prompts that hold no stray token of the model's and are no longer than ``most``.

    Others are left out, with a warning.

    Args:
        tokenizer: the model's.
        rows: to measure.
        what: for messages: "training".
        most: tokens of a prompt; ``None`` for any number.
        limit: what sets it.
        remedy: besides shorter prompts.

    Raises:
        TrainingError: where rows were given and none is left.
    """
    rows = guarded(rows, tokenizer)
    sound = _sound(tokenizer, rows, what) if rows else []
    kept = [row for row, length in sound if most is None or length <= most]
    advice = f"{remedy}shorten passages (prompt.max_characters) or windows (augmentation.size)"
    measured = [length for _, length in sound]
    if rows and not kept:
        raise TrainingError(f"every {what} prompt ({min(measured)} tokens at least) is longer than {limit}; {advice}")
    if len(kept) < len(sound):
        left = len(sound) - len(kept)
        left_out = (left, len(sound), what, max(measured), limit, advice)
        _log.warning("%d of %d %s windows left out: their prompts (up to %d tokens) are longer than %s; %s", *left_out)
    return kept


def _sound(tokenizer: Any, rows: Sequence[TrainingRow], what: str) -> list[tuple[TrainingRow, int]]:
    """The rows whose prompts hold the special and added tokens that they are to hold, each with its length in tokens.

    A verbatim prompt (without ``wording``) may hold any. Raises ``TrainingError`` where no row is left.
    """

    def encode(messages: tuple[Message, ...]) -> list[int]:
        text = tokenizer.apply_chat_template(turns(messages), tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    frame, sound, strays = Frame(tokenizer, encode), [], []
    for row, tokens in zip(rows, _prompts(tokenizer, rows, what), strict=True):
        if row.wording is not None and (token := frame.stray(row.prompt, tokens)) is not None:
            strays.append(f"row {row.index} (query {row.judged.window.query.id}): {token!r}")
        else:
            sound.append((row, len(tokens)))
    if strays:
        named = "; ".join([*strays[:_NAMED], *(["..."] if len(strays) > _NAMED else [])])
        cause = f"a text and the model's chat template together make or hide a token of the model's: {named}; {_WORDS}"
        if not sound:
            raise TrainingError(f"every {what} row of {rows[0].data_source}, prepared/{rows[0].split}.parquet: {cause}")
        _log.warning("%d of %d %s windows left out: %s", len(strays), len(rows), what, cause)
    return sound
