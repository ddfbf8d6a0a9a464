"""REINFORCE++'s advantage (Hu et al. 2025, arXiv 2501.03262), for a reward that an answer earns as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rearank.algorithms.groups import Floats

EPSILON = 1e-8


def batch(rewards: Floats, groups: NDArray[np.generic]) -> Floats:
    """``(r - mean) / (std + 1e-8)`` over all answers of the step, whichever window they answer; 0 for a single one.

    Each answer counts once. verl's own estimator normalises the returns of tokens, so that a long answer counts more;
    where the KL is taken off each token's reward (``kl_in=reward``) an answer's tokens have different returns, which
    one number an answer can't say: there ``trainer=verl`` uses its own.
    """
    spread = rewards.std(ddof=1) if len(rewards) > 1 else 0.0
    return np.asarray((rewards - rewards.mean()) / (spread + EPSILON), rewards.dtype)
