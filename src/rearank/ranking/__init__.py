"""Ranking strategies over an async protocol: one query's list in, its ranking out. No engine is imported here.

``plan_windows`` which positions a pass reads · ``SlidingWindow`` the paper's strategy, with any number of passes.
"""

from rearank.ranking.base import Ranker, Strategy
from rearank.ranking.plan import plan_windows
from rearank.ranking.sliding import SlidingWindow

__all__ = ["Ranker", "SlidingWindow", "Strategy", "plan_windows"]
