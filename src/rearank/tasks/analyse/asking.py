"""Asking a model for the analyses: whole lists or single windows, and every answer as it was parsed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from rearank.analysis import Answer
from rearank.data import JudgedCandidates
from rearank.engines import RecordingEngine
from rearank.engines.account import Account
from rearank.engines.session import Reranked, Session
from rearank.engines.tracing import WindowTrace
from rearank.parsing import parse_ranking
from rearank.progress import Progress
from rearank.prompts import Prompt
from rearank.ranking import Failure, FullList, Strategy
from rearank.ranking.base import together
from rearank.types import Candidates, JudgedWindow, Ranking, Sampling, Window


@dataclass(frozen=True)
class RankedList:
    """One query's ranking and the answers it was made of; ``tokens`` is their mean length, 0 where there was none.

    ``answers`` is empty where the prompt asks for a yes or no: such an answer orders nothing.
    """

    ranking: Ranking
    answers: tuple[Answer, ...]
    tokens: float


@dataclass
class Asker:
    """A model behind a prompt.

    Args:
        recording: answers.
        prompt: asks.
        sampling: of single windows.
        bar: is advanced with each query.
        most: queries under way at once.
        failures: the failed calls; what depends on them is left out.
        account: of all answers.
    """

    recording: RecordingEngine
    prompt: Prompt
    sampling: Sampling
    bar: Progress
    most: int | None
    failures: list[Failure] = field(default_factory=list)
    account: Account = field(default_factory=Account)

    def behind(self, prompt: Prompt) -> Asker:
        """The same model behind another prompt; failures and answers are counted together."""
        return replace(self, prompt=prompt)

    async def lists(
        self, judged: Sequence[JudgedCandidates], strategy: Strategy, depth: int, sampling: Sampling
    ) -> dict[str, RankedList]:
        """Rerank whole lists; query id -> what came of it."""
        grades = {item.candidates.query.id: item.grades for item in judged}
        work = [item.candidates.top(depth) for item in judged if item.candidates.passages]
        found = {}
        for query, one in (await self._rerank(work, strategy, sampling)).items():
            assert isinstance(one.result, Ranking)
            answers = [self._answer(trace, one.candidates, grades[query]) for trace in one.windows]
            tokens = fmean(trace.completion_tokens for trace in one.windows) if one.windows else 0.0
            found[query] = RankedList(one.result, tuple(a for a in answers if a is not None), tokens)
        return found

    async def windows(self, judged: Sequence[JudgedWindow]) -> list[Answer | None]:
        """One answer about each window, ``None`` where the call failed. Each is of another query."""
        work = [Candidates(one.window.query, one.window.passages) for one in judged]
        largest = max((len(one.window) for one in judged), default=2)
        found = await self._rerank(work, FullList(max(largest, 2)), self.sampling)
        answers: list[Answer | None] = []
        for one in judged:
            reranked = found.get(one.window.query.id)
            answers.append(self._parsed(reranked.windows[0], one) if reranked and reranked.windows else None)
        return answers

    async def many(self, passes: Iterable[Sequence[JudgedWindow]]) -> list[list[Answer | None]]:
        """``windows`` of each pass, all passes at once."""
        return await together(self.windows(one) for one in passes)

    async def _rerank(self, work: Sequence[Candidates], strategy: Strategy, sampling: Sampling) -> dict[str, Reranked]:
        """Query id -> what came of it, in the order given; failed queries have none."""
        found: dict[str, Reranked] = {}

        def done(one: Reranked) -> None:
            self.bar.advance()
            self.account.add(one.account)
            if isinstance(one.result, Failure):
                self.failures.append(one.result)
            else:
                found[one.candidates.query.id] = one

        await Session(self.recording, self.prompt, strategy, sampling, self.most).rerank(work, on_done=done)
        return {item.query.id: found[item.query.id] for item in work if item.query.id in found}

    def _answer(self, trace: WindowTrace, item: Candidates, grades: Mapping[str, int]) -> Answer | None:
        if self.prompt.asks == "yes_no":
            return None
        passages = tuple(item.passages[index] for index in trace.shown)
        relevance = tuple(int(grades.get(passage.id, 0)) for passage in passages)
        return self._parsed(trace, JudgedWindow(Window(item.query, passages), relevance))

    def _parsed(self, trace: WindowTrace, judged: JudgedWindow) -> Answer:
        best, letters = self.prompt.asks == "best", self.prompt.labels == "letters"
        parsed = parse_ranking(trace.text, len(judged.window), tags=self.prompt.tags, best=best, letters=letters)
        return Answer(judged, parsed, trace.completion_tokens)
