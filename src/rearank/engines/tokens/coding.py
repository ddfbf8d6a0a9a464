"""Text <-> tokens by a model's tokenizer, without what its wrapper makes besides (masks, places): half of its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from rearank.parsing import is_mark


def encoded(tokenizer: Any, text: str) -> list[int]:
    """The tokens of ``text`` alone: those it spells, special ones among them, none put before or behind."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not _is_plain(type(tokenizer)):  # type: ignore[arg-type]  # a class is hashable
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    # What the wrapper sets before each of its calls: another use of the same tokenizer may have left it otherwise.
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    if backend.encode_special_tokens != tokenizer.split_special_tokens:
        backend.encode_special_tokens = tokenizer.split_special_tokens
    return list(backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)


def decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of an answer without special tokens, but for those that mark a reasoning (Mistral's ``[THINK]``)."""
    try:
        marks = _marks(tokenizer)
    except TypeError:  # it can't be hashed
        marks = _marks.__wrapped__(tokenizer)
    parts: list[str] = []
    start = 0
    for place in [place for place, token in enumerate(tokens) if token in marks] if marks else ():
        parts += [tokenizer.decode(tokens[start:place], skip_special_tokens=True), marks[tokens[place]]]
        start = place + 1
    return "".join([*parts, tokenizer.decode(tokens[start:], skip_special_tokens=True)])


@lru_cache(maxsize=4)
def _marks(tokenizer: Any) -> Mapping[int, str]:
    """Once for each tokenizer: some have thousands of added tokens."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {i: token.content for i, token in added.items() if token.special and is_mark(token.content)}


@lru_cache(maxsize=16)
def _is_plain(kind: type) -> bool:
    """Whether a class of tokenizers leaves the way from text to tokens as transformers has it."""
    from transformers import PreTrainedTokenizerFast

    return all(
        getattr(kind, name, None) is getattr(PreTrainedTokenizerFast, name) for name in ("__call__", "_encode_plus")
    )
