"""Whole candidate lists of held-out queries (``trainer.validate_on=lists``): their file, and a model measured on them.

The model in training is an engine behind the one rerank loop, with the run's own strategy and prompt, greedy: what
validation says of a checkpoint is then what evaluation will say of it, on other queries.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from rearank.data import JudgedCandidates
from rearank.engines.base import EngineError
from rearank.engines.chat import Chat
from rearank.engines.session import Session
from rearank.engines.tokens import SpareTokenizer
from rearank.metrics import ndcg
from rearank.prompts import Prompt
from rearank.ranking import AbortRunError, Failure, Strategy
from rearank.rewards import RewardFunction, score
from rearank.training.base import TrainingError, describe
from rearank.types import Candidates, Completion, JudgedWindow, Message, Passage, Query, Ranking, Sampling, Window

CUTOFF = 10
_log = logging.getLogger(__name__)
_QUIET = 4
"""Turns of the event loop without a new call after which a batch is complete: a query's next call comes within two."""


class ListError(ValueError):
    """Lists that can't be read; the message names the file and the line."""


@dataclass(frozen=True)
class ListValidation:
    """What a checkpoint is measured on, and how: the run's own ``strategy`` and ``prompt``."""

    lists: Sequence[JudgedCandidates]
    strategy: Strategy
    prompt: Prompt


@dataclass(frozen=True)
class Validated:
    """Figures for the log, and the share of answers that reached the token limit."""

    figures: Mapping[str, float]
    cut: float


def write_lists(path: Path, lists: Iterable[JudgedCandidates]) -> None:
    """A line for each query; the file appears whole or not at all."""
    scratch = path.with_name(path.name + ".partial")
    with scratch.open("w", encoding="utf-8") as file:
        for one in lists:
            query, passages = one.candidates.query, one.candidates.passages
            shown = [[passage.id, passage.title, passage.text] for passage in passages]
            line = {"id": query.id, "query": query.text, "passages": shown, "grades": dict(one.grades)}
            file.write(json.dumps(line) + "\n")
    scratch.replace(path)


def read_lists(path: Path) -> list[JudgedCandidates]:
    """Every line.

    Raises:
        ListError: naming the line that is no such object; where there is no file.
    """
    if not path.is_file():
        raise ListError(f"{path}: no lists to validate on here; run task=prepare rerun=true")
    found = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                found.append(_list(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ListError(
                    f"{path}, line {number}: {type(error).__name__}: {error}; run task=prepare rerun=true"
                ) from error
    return found


def _list(line: Mapping[str, Any]) -> JudgedCandidates:
    passages = tuple(Passage(str(i), str(text), str(title)) for i, title, text in line["passages"])
    grades = {str(passage): int(grade) for passage, grade in line["grades"].items()}
    return JudgedCandidates(Candidates(Query(str(line["id"]), str(line["query"])), passages), grades)


def drawn(lists: Sequence[JudgedCandidates], most: int | None, seed: int) -> list[JudgedCandidates]:
    """At most so many of them by lot, in their order; more of them add queries and take none away."""

    def lot(one: JudgedCandidates) -> bytes:
        return hashlib.sha256(f"{seed}/lists/{one.candidates.query.id}".encode()).digest()

    kept = {one.candidates.query.id for one in sorted(lists, key=lot)[:most]}
    return [one for one in lists if one.candidates.query.id in kept]


@dataclass
class _ListCall:
    prompt: list[int]
    room: int
    answer: asyncio.Future[list[int]]


@dataclass
class PolicyEngine:
    """A model in training as an engine. What is asked together is answered together; nothing waits for a clock.

    Prompts are rendered in the loop's own turn (``renders_in_turn``): in threads it would be chance which of them meet
    in a batch, and with another batch figures differ by rounding.

    Args:
        chat: the model's side of the conversation.
        decode: of prompts and the tokens that each answer may have, the answers' tokens, end tokens included.
    """

    renders_in_turn: ClassVar[bool] = True

    chat: Chat
    decode: Callable[[Sequence[list[int]], Sequence[int]], list[list[int]]]
    answered: list[tuple[Window, Completion]] = field(default_factory=list, init=False)
    _waiting: list[_ListCall] = field(default_factory=list, init=False)
    _at_work: asyncio.Task[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.tokenizer = SpareTokenizer(self.chat.tokenizer)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Its weights change with each step, so that none of its answers is kept."""
        return {"engine": "policy"}

    async def complete_window(self, window: Window, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """As ``complete``; the window is kept beside its answer."""
        completion = await self.complete(messages, sampling)
        self.answered.append((window, completion))
        return completion

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """The model's likeliest answer; raises ``EngineError`` for a prompt that can't be asked."""
        asked = tuple(messages)
        prompt, truncated = self.chat.prompt(asked, sampling)
        call = _ListCall(prompt, self.chat.room(prompt, sampling), asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._at_work is None or self._at_work.done():
            self._at_work = asyncio.create_task(self._answer_all())
        tokens = await call.answer
        ended = bool(tokens) and tokens[-1] in self.chat.ends
        text = self.chat.text(tokens[:-1] if ended else tokens, asked)
        return Completion(text, len(prompt), len(tokens), "stop" if ended else "length", prompt_truncated=truncated)

    async def aclose(self) -> None:
        """Nothing is held."""

    async def _answer_all(self) -> None:
        while self._waiting:
            quiet = known = 0
            while quiet < _QUIET:
                await asyncio.sleep(0)
                quiet = quiet + 1 if len(self._waiting) == known else 0
                known = len(self._waiting)
            calls, self._waiting = self._waiting, []
            try:
                answers = self.decode([call.prompt for call in calls], [call.room for call in calls])
                answered = list(zip(calls, answers, strict=True))
            except Exception as error:  # of the model, not of one query: every other one would meet it, too
                failure = PolicyError(f"the model in training could not answer: {type(error).__name__}: {error}")
                failure.__cause__ = error
                for call in calls:
                    if not call.answer.done():
                        call.answer.set_exception(failure)
                        return  # it ends everything: the others are cancelled
                return
            for call, tokens in answered:
                if not call.answer.done():
                    call.answer.set_result(tokens)


class PolicyError(EngineError, AbortRunError):
    """The model itself failed."""


def measure(
    engine: PolicyEngine,
    how: ListValidation,
    reward: RewardFunction,
    max_tokens: int,
    on_done: Callable[[int], None] = lambda _: None,
) -> Validated:
    """Rerank every list with the engine's present model.

    ``ndcg@10`` and ``ndcg@10_given`` are means over the queries, of the whole lists, against all grades of a query; the
    reward, its parts, parse statuses and the length are means over the windows that the strategy asked about. A list
    that can't be asked (a prompt without room for an answer) counts as it was given, with a warning.

    Raises:
        TrainingError: where the model or the strategy fails, or no list can be asked; the message names the cause.
        RewardError: as ``rearank.rewards.score``.
    """
    engine.answered.clear()
    session = Session(engine, how.prompt, how.strategy, Sampling(max_tokens=max_tokens))
    grades = {one.candidates.query.id: one.grades for one in how.lists}
    done = 0

    def count(_: object) -> None:
        nonlocal done
        done += 1
        on_done(done)

    work = [one.candidates for one in how.lists]
    try:
        results = asyncio.run(session.rerank(work, traced=(), on_done=count))
    except PolicyError as error:
        raise TrainingError(f"validation: {error}") from error
    rankings = [_ranked(result, one) for result, one in zip(results.values(), work, strict=True)]
    failed = [result for result in results.values() if isinstance(result, Failure)]
    if failed and len(failed) == len(work):
        raise TrainingError(f"validation: none of the {len(work)} held-out lists can be asked: {failed[0]}")
    figures = _of_windows(engine.answered, grades, reward)
    figures["val/ndcg@10"] = fmean(_ndcg(one.passage_ids, grades[one.query_id]) for one in rankings)
    given = ((one.query.id, [passage.id for passage in one.passages]) for one in work)
    figures["val/ndcg@10_given"] = fmean(_ndcg(ids, grades[query]) for query, ids in given)
    cuts = [completion.finish == "length" for _, completion in engine.answered]
    return Validated(figures, fmean(cuts) if cuts else 0.0)


def _of_windows(
    answered: Sequence[tuple[Window, Completion]], grades: Mapping[str, Mapping[str, int]], reward: RewardFunction
) -> dict[str, float]:
    """Of all windows that were asked about; nothing where no list has two passages."""
    if not answered:
        return {}
    scored = []
    for window, completion in answered:
        known = grades[window.query.id]
        relevance = tuple(known.get(passage.id, 0) for passage in window.passages)
        judged = JudgedWindow(window, relevance, tuple(grade for grade in known.values() if grade > 0))
        scored.append(score(reward, completion.text, judged, tokens=completion.completion_tokens))
    length = fmean(completion.completion_tokens for _, completion in answered)
    return {**{f"val/{name}": value for name, value in describe(scored).items()}, "val/length": length}


def _ranked(result: Ranking | Failure, given: Candidates) -> Ranking:
    """A list that can't be asked stays as it was given: which windows it gets depends on the model, at every step."""
    if not isinstance(result, Failure):
        return result
    if not isinstance(result.error, EngineError):
        raise TrainingError(f"validation: no ranking of a held-out list: {result}") from result.error
    _log.warning("validation: a held-out list can't be asked and counts as it was given: %s", result)
    return Ranking(given.query.id, tuple(passage.id for passage in given.passages))


def _ndcg(ids: Sequence[str], grades: Mapping[str, int]) -> float:
    return ndcg([grades.get(passage, 0) for passage in ids], list(grades.values()), CUTOFF)
