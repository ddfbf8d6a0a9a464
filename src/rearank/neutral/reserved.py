"""What a tokenizer makes special or added tokens of: their own texts, and what it has no other token for."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_UTF8 = ("utf-8", "surrogatepass")
_AS_THEY_ARE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
"""Bytes that byte-level vocabularies write as the character of that number; the others follow from 256 on."""
_OTHERS = sorted({*range(256)} - {*_AS_THEY_ARE})
_SIGNS = {byte: chr(byte) for byte in _AS_THEY_ARE} | {byte: chr(256 + place) for place, byte in enumerate(_OTHERS)}


@dataclass(frozen=True)
class Reserved:
    """The added tokens of a tokenizer: those that it looks for in a text as it is, and in the normalised one.

    Some tokenizers read all that their vocabulary can't spell as a token that is more than unknown: the one that ends a
    text, say. ``missing`` are the bytes that a byte-level vocabulary lacks. ``pieces`` finds the places in a text for
    any other tokenizer.
    """

    exact: tuple[str, ...] = ()
    normalised: tuple[str, ...] = ()
    missing: tuple[int, ...] = ()
    pieces: Callable[[str], list[tuple[int, int]]] | None = None

    def __hash__(self) -> int:
        return hash((len(self.exact), self.exact[:1], self.normalised[:1]))  # it is a key of each passage's cache

    def unspelt(self, text: str) -> list[tuple[int, int]]:
        """Where ``text`` has what the tokenizer reads as a control token for want of another; in order, apart."""
        if self.pieces is not None:
            return self.pieces(text)
        if not self.missing:
            return []
        absent, data = bytes(self.missing), text.encode(*_UTF8)
        if len(data.translate(None, absent)) == len(data):
            return []
        return [(i, i + 1) for i, c in enumerate(text) if not set(c.encode(*_UTF8)).isdisjoint(absent)]

    def stored(self) -> dict[str, Any]:
        """For JSON; ``pieces`` says only that there is such a function, and that the tokenizer itself is needed."""
        found: dict[str, Any] = {"exact": self.exact, "normalised": self.normalised}
        if self.missing:
            found["missing"] = self.missing
        if self.pieces is not None:
            found["pieces"] = True
        return found


@dataclass(frozen=True)
class Reserving:
    """Stands for a tokenizer of which the added tokens alone are known."""

    reserved: Reserved

    @classmethod
    def of(cls, stored: Mapping[str, Sequence[Any]] | None) -> Reserving | None:
        """From the JSON of a ``Reserved``."""
        if stored is None:
            return None
        return cls(Reserved(tuple(stored["exact"]), tuple(stored["normalised"]), tuple(stored.get("missing", ()))))


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Where a tokenizer finds its unknown token. The tokenizer is a copy: any thread may use it."""

    raw: Any
    unknown: int

    def __call__(self, text: str) -> list[tuple[int, int]]:
        encoded = self.raw.encode(text, add_special_tokens=False)
        if self.unknown not in encoded.ids:
            return []
        found: list[tuple[int, int]] = []
        for token, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
            start = max(start, found[-1][1] if found else 0)
            if token == self.unknown and start < end:
                found.append((start, end))
        return found


def reserved_of(tokenizer: Any) -> Reserved | None:
    """What ``tokenizer`` makes special or added tokens of; ``None`` for an engine without one, or one that hides it.

    A tokenizer may say it itself (``reserved``); those of ``transformers`` and ``tokenizers`` have lists. White space
    that was added to a vocabulary stays as it is, and so do plain words and single characters that aren't special.
    """
    if tokenizer is None or isinstance(said := getattr(tokenizer, "reserved", None), Reserved):
        return None if tokenizer is None else said
    try:
        return _listed(tokenizer)
    except TypeError:  # it can't be hashed
        return _listed.__wrapped__(tokenizer)


def plain_unknown(tokenizer: Any) -> str | None:
    """The token of all that the vocabulary can't spell, where it is nothing more: it may stand anywhere in a text."""
    unknown = _unknown(tokenizer)
    return None if unknown is None or _is_control(tokenizer, unknown) else unknown


@lru_cache(maxsize=4)
def _listed(tokenizer: Any) -> Reserved | None:
    added = _added(tokenizer)
    if added is None:
        return None
    exact: list[str] = []
    normalised: list[str] = []
    for token in added.values():
        text = token.content
        word = len(text) == 1 or text.replace(" ", "").isalnum()
        if not text.strip(" \t\r\n▁") or (word and not token.special):
            continue
        (normalised if token.normalized else exact).append(text)
    return Reserved(tuple(exact), tuple(normalised), *_unspelt(tokenizer))


def _added(tokenizer: Any) -> Mapping[int, Any] | None:
    added: Mapping[int, Any] | None = getattr(tokenizer, "added_tokens_decoder", None)
    if added is None and hasattr(tokenizer, "get_added_tokens_decoder"):
        added = tokenizer.get_added_tokens_decoder()
    return added


def _model(tokenizer: Any) -> tuple[Any, Any]:
    """(the tokenizer of ``tokenizers`` behind one, its model); ``None`` twice for one that has none."""
    raw = getattr(tokenizer, "backend_tokenizer", tokenizer)
    return (raw, raw.model) if hasattr(raw, "token_to_id") and hasattr(raw, "model") else (None, None)


def _unknown(tokenizer: Any) -> str | None:
    """The text of the token that stands for what the vocabulary lacks; ``None`` where such text is dropped."""
    raw, model = _model(tokenizer)
    if raw is None:
        return getattr(tokenizer, "unk_token", None)
    if hasattr(model, "unk_token"):
        return None if model.unk_token is None else str(model.unk_token)
    place = json.loads(model.__getstate__()).get("unk_id")  # a unigram model's
    return None if place is None else raw.id_to_token(place)


def _is_control(tokenizer: Any, unknown: str) -> bool:
    """Whether a tokenizer's unknown token is also one that begins, ends, pads or parts what the model reads."""
    named = getattr(tokenizer, "special_tokens_map", {})
    if unknown in [str(token) for name, token in named.items() if name != "unk_token"]:
        return True
    if unknown in str(getattr(tokenizer, "chat_template", None) or ""):
        return True
    added = {token.content for token in (_added(tokenizer) or {}).values()}
    return unknown in added and "unk" not in unknown.lower()


def _unspelt(tokenizer: Any) -> tuple[tuple[int, ...], _Pieces | None]:
    """A ``Reserved``'s ``missing`` and ``pieces``."""
    raw, model = _model(tokenizer)
    unknown = _unknown(tokenizer)
    if raw is None or unknown is None or not _is_control(tokenizer, unknown):
        return (), None
    vocabulary = raw.get_vocab(with_added_tokens=False)
    kind = json.loads(model.__getstate__()) if type(model).__name__ in ("BPE", "Unigram") else {}
    if kind.get("byte_fallback") and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256)):
        return (), None
    if kind.get("type") == "BPE" and _has_bytes(raw.pre_tokenizer):
        missing = tuple(byte for byte, sign in _SIGNS.items() if sign not in vocabulary)
        affixes = kind.get("continuing_subword_prefix") or kind.get("end_of_word_suffix") or kind.get("byte_fallback")
        changes = raw.normalizer is not None and json.loads(raw.normalizer.__getstate__()).get("normalizers") != []
        if not missing or not (affixes or changes):
            return missing, None
    spare = copy.deepcopy(raw)
    spare.no_truncation()
    spare.no_padding()
    return (), _Pieces(spare, raw.token_to_id(unknown))


def _has_bytes(step: Any) -> bool:
    """Whether a pre-tokenizer writes bytes as signs."""
    return step is not None and b'"ByteLevel"' in step.__getstate__()
