"""What one query asked of the engine, window by window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rearank.engines.base import Engine, SeesWindows
from rearank.engines.ranker import Recorder
from rearank.parsing import ParsedRanking, ParseStatus
from rearank.types import Candidates, Completion, Message, Sampling, Window


@dataclass(frozen=True, slots=True)
class WindowTrace:
    """One call of the model: what it was shown, what it answered and how that was parsed.

    ``shown`` and ``ordered`` are positions in the list that was given: the window as the model read it, and as its
    answer orders it (``None`` where a strategy reads the answer by itself). ``think`` is the reasoning inside its tags
    and ``answer`` what was read as the answer (both ``None`` where absent); ``text`` is the whole answer, untrusted.
    """

    shown: tuple[int, ...]
    ordered: tuple[int, ...] | None
    status: ParseStatus | None
    think: str | None
    answer: str | None
    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    prompt_truncated: bool
    cut: bool
    """The answer reached ``max_tokens``."""


@dataclass
class _TracedCall:
    window: Window
    asked: tuple[tuple[Message, ...], Sampling]
    completion: Completion
    parsed: ParsedRanking | None = None


class Tracer:
    """One query's view of ``engine``: passes every call on and takes down how it went. Also the ranker's recorder."""

    def __init__(self, engine: Engine, recorder: Recorder | None, candidates: Candidates) -> None:
        self._engine = engine
        self._recorder = recorder
        self._index = {passage.id: index for index, passage in enumerate(candidates.passages)}
        self._calls: list[_TracedCall] = []

    @property
    def identity(self) -> Mapping[str, Any]:
        """The engine's own: looking on changes no answer."""
        return self._engine.identity

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """As the engine does; a call without a window leaves no trace."""
        return await self._engine.complete(messages, sampling)

    async def complete_window(self, window: Window, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """As the engine does."""
        if isinstance(self._engine, SeesWindows):
            completion = await self._engine.complete_window(window, messages, sampling)
        else:
            completion = await self._engine.complete(messages, sampling)
        self._calls.append(_TracedCall(window, (tuple(messages), sampling), completion))
        return completion

    def note(self, messages: Sequence[Message], sampling: Sampling, parsed: ParsedRanking) -> None:
        """How the answer to this call was read."""
        asked = (tuple(messages), sampling)
        for call in reversed(self._calls):
            if call.parsed is None and call.asked == asked:
                call.parsed = parsed
                break
        if self._recorder is not None:
            self._recorder.note(messages, sampling, parsed)

    async def aclose(self) -> None:
        """Nothing: the engine serves other queries, too."""

    def windows(self) -> tuple[WindowTrace, ...]:
        """The calls answered so far."""
        return tuple(self._trace(call) for call in self._calls)

    def _trace(self, call: _TracedCall) -> WindowTrace:
        shown = tuple(self._index[passage.id] for passage in call.window.passages)
        parsed, completion = call.parsed, call.completion
        return WindowTrace(
            shown=shown,
            ordered=parsed.permutation.apply(shown) if parsed is not None else None,
            status=parsed.status if parsed is not None else None,
            think=parsed.think if parsed is not None else None,
            answer=parsed.answer if parsed is not None else None,
            text=completion.text,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            seconds=completion.seconds,
            prompt_truncated=completion.prompt_truncated,
            cut=completion.finish == "length",
        )
