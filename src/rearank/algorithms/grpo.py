"""GRPO's advantage (Shao et al. 2024, arXiv 2402.03300; paper section 3), which DAPO and GSPO share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rearank.algorithms.groups import Floats, mean_of_group

EPSILON = 1e-4


def group(rewards: Floats, groups: NDArray[np.generic]) -> Floats:
    """``(r - mean) / (std + 1e-4)``, mean and unbiased standard deviation of the answers to the same window.

    A group of one answer has nothing to be compared with and gets 0. The 1e-4 is TRL's; verl's own estimator adds 1e-6
    (and the paper nothing), so that groups whose rewards hardly differ weigh a little more there.
    """
    mean, size = mean_of_group(rewards, groups)
    centred = rewards - mean
    variance = mean_of_group(centred**2, groups)[0] * (size / np.maximum(size - 1, 1))
    return np.asarray(centred / (np.sqrt(variance) + EPSILON))
