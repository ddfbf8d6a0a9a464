"""From an engine to the ranker a strategy needs: prompt, call, parse, count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rearank.engines.base import Engine, SeesWindows
from rearank.parsing import ParsedRanking, ParseStatus, parse_ranking
from rearank.prompts import Prompt, Tokenizer
from rearank.types import Completion, Message, Permutation, Sampling, Window


class Recorder(Protocol):
    """Takes down how an answer was read, beside the answer itself: ``RecordingEngine`` is one."""

    def note(self, messages: Sequence[Message], sampling: Sampling, parsed: ParsedRanking) -> None: ...


@dataclass
class PromptRanker:
    """Orders windows with ``engine`` behind ``prompt``; one object a query, so that its counts are that query's.

    What the engine raises passes through. An answer that can't be read still gives a full permutation (what it named
    first, the rest as given), and ``statuses`` says so.
    """

    engine: Engine
    prompt: Prompt
    sampling: Sampling = field(default_factory=Sampling)
    recorder: Recorder | None = None
    tokenizer: Tokenizer | None = None
    on_answer: Callable[[Completion], None] | None = None
    """Told each answer as it comes, for progress."""
    statuses: Counter[ParseStatus] = field(default_factory=Counter, init=False)
    unparsed: int = field(default=0, init=False)
    """Answers that named no passage of the window."""
    truncated_prompts: int = field(default=0, init=False)
    cut_answers: int = field(default=0, init=False)
    """Answers that reached ``max_tokens``."""
    prompt_tokens: int = field(default=0, init=False)
    completion_tokens: int = field(default=0, init=False)
    cost: float = field(default=0.0, init=False)
    """US dollars."""

    async def order(self, window: Window) -> Permutation:
        """The model's order of ``window``."""
        messages = self.prompt.render(window, self.tokenizer)
        if isinstance(self.engine, SeesWindows):
            completion = await self.engine.complete_window(window, messages, self.sampling)
        else:
            completion = await self.engine.complete(messages, self.sampling)
        parsed = parse_ranking(completion.text, len(window), tags=self.prompt.tags)
        if self.recorder is not None:
            self.recorder.note(messages, self.sampling, parsed)
        self.statuses[parsed.status] += 1
        self.unparsed += parsed.named == 0
        self.truncated_prompts += completion.prompt_truncated
        self.cut_answers += completion.finish == "length"
        self.prompt_tokens += completion.prompt_tokens
        self.completion_tokens += completion.completion_tokens
        self.cost += completion.cost
        if self.on_answer is not None:
            self.on_answer(completion)
        return parsed.permutation
