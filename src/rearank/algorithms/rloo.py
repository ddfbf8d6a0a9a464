"""RLOO's advantage (Ahmadian et al. 2024, arXiv 2402.14740)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rearank.algorithms.groups import Floats, mean_of_group


def leave_one_out(rewards: Floats, groups: NDArray[np.generic]) -> Floats:
    """``r`` less the mean of the *other* answers to the same window; 0 where there is no other.

    Computed as ``(r - mean) n / (n - 1)``, which is the same. (verl's own leaves a single answer's reward as it is.)
    """
    mean, size = mean_of_group(rewards, groups)
    return np.asarray((rewards - mean) * (size / np.maximum(size - 1, 1)))
