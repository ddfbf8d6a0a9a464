"""Collections, first stages and the files they come in.

``base`` says what a collection and a retriever are; ``trec``, ``beir``, ``irds``, ``rankllm`` and ``synthetic`` are
collections; ``bm25``, ``trec.RunFile``, ``irds.ScoredDocs`` and ``rankllm.RankLlmCandidates`` first stages; ``source``
joins them into what training and evaluation read.
"""

from rearank.data.base import Collection, DataError, HasScoredDocs, Retriever
from rearank.data.source import Joined, JudgedCandidates, JudgedSource, Source

__all__ = [
    "Collection",
    "DataError",
    "HasScoredDocs",
    "Joined",
    "JudgedCandidates",
    "JudgedSource",
    "Retriever",
    "Source",
]
