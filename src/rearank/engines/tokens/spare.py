"""A second tokenizer for whoever isn't the engine."""

from __future__ import annotations

import copy
import threading
from typing import Any

from rearank.neutral import reserved_of


class SpareTokenizer:
    """A tokenizer's ``encode`` and ``decode`` for whoever cuts passages by tokens, in any thread.

    It works on a copy, made when first needed, as the original belongs to the engine's own thread.
    """

    def __init__(self, original: Any) -> None:
        self._original = original
        self._copy: Any = None
        self._lock = threading.Lock()
        self.reserved = reserved_of(original)
        """What prompts neutralise in passages and queries."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The text's tokens."""
        with self._lock:
            return list(self._spare().encode(text, add_special_tokens=add_special_tokens))

    def decode(self, token_ids: list[int]) -> str:
        """Their text."""
        with self._lock:
            return str(self._spare().decode(token_ids))

    def _spare(self) -> Any:
        if self._copy is None:
            self._copy = copy.deepcopy(self._original)
        return self._copy
