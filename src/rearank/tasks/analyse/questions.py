"""What is asked of every system: which queries, which windows, in which orders, with which attacks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

from rearank.analysis import Analyse, Asked, Attacked, Point, choose_victim, inject, shuffled
from rearank.data import JudgedCandidates
from rearank.data.benchmark import Benchmark
from rearank.prompts import Prompt
from rearank.ranking import Strategy
from rearank.tasks.analyse.asking import Asker
from rearank.tasks.analyse.tables import SystemAnswers
from rearank.types import JudgedWindow, Sampling, Window

_WINDOW = 20  # where neither the command nor the strategy says how many passages a window holds
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Questions:
    """The same for every system, so that they can be compared."""

    benchmark: Benchmark
    judged: Sequence[JudgedCandidates]
    settings: Analyse
    strategy: Strategy
    prompt: Prompt

    @property
    def total(self) -> int:
        """Queries and windows to be asked about."""
        total = self.settings.repeats * len(self.judged) if self._asks("length", "faithfulness") else 0
        if self._asks("position"):
            total += len(self.windows) * (1 + self.settings.permutations)
        if self._asks("attack"):
            total += len(self.windows) * 2 * (1 + len(self.settings.attack_texts))
        return total

    @cached_property
    def windows(self) -> list[JudgedWindow]:
        """Those for ``position`` and ``attack``; none, with a warning, where these can't be asked about."""
        if not self._asks("position", "attack"):
            return []
        if self.prompt.asks == "yes_no":
            why, found = "the prompt asks about single passages", []
        else:
            why = "no query has passages of different grades"
            found = choose_windows(self.judged, self.benchmark.depth, self.settings, self.strategy)
        if not found:
            _log.warning("%s: %s, so that position and attack are left out", self.benchmark.name, why)
        return found

    async def ask(self, asker: Asker, samplings: Sequence[Sampling], label: str) -> SystemAnswers:
        """Everything, of one system; ``samplings`` are those of whole lists."""
        answers = SystemAnswers(label)
        if self._asks("length", "faithfulness"):
            await self._lists(asker, samplings, answers)
        if self._asks("position") and self.windows:
            answers.asked = await self._positions(asker)
        if self._asks("attack") and self.windows:
            answers.attacked = await self._attacks(asker)
        return answers

    def _asks(self, *what: str) -> bool:
        return bool(set(what) & set(self.settings.what))

    async def _lists(self, asker: Asker, samplings: Sequence[Sampling], answers: SystemAnswers) -> None:
        answers.points, answers.answers = [], []
        for sampling in samplings:
            ranked = await asker.lists(self.judged, self.strategy, self.benchmark.depth, sampling)
            scored = self.benchmark.score({query: one.ranking.passage_ids for query, one in ranked.items()})
            values = scored[self.benchmark.measures[0]]
            for query, one in ranked.items():
                if one.ranking.calls:  # a single candidate is ranked without a word
                    answers.points.append(Point(query, one.tokens, values[query]))
                answers.answers += one.answers

    async def _positions(self, asker: Asker) -> list[Asked]:
        """A window with a missing answer is left out: the rest of it would be of other shuffles than the others'."""
        orders = [shuffled(one, self.settings.permutations, self.settings.seed) for one in self.windows]
        passes = await asker.many([list(one) for one in zip(*orders, strict=True)])
        found = []
        for answers in zip(*passes, strict=True):
            given = tuple(answer for answer in answers if answer is not None)
            if len(given) == len(answers):
                found.append(Asked(given))
        return found

    async def _attacks(self, asker: Asker) -> dict[tuple[str, str], list[Attacked]]:
        """Verbatim and neutralised, where the prompt has both ways of showing passages."""
        victims = [choose_victim(one, self.settings.seed) for one in self.windows]
        passes = [self.windows, *(self._attacked(text, victims) for text in self.settings.attack_texts.values())]
        prompt: Any = asker.prompt
        found: dict[tuple[str, str], list[Attacked]] = {}
        for neutralised in (False, True):
            if not hasattr(prompt, "neutralise"):
                continue
            before, *after = await asker.behind(replace(prompt, neutralise=neutralised)).many(passes)
            for name, answers in zip(self.settings.attack_texts, after, strict=True):
                found["yes" if neutralised else "no", name] = [
                    Attacked(one.window.passages[victim].id, one.relevance[victim], was, now)
                    for one, victim, was, now in zip(self.windows, victims, before, answers, strict=True)
                    if was is not None and now is not None
                ]
        return found

    def _attacked(self, text: str, victims: Sequence[int]) -> list[JudgedWindow]:
        letters, place = self.prompt.labels == "letters", self.settings.place
        return [
            replace(one, window=inject(one.window, victim, text, place=place, letters=letters))
            for one, victim in zip(self.windows, victims, strict=True)
        ]


def choose_queries(judged: Sequence[JudgedCandidates], settings: Analyse) -> list[JudgedCandidates]:
    """At most ``settings.queries`` of those with candidates, by lot, in their order."""
    usable = [item for item in judged if item.candidates.passages]
    if settings.queries is None or settings.queries >= len(usable):
        return usable
    drawn = sorted(Random(f"queries {settings.seed}").sample(range(len(usable)), settings.queries))
    return [usable[number] for number in drawn]


def choose_windows(
    judged: Sequence[JudgedCandidates], depth: int, settings: Analyse, strategy: Strategy
) -> list[JudgedWindow]:
    """One window a query, at most ``settings.windows``, of passages whose grades differ, in first-stage order.

    They come from the first ``depth`` candidates.
    Queries are tried in an order drawn by the seed; one whose window would hold nothing to order is passed over.
    """
    size = settings.window_size or getattr(strategy, "size", None) or _WINDOW
    order = list(range(len(judged)))
    Random(f"windows {settings.seed}").shuffle(order)
    found: dict[int, JudgedWindow] = {}
    for number in order:
        if len(found) == settings.windows:
            break
        window = _window(judged[number], depth, size, settings)
        if len({max(grade, 0) for grade in window.relevance}) > 1:
            found[number] = window
    return [found[number] for number in sorted(found)]


def _window(item: JudgedCandidates, depth: int, size: int, settings: Analyse) -> JudgedWindow:
    passages = item.candidates.passages[:depth]
    places = list(range(min(size, len(passages))))
    if settings.choose == "sample" and len(passages) > size:
        random = Random(f"window {settings.seed} {item.candidates.query.id}")
        places = sorted(random.sample(range(len(passages)), size))
    chosen = tuple(passages[place] for place in places)
    relevance = tuple(int(item.grades.get(passage.id, 0)) for passage in chosen)
    return JudgedWindow(Window(item.candidates.query, chosen), relevance)
