"""Ranking strategies over an async protocol: one query's list in, its ranking out. No engine is imported here.

``SlidingWindow`` the paper's strategy, with any number of passes (``plan_windows`` which positions a pass reads) ·
``FullList`` one call · ``TopDown`` a pivot, then all others against it at once · ``Setwise`` a heap of sets ·
``Pairwise`` bubble sort · ``Pointwise`` each passage alone · ``Tournament`` groups and points · ``SelfConsistency``
several samples of any of these, merged · ``Fused`` any of these merged with the first stage · ``misfits`` whether
strategy and prompt go together · ``rerank_all`` every query at once · ``rerank_stream`` the same, of more queries than
memory holds.
"""

from rearank.ranking.base import AbortRunError, Planned, Ranker, Resamples, SaysWhatItReads, Scorer, Strategy
from rearank.ranking.fit import misfits
from rearank.ranking.full_list import FullList
from rearank.ranking.fused import Fused
from rearank.ranking.pairwise import Pairwise
from rearank.ranking.plan import plan_windows
from rearank.ranking.pointwise import Pointwise
from rearank.ranking.schedule import Failure, rerank_all, rerank_stream
from rearank.ranking.self_consistency import SelfConsistency
from rearank.ranking.setwise import Setwise
from rearank.ranking.sliding import SlidingWindow
from rearank.ranking.top_down import TopDown
from rearank.ranking.tournament import Tournament

__all__ = [
    "AbortRunError",
    "Failure",
    "FullList",
    "Fused",
    "Pairwise",
    "Planned",
    "Pointwise",
    "Ranker",
    "Resamples",
    "SaysWhatItReads",
    "Scorer",
    "SelfConsistency",
    "Setwise",
    "SlidingWindow",
    "Strategy",
    "TopDown",
    "Tournament",
    "misfits",
    "plan_windows",
    "rerank_all",
    "rerank_stream",
]
