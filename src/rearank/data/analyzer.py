"""The tokens of Lucene's English analyzer, in Python; and words of any language.

English: Unicode words (UAX #29), possessive ``'s`` removed, lower case, Lucene's 33 stopwords removed, Porter's
stemmer in its author's own variant. bm25s's own tokenizer would drop one-letter words and stem otherwise, so that
scores would not compare with published BM25 runs.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

ANALYZER_VERSION = "lucene-english-1"
"""Part of the key of cached indexes: raise it whenever the tokens change."""

# fmt: off
STOPWORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
    "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
})
# fmt: on
_MAX_TOKEN = 255  # Lucene's StandardTokenizer cuts longer words into pieces of this length.
_POSSESSIVES = ("'s", "'S", "’s", "’S", "＇s", "＇S")
_CACHED_STEMS = 1 << 20


class _Tokens(dict[str, str]):
    """Piece of text -> its token, worked out on first sight: words repeat, and a dictionary's lookup runs in C."""

    def __init__(self, work_out: Callable[[str], str]) -> None:
        super().__init__()
        self._work_out = work_out

    def __missing__(self, piece: str) -> str:
        if len(self) >= _CACHED_STEMS:
            self.clear()
        token = self[piece] = self._work_out(piece)
        return token


class EnglishAnalyzer:
    """Callable: text -> tokens."""

    def __init__(self) -> None:
        import regex
        from nltk.stem.porter import PorterStemmer

        self._tokens = _Tokens(self._token)
        self._boundary: Any = regex.compile(r"\b", regex.WORD | regex.V1)
        self._word: Any = regex.compile(r"[\p{L}\p{N}]")
        self._stemmer: Any = PorterStemmer(mode=PorterStemmer.MARTIN_EXTENSIONS)

    def _token(self, piece: str) -> str:
        """The token of one segment between word boundaries; empty if it is none."""
        if not self._word.search(piece):
            return ""
        if piece.endswith(_POSSESSIVES):
            piece = piece[:-2]
        lower = piece.lower()
        return "" if lower in STOPWORDS else str(self._stemmer.stem(lower, to_lowercase=False))

    def __call__(self, text: str) -> list[str]:
        """The tokens of ``text``, in order, with repetitions."""
        pieces = self._boundary.split(text)
        if max(map(len, pieces), default=0) > _MAX_TOKEN:
            pieces = [p[i : i + _MAX_TOKEN] for p in pieces for i in range(0, len(p), _MAX_TOKEN)]
        return list(filter(None, map(self._tokens.__getitem__, pieces)))


@lru_cache(maxsize=1)
def english_analyzer() -> EnglishAnalyzer:
    """The analyzer that this process shares: a word is stemmed once, whether documents or queries hold it."""
    return EnglishAnalyzer()


_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー"
WORDS_VERSION = "words-1"


class WordAnalyzer:
    """Callable: text -> tokens, for any language: lower-cased words, nothing dropped and nothing stemmed.

    Where words aren't spaced (Chinese, Japanese, Thai, Lao, Khmer, Burmese) the tokens are overlapping pairs of
    characters, as in Lucene's CJK analyzer.
    """

    def __init__(self) -> None:
        import regex

        self._piece: Any = regex.compile(rf"([{_UNSPACED}]+)|[\p{{L}}\p{{N}}\p{{M}}--[{_UNSPACED}]]+", regex.V1)

    def __call__(self, text: str) -> list[str]:
        """The tokens of ``text``, in order, with repetitions."""
        tokens: list[str] = []
        for found in self._piece.finditer(unicodedata.normalize("NFKC", text).lower()):
            piece = found[0]
            if found[1] and len(piece) > 1:
                tokens += map(str.__add__, piece, piece[1:])
            else:
                tokens.append(piece)
        return tokens


@lru_cache(maxsize=1)
def word_analyzer() -> WordAnalyzer:
    """The one that this process shares."""
    return WordAnalyzer()
