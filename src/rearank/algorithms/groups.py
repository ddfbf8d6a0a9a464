"""What advantages are made of: means over the answers to one window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def mean_of_group(values: Floats, groups: NDArray[np.generic]) -> tuple[Floats, Floats]:
    """For each answer the mean of its group, and how many answers that group has.

    Sums are taken answer by answer in the precision of ``values``, as torch takes those of up to eight numbers.

    Args:
        values: shape (answers,).
        groups: shape (answers,); answers to one window have the same id.

    Returns:
        Two arrays of shape (answers,), both of the type of ``values``.
    """
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums, sizes = np.zeros(len(counts), values.dtype), counts.astype(values.dtype)
    np.add.at(sums, group, values)
    return (sums / sizes)[group], sizes[group]
