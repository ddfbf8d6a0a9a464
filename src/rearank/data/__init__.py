"""Collections, first stages and the files they come in.

``base`` says what a collection and a retriever are; ``trec``, ``beir``, ``irds``, ``bright``, ``rankllm`` and
``synthetic`` are collections; ``bm25``, ``pyserini``, ``trec.RunFile``, ``irds.ScoredDocs`` and
``rankllm.RankLlmCandidates`` first stages; ``source`` joins them into what training and evaluation read.
``rows`` is training data that comes as a table: graded passages, conversations, the authors' rows. ``coverage`` counts
what is missing.
"""

from rearank.data.base import Collection, DataError, Fits, HasScoredDocs, Retriever
from rearank.data.coverage import Coverage
from rearank.data.source import (
    HeldRows,
    HoldsRows,
    Joined,
    JudgedCandidates,
    JudgedSource,
    Judgements,
    PromptedWindow,
    Source,
    split_judgements,
)

__all__ = [
    "Collection",
    "Coverage",
    "DataError",
    "Fits",
    "HasScoredDocs",
    "HeldRows",
    "HoldsRows",
    "Joined",
    "JudgedCandidates",
    "JudgedSource",
    "Judgements",
    "PromptedWindow",
    "Retriever",
    "Source",
    "split_judgements",
]
