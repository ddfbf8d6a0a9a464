"""What reranking an input takes: windows, tokens, and hours and dollars on machines whose figures the user gives.

Windows are counted on the whole input. Tokens are counted on a sample of its lists: each is put through the strategy
and the prompt with answers that keep the order, and every prompt is counted as the model reads it. Nothing is asked.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.data.opening import fetched
from rearank.engines import EngineError, OpenAINode, ScriptedEngine
from rearank.engines.openai.budget import Usage
from rearank.engines.openai.overflow import tokens_of
from rearank.engines.session import Reranked, Session
from rearank.ranking import Failure
from rearank.reranker.setup import Parts
from rearank.sections import STANDARD, Machine, Rerank
from rearank.tasks.rerank.inputs import Counted, HoldsLists, collection_of, count, formats_of, input_name, make_input
from rearank.types import Candidates, Completion, Message, Sampling, Window

_SPREAD = 20  # lists that are read for one that is measured, at most: a later part of the input may differ
_SURE = 1.96  # standard errors either side, for 95%


@dataclass(frozen=True)
class Amount:
    """All that is asked for.

    Args:
        windows: calls.
        prompt_tokens: of all of them.
        answer_tokens: of all of them.
        chain: the most calls in a row that wait for each other; ``None`` where the strategy doesn't know.
    """

    windows: float
    prompt_tokens: float
    answer_tokens: float
    chain: int | None = None

    def hours(self, machine: Machine) -> float | None:
        """With every place taken from the first call to the last, but no less than the longest chain takes.

        ``None`` where no speed is known.
        """
        if machine.speed is not None:
            seconds = (self.prompt_tokens + self.answer_tokens) / machine.speed
        elif machine.prompt_speed is not None and machine.answer_speed is not None:
            seconds = self.prompt_tokens / machine.prompt_speed + self.answer_tokens / machine.answer_speed
        else:
            return None
        return max(seconds / machine.count, (self.chain or 0) * (machine.call_seconds or 0.0)) / 3600

    def dollars(self, machine: Machine) -> float | None:
        """Rent and tokens together; ``None`` where neither has a price."""
        hours, rent, tokens = self.hours(machine), None, None
        if machine.dollars_an_hour is not None and hours is not None:
            rent = hours * machine.count * machine.dollars_an_hour
        if machine.price_prompt is not None and machine.price_answer is not None:
            tokens = (self.prompt_tokens * machine.price_prompt + self.answer_tokens * machine.price_answer) / 1e6
        return None if rent is None and tokens is None else (rent or 0.0) + (tokens or 0.0)

    def line(self, name: str, machine: Machine) -> str:
        """In words."""
        hours, dollars = self.hours(machine), self.dollars(machine)
        what = [] if hours is None else [_duration(hours)]
        what += [] if dollars is None else [f"${dollars:,.2f}"]
        many = f"{machine.count} x " if machine.count > 1 else ""
        return f"{many}{name}: {', '.join(what)} ({machine.source})"


@dataclass
class Sample:
    """Lists whose prompts were counted: each's calls and tokens of prompts.

    ``counted_by``: what counted; ``longest``: the longest prompt; ``cut``: prompts that were cut to fit the context;
    ``failed``: what the first list that can't be asked fails with, and how many do.
    """

    counted_by: str
    calls: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    longest: int = 0
    cut: int = 0
    failures: list[str] = field(default_factory=list)

    def mean(self) -> float:
        """Tokens of a prompt."""
        return sum(self.tokens) / max(sum(self.calls), 1)

    def uncertainty(self) -> float:
        """Of the tokens of all prompts, as a share of them (95%), as far as the sample shows it."""
        if len(self.tokens) < 2 or not (mean := fmean(self.tokens)):
            return 0.0
        return _SURE * stdev(self.tokens) / math.sqrt(len(self.tokens)) / mean

    def line(self, everything: float, *, whole: bool) -> str:
        """In words; ``everything`` is the tokens of all windows, ``whole`` that every list was counted."""
        about = "" if whole else f" ±{self.uncertainty():.0%}"
        text = (
            f"prompts: {self.mean():,.0f} tokens on average, {self.longest:,} at most, {_figure(everything)} in all"
            f"{about}; counted by {self.counted_by} on {len(self.calls)} lists, {sum(self.calls)} windows"
        )
        text += f"; {self.cut} of these prompts are cut to fit the context" if self.cut else ""
        if self.failures:
            text += f"; {len(self.failures)} lists can't be asked, the first: {self.failures[0]}"
        return text


def cost_lines(settings: Rerank, node: Benchmark | BenchmarkList, parts: Parts) -> list[str]:
    """Queries, windows and their longest chain; tokens, hours and dollars. The input, a file, is read whole.

    Args:
        settings: the section ``rerank``.
        node: has the collection, where texts come from one.
        parts: model, prompt, strategy and engine.

    Raises:
        DataError: for an input that can't be read.
    """
    if settings.input == STANDARD:
        return ["standard input: not counted"]
    formats = formats_of(settings)
    if formats.uses_collection and not fetched(collection := collection_of(node).collection):
        return [f"{input_name(settings)}: not counted: the collection {collection.name!r} isn't on this machine yet"]
    given = make_input(settings, formats, node)
    counted = count(given, settings.depth, parts.strategy)
    lines = [counted.line(input_name(settings))]
    try:
        sample = measured(_spread(given, counted, settings), parts)
    except EngineError as error:
        return [*lines, f"prompts: not counted: {error}"]
    if not sample.calls:
        return [*lines, f"prompts: not counted: {sample.failures[0]}"] if sample.failures else lines
    work, answers = _work(counted, sample, parts, settings.cost.answer_tokens)
    lines += [sample.line(work.prompt_tokens, whole=len(sample.calls) == counted.queries), answers]
    lines += _priced(work, parts)
    return lines + [work.line(name, machine) for name, machine in settings.cost.fleet.items()]


def measured(lists: Sequence[Candidates], parts: Parts) -> Sample:
    """The prompts of ``lists``, counted by the model's tokenizer, or by their length where it isn't here.

    Raises:
        EngineError: where the model has no tokenizer that could ask it.
    """
    counting = Counting(parts)
    sample = Sample(counting.counted_by)

    def done(one: Reranked) -> None:
        tokens = counting.tokens.pop(one.candidates.query.id, [])
        if isinstance(one.result, Failure):
            sample.failures.append(str(one.result))
            return
        sample.calls.append(len(tokens))
        sample.tokens.append(sum(tokens))
        sample.longest = max([sample.longest, *tokens])

    session = Session(counting, parts.prompt, parts.strategy, parts.model.sampling, max_concurrent_queries=1)
    asyncio.run(session.rerank(lists, traced=(), on_done=done))
    sample.cut = counting.cut
    return sample


class Counting:
    """An engine that keeps every window's order and counts what the model would have read, query by query.

    Args:
        parts: model and engine.
        why: the tokenizer can't be used; ``None`` where it may be.

    Raises:
        EngineError: where the model has no tokenizer that could ask it.
    """

    def __init__(self, parts: Parts, why: str | None = None) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.cut = 0
        self._answers = ScriptedEngine("given")
        self.identity = self._answers.identity
        self.tokenizer: Any = None
        self._chat: Any = None
        model, engine = parts.model, parts.engine
        served = isinstance(engine, OpenAINode) and not Path(model.location).is_dir()
        if served or find_spec("transformers") is None:
            why = f"{model.name} is behind a server" if served else "transformers isn't installed"
        if why is not None:
            self.counted_by = f"their length (4 bytes a token: {why})"
            return
        from rearank.engines.chat import load_chat

        self._chat = load_chat(
            model.location,
            model.revision,
            overflow=getattr(engine, "overflow", "truncate"),
            longest=getattr(engine, "max_model_len", None),
            thinking=model.thinking,
        )
        self.tokenizer = self._chat.tokenizer
        self.counted_by = f"the tokenizer of {model.path}"

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Reached by no strategy: windows have their own way."""
        return await self._answers.complete(messages, sampling)

    async def complete_window(self, window: Window, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """The order as it is."""
        if self._chat is None:
            tokens = sum(tokens_of(message.content) for message in messages)
        else:
            prompt, cut = self._chat.prompt(tuple(messages), sampling)
            tokens, self.cut = len(prompt), self.cut + cut
        self.tokens.setdefault(window.query.id, []).append(tokens)
        return await self._answers.complete_window(window, messages, sampling)

    async def aclose(self) -> None:
        """Nothing to release."""


def _spread(given: HoldsLists, counted: Counted, settings: Rerank) -> list[Candidates]:
    """Lists from all over the input, or from its first part where it is large; empty ones take no window."""
    wanted = settings.cost.lists
    if not wanted:
        return []
    step = min(max(counted.queries // wanted, 1), _SPREAD)
    found: Iterator[Candidates] = (one for one in given.lists() if isinstance(one, Candidates))
    chosen = islice(found, 0, wanted * step, step)
    return [replace(one, passages=one.passages[: settings.depth], scores=()) for one in chosen if one.passages]


def _work(counted: Counted, sample: Sample, parts: Parts, answer_tokens: float | None) -> tuple[Amount, str]:
    """Everything, and a line about the answers."""
    lists = counted.queries - counted.empty
    windows = float(counted.windows) if counted.windows is not None else fmean(sample.calls) * lists
    each = answer_tokens or float(parts.model.max_tokens)
    work = Amount(windows, sample.mean() * windows, each * windows, counted.chain)
    if answer_tokens is None:
        text = (
            f"answers: at most {each:,.0f} tokens each (model.max_tokens), {_figure(work.answer_tokens)} in all; set "
            "rerank.cost.answer_tokens to the mean of a trial"
        )
    else:
        text = f"answers: {each:,.0f} tokens each (rerank.cost.answer_tokens), {_figure(work.answer_tokens)} in all"
    if counted.windows is None:
        text += f"; about {windows:,.0f} windows, as many a list as in the sample where answers keep the order"
    return work, text


def _priced(work: Amount, parts: Parts) -> list[str]:
    """What a server's own prices come to."""
    prices = parts.engine.prices if isinstance(parts.engine, OpenAINode) else None
    if prices is None or not isinstance(parts.engine, OpenAINode):
        return []
    dollars = prices.cost(Usage(math.ceil(work.prompt_tokens), math.ceil(work.answer_tokens)))
    budget = parts.engine.budget
    short = f"; engine.budget={budget:g} stops it before" if budget is not None and budget < dollars else ""
    return [f"calls: ${dollars:,.2f} by engine.price_prompt and price_completion, nothing cached{short}"]


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{_figure(hours)} hours"
    return f"{hours * 60:.0f} minutes" if hours >= 1 / 30 else f"{hours * 3600:.2g} seconds"


def _figure(value: float) -> str:
    """Three digits, with a word for large numbers."""
    for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if value >= size:
            return f"{value / size:.3g}{word}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
