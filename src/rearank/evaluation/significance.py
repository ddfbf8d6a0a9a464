"""How sure a difference is: bootstrap intervals and paired tests over queries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class PairedTest:
    """``b - a`` over the same queries. p-values are two-sided: Student's t, and by random sign flips."""

    queries: int
    mean_difference: float
    t: float
    p_value: float
    p_randomisation: float
    wins: int
    ties: int
    losses: int

    def as_json(self) -> dict[str, float | None]:
        """For a JSON file, which has no infinity: ``t`` is ``None`` where all differences are the same."""
        return {**asdict(self), "t": self.t if math.isfinite(self.t) else None}


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean.

    Raises:
        ValueError: without values, for one that isn't finite, or for a level outside (0, 1).
    """
    import numpy as np

    if len(values) == 0:
        raise ValueError("a confidence interval needs at least one value")
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, not {level}")
    sample = np.asarray(values, dtype=np.float64)
    if not np.isfinite(sample).all():
        raise ValueError(f"{(~np.isfinite(sample)).sum()} of {len(sample)} values are not finite: their mean is none")
    rng = np.random.default_rng(seed)
    # In blocks: 10,000 resamples of 7,000 queries at once would take half a gigabyte.
    block = max(1, 2_000_000 // len(sample))
    means = np.concatenate(
        [
            sample[rng.integers(0, len(sample), (min(block, resamples - start), len(sample)))].mean(axis=1)
            for start in range(0, resamples, block)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(
    a: Mapping[str, float], b: Mapping[str, float], *, permutations: int = 10_000, seed: int = 0
) -> PairedTest:
    """Compare two systems query by query.

    Args:
        a: query id -> value of the baseline.
        b: the same queries' values of the other system.
        permutations: sign flips drawn; the randomisation p-value is never below 1 / (permutations + 1).

    Raises:
        ValueError: unless both hold the same queries, two at least, and finite values.
    """
    import numpy as np
    from scipy import stats

    if a.keys() != b.keys():
        odd = sorted(a.keys() ^ b.keys())[:3]
        raise ValueError(f"paired tests need the same queries on both sides; only one has {', '.join(odd)}")
    if len(a) < 2:
        raise ValueError(f"a paired test needs at least two queries, not {len(a)}")
    if odd := [q for q in sorted(a) if not (math.isfinite(a[q]) and math.isfinite(b[q]))]:
        raise ValueError(f"query {odd[0]!r} has a value that is not finite: {a[odd[0]]} and {b[odd[0]]}")
    difference = np.array([b[q] - a[q] for q in sorted(a)], dtype=np.float64)
    mean = float(difference.mean())
    spread = float(difference.std(ddof=1))
    if spread == 0.0:
        # The same difference everywhere: t is 0/0, or infinite.
        t, p = (0.0, 1.0) if mean == 0.0 else (float(np.copysign(np.inf, mean)), 0.0)
    else:
        t = mean / (spread / len(difference) ** 0.5)
        p = float(2 * stats.t.sf(abs(t), len(difference) - 1))
    rng = np.random.default_rng(seed)
    extreme = 0
    block = max(1, 2_000_000 // len(difference))
    for start in range(0, permutations, block):
        signs = rng.integers(0, 2, (min(block, permutations - start), len(difference)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs((signs * difference).mean(axis=1)) >= abs(mean) - 1e-12).sum())
    return PairedTest(
        queries=len(difference),
        mean_difference=mean,
        t=float(t),
        p_value=p,
        p_randomisation=(extreme + 1) / (permutations + 1),
        wins=int((difference > 0).sum()),
        ties=int((difference == 0).sum()),
        losses=int((difference < 0).sum()),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for having made all of these comparisons, in the order given (Holm 1979, step-down).

    Rejecting where the corrected value is below alpha keeps the chance of one false finding or more below alpha,
    whatever the comparisons have to do with one another. Raises ``ValueError`` for a value outside [0, 1].
    """
    if bad := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"a p-value must lie in [0, 1], not {bad[0]}")
    # Six lines rather than statsmodels' multipletests, which gives the same digits (a test holds that): it would bring
    # pandas, patsy and formulaic into every installation, and take most of a second to import. scipy has no Holm.
    corrected = [0.0] * len(p_values)
    floor = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = floor
    return corrected
