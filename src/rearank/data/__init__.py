"""Collections, first stages and the files they come in.

``base`` says what a collection and a retriever are; ``trec``, ``beir``, ``irds``, ``bright``, ``rankllm`` and
``synthetic`` are collections; ``bm25``, ``pyserini``, ``trec.RunFile``, ``irds.ScoredDocs`` and
``rankllm.RankLlmCandidates`` first stages; ``source`` joins them into what training and evaluation read.
"""

from rearank.data.base import Collection, DataError, Fits, HasScoredDocs, Retriever
from rearank.data.source import Joined, JudgedCandidates, JudgedSource, Judgements, Source, split_judgements

__all__ = [
    "Collection",
    "DataError",
    "Fits",
    "HasScoredDocs",
    "Joined",
    "JudgedCandidates",
    "JudgedSource",
    "Judgements",
    "Retriever",
    "Source",
    "split_judgements",
]
