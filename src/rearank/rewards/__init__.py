"""Rewards, one variant a file: a completion and a judged window -> a score with a named breakdown.

``ndcg`` the paper's (share of the reachable improvement) · ``absolute`` and ``difference`` its ablations ·
``multiview`` ReasonRank's · ``exact`` Rank-R1's. To add one, subclass :class:`Reward` in a file of your own and point a
yaml's ``_target_`` at it.
"""

from rearank.rewards.absolute import AbsoluteReward
from rearank.rewards.base import Measured, Reward, RewardBreakdown
from rearank.rewards.difference import DifferenceReward
from rearank.rewards.exact import ExactReward
from rearank.rewards.multiview import MultiviewReward
from rearank.rewards.ndcg import NdcgReward

__all__ = [
    "AbsoluteReward",
    "DifferenceReward",
    "ExactReward",
    "Measured",
    "MultiviewReward",
    "NdcgReward",
    "Reward",
    "RewardBreakdown",
]
