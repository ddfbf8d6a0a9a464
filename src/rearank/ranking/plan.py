"""Which windows a pass reads."""

from __future__ import annotations


def plan_windows(n: int, size: int, step: int) -> list[range]:
    """Windows of positions over a list of ``n``, bottom first, covering every position for every ``n`` >= 1.

    Each window starts ``step`` above the one before; the last is moved down where needed so that it starts at the
    top exactly. (The original loop drops the top of the list whenever ``n - size`` is no multiple of ``step``, and
    plans nothing for ``n < size``.) 100, 20, 10 gives nine windows.

    Args:
        n: length of the list, at least 0.
        size: passages a window, at least 2 where there is anything to reorder.
        step: how far a window moves, 1 to ``size``.

    Returns:
        Ranges of 0-based positions, each ``min(n, size)`` long; none for ``n`` = 0.

    Raises:
        ValueError: naming the parameter that is out of range.
    """
    if n < 0:
        raise ValueError(f"a list can't have {n} passages")
    check_plan(size, step)
    if n == 0:
        return []
    starts = list(range(max(n - size, 0), 0, -step))
    return [range(start, min(start + size, n)) for start in (*starts, 0)]


def check_plan(size: int, step: int) -> None:
    """Raises ``ValueError`` naming the parameter that is out of range; see ``plan_windows``."""
    if size < 2:
        raise ValueError(f"size is the number of passages in a window and must be at least 2, not {size}")
    if not 1 <= step <= size:
        raise ValueError(f"step must lie between 1 and size ({size}) or passages are skipped, not {step}")
