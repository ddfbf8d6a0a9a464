"""From an engine to the ranker a strategy needs: prompt, call, parse, count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from rearank.engines.account import Account
from rearank.engines.base import Engine, SeesWindows
from rearank.parsing import ParsedRanking, parse_ranking, parse_yes_no
from rearank.prompts import Prompt, Tokenizer
from rearank.types import Completion, Message, Permutation, Sampling, Window

P_YES = "p_yes"
"""Where an engine puts the probability of yes, if it knows it: a key of ``Completion.extra``."""
UNREADABLE = 0.5
"""The score of a passage about which the answer says neither yes nor no: it is neither promoted nor written off."""
MOST_SAMPLES = 1000


class Recorder(Protocol):
    """Records how an answer was parsed, next to the answer itself: ``RecordingEngine`` is one."""

    def note(self, messages: Sequence[Message], sampling: Sampling, parsed: ParsedRanking) -> None: ...


@dataclass
class PromptRanker:
    """Orders windows with ``engine`` behind ``prompt``; one object a query, so that its counts are that query's.

    What the engine raises passes through. An answer that can't be read still gives a full permutation (what it named
    first, the rest as given), and ``account`` counts it.
    """

    engine: Engine
    prompt: Prompt
    sampling: Sampling = field(default_factory=Sampling)
    recorder: Recorder | None = None
    tokenizer: Tokenizer | None = None
    on_answer: Callable[[Completion, ParsedRanking], None] | None = None
    """Called with each answer, and how it was parsed, as it comes."""
    account: Account = field(default_factory=Account, repr=False, compare=False)
    """Of a resampled ranker it is the one's it was made from: their answers are counted together."""

    @property
    def unparsed(self) -> int:
        """Answers that named no passage."""
        return self.account.unparsed

    async def order(self, window: Window) -> Permutation:
        """The model's order of ``window``.

        Raises:
            ValueError: where the prompt asks no such thing.
        """
        prompt = self.prompt
        if prompt.asks == "yes_no":
            raise ValueError(
                "this prompt asks whether one passage is relevant and the strategy asks for the order of several; set "
                "strategy=pointwise, or a prompt that asks for a ranking or for the best"
            )
        messages, completion = await self._ask(window)
        best, letters = prompt.asks == "best", prompt.labels == "letters"
        parsed = parse_ranking(completion.text, len(window), tags=prompt.tags, best=best, letters=letters)
        self._count(messages, completion, parsed)
        return parsed.permutation

    async def score(self, window: Window) -> float:
        """How relevant the model calls the one passage of ``window``, from 0 to 1.

        The engine's own probability of yes where it gives one (``P_YES``); else 1 for yes, 0 for no, and
        ``UNREADABLE`` for neither, which ``account`` counts.

        Raises:
            ValueError: where the prompt asks no such thing, or there are several passages.
        """
        if self.prompt.asks != "yes_no":
            raise ValueError(
                f"strategy=pointwise asks whether one passage is relevant and this prompt asks for the "
                f"{self.prompt.asks}; set prompt=pointwise, or another prompt with asks: yes_no"
            )
        if len(window) != 1:
            raise ValueError(f"a score is of one passage, and this window holds {len(window)}")
        messages, completion = await self._ask(window)
        parsed = parse_yes_no(completion.text, tags=self.prompt.tags)
        self._count(messages, completion, parsed.ranking)
        parsed_score = UNREADABLE if parsed.relevant is None else float(parsed.relevant)
        return completion.extra.get(P_YES, parsed_score)

    def resampled(self, number: int) -> PromptRanker:
        """The same ranker with draw ``number`` of every answer, 0 to 999; its answers are counted here.

        The draws of this ranker's sample 0 are the samples 0, 1, ... themselves, so that what was paid for in an
        evaluation over samples is not paid for again.

        Raises:
            ValueError: where nothing is drawn, or for a number out of range.
        """
        if self.sampling.temperature == 0:
            raise ValueError(
                "strategy=self_consistency merges answers that differ, and at temperature 0 every sample is the same; "
                "set model.temperature=0.7, say, or use the strategy inside by itself"
            )
        if not 0 <= number < MOST_SAMPLES:
            raise ValueError(f"samples are numbered 0 to {MOST_SAMPLES - 1}, not {number}")
        return replace(self, sampling=replace(self.sampling, sample=self.sampling.sample * MOST_SAMPLES + number))

    async def _ask(self, window: Window) -> tuple[tuple[Message, ...], Completion]:
        messages = await self._render(window)
        if isinstance(self.engine, SeesWindows):
            return messages, await self.engine.complete_window(window, messages, self.sampling)
        return messages, await self.engine.complete(messages, self.sampling)

    async def _render(self, window: Window) -> tuple[Message, ...]:
        in_turn = getattr(self.engine, "renders_in_turn", False)
        if in_turn or self.tokenizer is None or getattr(self.prompt, "max_tokens", None) is None:
            return self.prompt.render(window, self.tokenizer)
        # Cutting twenty passages by tokens takes milliseconds, in which the event loop would serve nobody.
        return await asyncio.to_thread(self.prompt.render, window, self.tokenizer)

    def _count(self, messages: Sequence[Message], completion: Completion, parsed: ParsedRanking) -> None:
        if self.recorder is not None:
            self.recorder.note(messages, self.sampling, parsed)
        self.account.count(completion, parsed)
        if self.on_answer is not None:
            self.on_answer(completion, parsed)
