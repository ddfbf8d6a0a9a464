"""Asking a model for the analyses: whole lists or single windows, and every answer as it was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from rearank.analysis import Answer
from rearank.data import JudgedCandidates
from rearank.engines import PromptRanker, RecordingEngine
from rearank.parsing import parse_ranking
from rearank.progress import Progress
from rearank.prompts import Prompt
from rearank.ranking import Failure, FullList, Strategy, rerank_all
from rearank.ranking.base import together
from rearank.reranker import WindowTrace
from rearank.reranker.tracing import Tracer
from rearank.types import Candidates, Completion, JudgedWindow, Ranking, Sampling, Window


@dataclass(frozen=True)
class Heard:
    """One query's ranking and the answers it was made of; ``tokens`` is their mean length, 0 where there was none.

    ``answers`` is empty where the prompt asks for a yes or no: such an answer orders nothing.
    """

    ranking: Ranking
    answers: tuple[Answer, ...]
    tokens: float


@dataclass
class Asker:
    """A model behind a prompt; failed calls are kept in ``failures``, and what depended on them is left out.

    ``answered`` counts every answer as it comes, for progress.
    """

    recording: RecordingEngine
    prompt: Prompt
    sampling: Sampling
    bar: Progress
    most: int | None
    failures: list[Failure]
    answered: Counter[str] = field(default_factory=Counter)

    def behind(self, prompt: Prompt) -> Asker:
        """The same model behind another prompt."""
        return replace(self, prompt=prompt)

    async def lists(
        self, judged: Sequence[JudgedCandidates], strategy: Strategy, depth: int, sampling: Sampling
    ) -> dict[str, Heard]:
        """Rerank whole lists; query id -> what came of it."""
        grades = {item.candidates.query.id: item.grades for item in judged}
        work = [item.candidates.top(depth) for item in judged if item.candidates.passages]
        tracers: dict[str, Tracer] = {}
        results = await self._rerank(work, strategy, sampling, tracers)
        by_id = {item.query.id: item for item in work}
        heard = {}
        for query, ranking in results.items():
            traces = tracers[query].windows()
            answers = [self._answer(trace, by_id[query], grades[query]) for trace in traces]
            tokens = fmean(trace.completion_tokens for trace in traces) if traces else 0.0
            heard[query] = Heard(ranking, tuple(a for a in answers if a is not None), tokens)
        return heard

    async def windows(self, judged: Sequence[JudgedWindow]) -> list[Answer | None]:
        """One answer about each window, ``None`` where the call failed. Each is of another query."""
        work = [Candidates(one.window.query, one.window.passages) for one in judged]
        tracers: dict[str, Tracer] = {}
        largest = max((len(one.window) for one in judged), default=2)
        results = await self._rerank(work, FullList(max(largest, 2)), self.sampling, tracers)
        answers: list[Answer | None] = []
        for one, item in zip(judged, work, strict=True):
            found = tracers[item.query.id].windows() if item.query.id in results else ()
            answers.append(self._read(found[0], one) if found else None)
        return answers

    async def many(self, passes: Iterable[Sequence[JudgedWindow]]) -> list[list[Answer | None]]:
        """``windows`` of each pass, all passes at once."""
        return await together(self.windows(one) for one in passes)

    async def _rerank(
        self, work: Sequence[Candidates], strategy: Strategy, sampling: Sampling, tracers: dict[str, Tracer]
    ) -> dict[str, Ranking]:
        tokenizer = getattr(self.recording.engine, "tokenizer", None)

        def told(completion: Completion) -> None:
            self.answered["answers"] += 1

        def ranker_for(item: Candidates) -> PromptRanker:
            tracer = tracers[item.query.id] = Tracer(self.recording, self.recording, item)
            return PromptRanker(tracer, self.prompt, sampling, tracer, tokenizer, told)

        results = await rerank_all(
            work, strategy, ranker_for, max_concurrent_queries=self.most, on_done=lambda _: self.bar.advance()
        )
        self.failures += [result for result in results.values() if isinstance(result, Failure)]
        return {query: result for query, result in results.items() if isinstance(result, Ranking)}

    def _answer(self, trace: WindowTrace, item: Candidates, grades: Any) -> Answer | None:
        if self.prompt.asks == "yes_no":
            return None
        passages = tuple(item.passages[index] for index in trace.shown)
        relevance = tuple(int(grades.get(passage.id, 0)) for passage in passages)
        return self._read(trace, JudgedWindow(Window(item.query, passages), relevance))

    def _read(self, trace: WindowTrace, judged: JudgedWindow) -> Answer:
        best, letters = self.prompt.asks == "best", self.prompt.labels == "letters"
        parsed = parse_ranking(trace.text, len(judged.window), tags=self.prompt.tags, best=best, letters=letters)
        return Answer(judged, parsed, trace.completion_tokens)
