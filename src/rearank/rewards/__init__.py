"""Rewards, one variant a file: a completion and a judged window -> a score with a named breakdown.

``ndcg`` the paper's (share of the reachable improvement) · ``absolute`` and ``difference`` its ablations ·
``multiview`` ReasonRank's terms · ``exact`` Rank-R1's idea. Exactly as their authors' code pays, loose rules included:
``rearank_authors`` · ``reasonrank`` · ``rank_r1``. ``length`` is what any of them may take off long answers. To
add one, subclass :class:`Reward` in a file of your own and point a yaml's ``_target_`` at it.

A reward that has a method ``score_group`` (:class:`SeesGroup`) is given all sampled answers to a window at once while a
model is trained, and may pay an answer for what the others lack. One whose total is never below 0 says so by
``never_negative``, since ``algorithm=maxrl`` takes no other.
"""

from rearank.rewards.absolute import AbsoluteReward
from rearank.rewards.base import (
    Measured,
    NotFiniteError,
    Reward,
    RewardBreakdown,
    RewardError,
    RewardFunction,
    SeesGroup,
    score,
    score_groups,
)
from rearank.rewards.difference import DifferenceReward
from rearank.rewards.exact import ExactReward
from rearank.rewards.length import LengthPenalty
from rearank.rewards.multiview import MultiviewReward
from rearank.rewards.ndcg import NdcgReward
from rearank.rewards.rank_r1 import RankR1Reward
from rearank.rewards.rearank_authors import RearankAuthorsReward
from rearank.rewards.reasonrank import ReasonRankReward

__all__ = [
    "AbsoluteReward",
    "DifferenceReward",
    "ExactReward",
    "LengthPenalty",
    "Measured",
    "MultiviewReward",
    "NdcgReward",
    "NotFiniteError",
    "RankR1Reward",
    "RearankAuthorsReward",
    "ReasonRankReward",
    "Reward",
    "RewardBreakdown",
    "RewardError",
    "RewardFunction",
    "SeesGroup",
    "score",
    "score_groups",
]
