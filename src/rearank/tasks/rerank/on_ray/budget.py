"""One budget for all actors of a command."""

from __future__ import annotations

from pathlib import Path

from rearank.engines import CompletionStore


class Purse:
    """Knows what each actor spent. A Ray actor on the driver's machine.

    Args:
        earlier: US dollars that earlier commands spent in this run's folder.
    """

    def __init__(self, earlier: float) -> None:
        self._earlier = earlier
        self._spent: dict[str, float] = {}

    def exchange(self, who: str, dollars: float) -> float:
        """Note that ``who`` has spent ``dollars``; what everybody else has, with earlier commands."""
        self._spent[who] = dollars
        return self._earlier + sum(spent for one, spent in self._spent.items() if one != who)


def spent_in(answers: Path) -> float:
    """US dollars of all recorded answers in a folder of stores."""
    total = 0.0
    for path in answers.rglob("*.sqlite"):
        store = CompletionStore(path)
        total += store.cost()
        store.close()
    return total
