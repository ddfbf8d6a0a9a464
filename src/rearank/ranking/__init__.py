"""Ranking strategies over an async protocol: one query's list in, its ranking out. No engine is imported here.

``plan_windows`` which positions a pass reads · ``SlidingWindow`` the paper's strategy, with any number of passes ·
``rerank_all`` every query at once.
"""

from rearank.ranking.base import Ranker, Strategy
from rearank.ranking.plan import plan_windows
from rearank.ranking.schedule import AbortRunError, Failure, rerank_all
from rearank.ranking.sliding import SlidingWindow

__all__ = ["AbortRunError", "Failure", "Ranker", "SlidingWindow", "Strategy", "plan_windows", "rerank_all"]
