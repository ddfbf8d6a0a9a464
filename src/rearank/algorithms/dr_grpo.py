"""Dr. GRPO's advantage (Liu et al. 2025, arXiv 2503.20783)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rearank.algorithms.groups import Floats, mean_of_group


def centred(rewards: Floats, groups: NDArray[np.generic]) -> Floats:
    """``r - mean`` of the answers to the same window: windows that are nearly solved or hopeless weigh no more."""
    return np.asarray(rewards - mean_of_group(rewards, groups)[0])
