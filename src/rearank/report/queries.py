"""One benchmark's queries as the page needs them: every figure, and for those that changed most every text.

What comes out is plain JSON. Systems and queries go by their place in lists, and each passage's text is there once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rearank.data import JudgedCandidates
from rearank.data.trec import read_run
from rearank.engines.tracing import WindowTrace
from rearank.metrics import ndcg
from rearank.report.replay import Replayed
from rearank.report.texts import cut, pieces
from rearank.runs.reader import Evaluated

_DIGITS = 4
_STRIP = 100  # places of a ranking whose grades are shown
_HIGHEST = 9  # grade that is shown apart
UNJUDGED = "-"


@dataclass
class Queries:
    """One benchmark's part of the page's data.

    ``texts``: query id -> text; ``judged``: its candidates and grades, empty where the collection isn't at hand.
    """

    benchmark: str
    systems: Sequence[Evaluated]
    texts: Mapping[str, str]
    judged: Mapping[str, JudgedCandidates]
    passage_characters: int
    counts: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    """System -> query -> calls, answers that weren't ``ok``, tokens, seconds."""
    notes: list[str] = field(default_factory=list)
    """What can't be shown, and why."""
    windows: dict[int, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    """System -> query -> windows, of the queries that are shown in full."""

    @property
    def ids(self) -> list[str]:
        """Of every query that some system has a value for, in the collection's order where it is known."""
        found = dict.fromkeys(query for one in self.systems for query in next(iter(one.values.values()), {}))
        known = [query for query in self.texts if query in found]
        return [*known, *(query for query in found if query not in self.texts)]

    def changed_most(self, most: int) -> list[str]:
        """The queries whose main measure some system changed most against the first of all; ties in given order."""
        if not self.systems:
            return []
        before, *others = [next(iter(one.values.values())) for one in self.systems if one.role != "ideal"]
        size = {q: max((abs(one[q] - before.get(q, 0.0)) for one in others if q in one), default=0.0) for q in self.ids}
        return sorted(size, key=lambda query: -size[query])[:most]

    def collects(self, system: int, full: frozenset[str], *, letters: bool) -> Callable[[Replayed], None]:
        """Takes one system's windows as they are replayed; only those of the queries ``full`` are kept with texts."""
        counts = self.counts.setdefault(system, {})
        windows = self.windows.setdefault(system, {})

        def tell(one: Replayed) -> None:
            bad = sum(trace.status is None or trace.status.value != "ok" for trace in one.windows)
            tokens = sum(trace.completion_tokens for trace in one.windows)
            seconds = sum(trace.seconds for trace in one.windows)
            before = counts.get(one.query_id, [0, 0, 0, 0.0])
            now = [len(one.windows), bad, tokens, round(seconds, 3)]
            counts[one.query_id] = [round(a + b, 3) for a, b in zip(before, now, strict=True)]
            if one.query_id in full:
                grades = self._grades(one.query_id)
                kept = windows.setdefault(one.query_id, [])
                kept += [_window(trace, one.sample, grades, letters) for trace in one.windows]

        return tell

    def figures(self) -> dict[str, Any]:
        """Every query's figures: aligned lists, a place a query."""
        ids = self.ids
        measures = list(dict.fromkeys(measure for one in self.systems for measure in one.values))
        return {
            "ids": ids,
            "texts": [self.texts.get(query, "") for query in ids],
            "values": {
                measure: [[_rounded(one.values.get(measure, {}).get(query)) for query in ids] for one in self.systems]
                for measure in measures
            },
            "strips": [self._strips(one, ids) for one in self.systems],
            "counts": [
                [self.counts[number].get(query) for query in ids] if self.counts.get(number) else None
                for number in range(len(self.systems))
            ],
            "full": [number for number, query in enumerate(ids) if self._shown(query)],
        }

    def passages(self) -> list[list[str]]:
        """Id, title and text of every passage that a window in full shows, once each."""
        return [
            [p.id, cut(p.title, self.passage_characters), cut(p.text, self.passage_characters)]
            for p in self._passages().values()
        ]

    def details(self) -> Iterable[tuple[int, dict[str, Any]]]:
        """(place among ``ids``, everything about it) of each query that is shown in full."""
        place = {passage_id: number for number, passage_id in enumerate(self._passages())}
        for number, query in enumerate(self.ids):
            if self._shown(query):
                candidates = self.judged[query].candidates.passages
                yield (
                    number,
                    {
                        "passages": [place[passage.id] for passage in candidates],
                        "grades": [self.judged[query].grades.get(passage.id) for passage in candidates],
                        "windows": [self.windows.get(s, {}).get(query) for s in range(len(self.systems))],
                    },
                )

    def keep(self, full: Sequence[str]) -> None:
        """Show these queries in full and no others."""
        kept = set(full)
        self.windows = {s: {q: w for q, w in found.items() if q in kept} for s, found in self.windows.items()}

    def _shown(self, query: str) -> bool:
        return query in self.judged and any(query in found for found in self.windows.values())

    def _passages(self) -> dict[str, Any]:
        return {
            passage.id: passage
            for query in self.ids
            if self._shown(query)
            for passage in self.judged[query].candidates.passages
        }

    def _grades(self, query: str) -> list[int]:
        """In first-stage order."""
        item = self.judged[query]
        return [max(int(item.grades.get(passage.id, 0)), 0) for passage in item.candidates.passages]

    def _strips(self, one: Evaluated, ids: Sequence[str]) -> list[str] | None:
        """The grades of each query's ranking from the top, a character each; of the first sample."""
        if not self.judged or not one.run_files:
            return None
        run = read_run(one.run_files[0])
        return [self._strip(query, run.get(query, ())) for query in ids]

    def _strip(self, query: str, ranked: Sequence[tuple[str, float]]) -> str:
        grades = self.judged[query].grades if query in self.judged else {}
        return "".join(
            str(min(max(int(grades[passage]), 0), _HIGHEST)) if passage in grades else UNJUDGED
            for passage, _ in ranked[:_STRIP]
        )


def _window(trace: WindowTrace, sample: int, grades: Sequence[int], letters: bool) -> dict[str, Any]:
    """``shown`` and ``order`` are places in the first stage's list; ``ndcg`` is the window's own, before and after."""
    before = [grades[index] for index in trace.shown]
    after = [grades[index] for index in trace.ordered or trace.shown]
    found: dict[str, Any] = {
        "shown": list(trace.shown),
        "order": list(trace.ordered) if trace.ordered is not None else None,
        "status": trace.status.value if trace.status is not None else None,
        "text": pieces(trace.text, len(trace.shown), letters=letters),
        "tokens": [trace.prompt_tokens, trace.completion_tokens],
        "seconds": round(trace.seconds, 3),
        "ndcg": [round(ndcg(before, before), _DIGITS), round(ndcg(after, before), _DIGITS)],
    }
    if sample:
        found["sample"] = sample
    if trace.cut:
        found["cut"] = True
    if trace.prompt_truncated:
        found["truncated"] = True
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
