"""An algorithm: rewards of sampled answers -> how much better each is than was to be expected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rearank.algorithms import Advantage, Floats, PolicyGradient


@dataclass(frozen=True)
class Placed(PolicyGradient):
    """An answer's place among the answers to its window, from -1 (the worst) to 1: no outlier counts for more."""

    advantage: Advantage = "own"

    def advantages(self, rewards: Floats, groups: NDArray[np.generic]) -> Floats:
        """Equal rewards share their mean place: a group in which all earn the same teaches nothing."""
        found = np.zeros_like(rewards)
        for group in np.unique(groups):
            here = groups == group
            own = rewards[here]
            better = (own[:, None] > own[None, :]).sum(1) - (own[:, None] < own[None, :]).sum(1)
            found[here] = better / max(len(own) - 1, 1)
        return found
