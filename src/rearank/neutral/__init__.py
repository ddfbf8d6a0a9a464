"""Untrusted text -> the same words, without the power to be more than words.

``reserved`` is what a tokenizer makes special tokens of, ``text`` takes that out of what a prompt shows.
"""

from rearank.neutral.reserved import Reserved, Reserving, plain_unknown, reserved_of
from rearank.neutral.text import joined, neutralise, without_tokens

__all__ = ["Reserved", "Reserving", "joined", "neutralise", "plain_unknown", "reserved_of", "without_tokens"]
