"""Setwise ranking with heapsort: ask for the best of a set, and let a heap remember what was learned.

Source: Zhuang, Zhuang, Koopman, Zuccon, *A Setwise Approach for Effective and Highly Efficient Zero-shot Ranking with
Large Language Models*, SIGIR 2024 (arXiv 2310.09497).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from rearank.checks import check_fields
from rearank.ranking.base import Ranker, Reads, ranking, together
from rearank.types import Passage, Query, Ranking, Window


@dataclass(frozen=True)
class Setwise:
    """Find the best ``k`` in a heap in which each passage has ``children`` below it.

    One call shows a passage and its children and moves the best of them up: the first of the ranker's order, so that
    a prompt for the best alone (``prompt=setwise``) is enough, and one for a ranking works too. Where a child wins,
    the passage goes on down in its place. The best ``k`` come first, the others follow in their given order. Sets far
    from one another in the heap are asked about at the same time, which changes no answer: the source asks one by one.

    With ``h(i, n)`` the number of passages on the way from the heap's node ``i`` down its first children that have
    children themselves, in a heap of ``n``, the most calls a query are the sum of ``h(i, n)`` over all nodes (to build
    the heap) and of ``h(0, n - 1), ..., h(0, n - k + 1)`` (to restore it after each of the best is taken); about
    ``n / children + k log(n) / log(children)``. The chain has the same second part and, for the first, ``h`` summed
    along the root's first children alone. 100 passages, 10 wanted: at most 25 calls with 19 children (a chain of 21),
    85 with 3 (a chain of 46). Answers that let a passage stay where it is save calls.
    """

    children: Annotated[int, Ge(2)] = 19
    k: Annotated[int, Ge(1)] = 10

    reads: ClassVar[Reads] = "best"

    def __post_init__(self) -> None:
        check_fields(self)

    def calls(self, n: int) -> int:
        """The most calls a list of ``n`` takes."""
        return sum(self._height(i, n) for i in range(self._parents(n))) + self._mending(n)

    def chain(self, n: int) -> int:
        """The most calls that wait for one another."""
        building, node = 0, 0
        while node < self._parents(n):
            building += self._height(node, n)
            node = node * self.children + 1
        return building + self._mending(n)

    def _parents(self, n: int) -> int:
        """How many nodes of a heap of ``n`` have children: the first so many."""
        return (n - 2) // self.children + 1 if n > 1 else 0

    def _height(self, node: int, n: int) -> int:
        """Nodes with children from ``node`` down its first children, the longest way down: sets a passage can lose."""
        height = 0
        while node < self._parents(n):
            node = node * self.children + 1
            height += 1
        return height

    def _mending(self, n: int) -> int:
        return sum(self._height(0, n - taken) for taken in range(1, min(self.k, n)))

    async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Ranker) -> Ranking:
        """The best ``k`` of ``query``'s list, then the rest as given; what ``ranker`` raises passes through."""
        heap = list(candidates)
        calls = 0

        async def sink(node: int) -> None:
            """Let the passage at ``node`` down to where it is the best of its set."""
            nonlocal calls
            while first := list(range(node * self.children + 1, min((node + 1) * self.children + 1, len(heap)))):
                places = [node, *first]
                calls += 1
                order = await ranker.order(Window(query, tuple(heap[i] for i in places)))
                best = places[order.order[0]]
                if best == node:
                    return
                heap[node], heap[best] = heap[best], heap[node]
                node = best

        async def build(node: int) -> None:
            """Make a heap of ``node`` and all below it; its children's heaps are made side by side."""
            below = range(node * self.children + 1, min((node + 1) * self.children + 1, self._parents(len(heap))))
            await together(build(child) for child in below)
            await sink(node)

        await build(0)
        best: list[Passage] = []
        while heap and len(best) < self.k:
            best.append(heap[0])
            last = heap.pop()
            if heap and len(best) < self.k:
                heap[0] = last
                await sink(0)
        taken = {passage.id for passage in best}
        return ranking(query, (*best, *(p for p in candidates if p.id not in taken)), calls)
