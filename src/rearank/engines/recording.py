"""Any engine with the completions store in front of it: the same call is never paid for twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from rearank.engines.base import Engine, SeesWindows
from rearank.engines.openai.budget import Spends
from rearank.engines.store import CompletionStore, call_key
from rearank.parsing import ParsedRanking
from rearank.types import Completion, Message, Sampling, Window


@dataclass(frozen=True)
class Spent:
    """What an engine was asked for: calls, how many of them it didn't answer, tokens of its answers, US dollars."""

    calls: int = 0
    failed: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.calls + other.calls,
            self.failed + other.failed,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )

    def __sub__(self, other: Spent) -> Spent:
        return self + Spent(-other.calls, -other.failed, -other.completion_tokens, -other.cost)


@runtime_checkable
class Drains(Protocol):
    """An engine with a line of calls that wait for their turn."""

    async def drain(self) -> None:
        """Give those up; calls that are being answered go on."""
        ...


@runtime_checkable
class Rereads(Protocol):
    """An engine whose earlier versions recorded what is read otherwise today."""

    def reread(self, recorded: Completion) -> Completion | None:
        """A recorded answer as it is read today; ``None`` for a failure, which is asked for again."""
        ...


class RecordingEngine:
    """Answers from ``store`` where it can, and from ``engine`` otherwise, recording what that says.

    Equal calls under way at the same moment share one answer. A caller that gives up (a cancelled query) leaves the
    call running: it is being paid for, so that its answer is kept. Closing closes the engine, not the store. What the
    answers in ``store`` cost counts against the engine's budget, where it has one. ``shared`` is a second store, of
    several runs: an answer in it is taken from there, and a new one is recorded in both.
    """

    def __init__(self, engine: Engine, store: CompletionStore, shared: CompletionStore | None = None) -> None:
        self.engine = engine
        self.store = store
        self.shared = shared
        self.spent = Spent()
        """On what went to the engine."""
        self.recalled = 0
        """Calls answered from the store or by an equal call under way."""
        if isinstance(engine, Spends):
            engine.budget.earlier = store.cost()
        self._identity = dict(engine.identity)
        # Once: on every call the question would cost more than the prompt.
        self._sees: SeesWindows | None = engine if isinstance(engine, SeesWindows) else None
        self._rereads: Rereads | None = engine if isinstance(engine, Rereads) else None
        self._under_way: dict[str, asyncio.Task[Completion]] = {}
        self._latest: tuple[tuple[Message, ...], Sampling, str] | None = None

    @property
    def under_way(self) -> int:
        """Calls that went to the engine and have no answer yet."""
        return len(self._under_way)

    @property
    def written(self) -> int | None:
        """Tokens of the engine's answers so far, unfinished ones among them; ``None`` where it doesn't count them."""
        found = getattr(self.engine, "written", None)
        return found if isinstance(found, int) else None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The engine's own: recording changes no answer."""
        return self._identity

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """The recorded answer or a new one; raises what the engine raises (not recorded) or ``StoreError``."""
        return await self._complete(None, messages, sampling)

    async def complete_window(self, window: Window, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """As ``complete``, showing ``window`` to an engine that looks at windows."""
        return await self._complete(window, messages, sampling)

    def note(self, messages: Sequence[Message], sampling: Sampling, parsed: ParsedRanking) -> None:
        """Record how the answer to this call was read."""
        self.store.annotate(self._key(messages, sampling), parsed.status.value, parsed.permutation)

    async def settle(self) -> None:
        """Wait for the calls under way: they are being paid for."""
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def aclose(self) -> None:
        """Wait for the calls under way, but not for those that wait for their turn; then close the engine."""
        if self._under_way and isinstance(self.engine, Drains):
            await self.engine.drain()
        await self.settle()
        await self.engine.aclose()

    async def _complete(self, window: Window | None, messages: Sequence[Message], sampling: Sampling) -> Completion:
        key = call_key(self._identity, messages, sampling)
        completion = await self._answer(key, window, messages, sampling)
        self._latest = tuple(messages), sampling, key
        return completion

    def _key(self, messages: Sequence[Message], sampling: Sampling) -> str:
        """The call's name; that of the latest answer is at hand, and nearly always it is the one that is noted."""
        if self._latest is not None and self._latest[:2] == (tuple(messages), sampling):
            return self._latest[2]
        return call_key(self._identity, messages, sampling)

    async def _answer(
        self, key: str, window: Window | None, messages: Sequence[Message], sampling: Sampling
    ) -> Completion:
        task = self._under_way.get(key)
        if task is None:
            recorded = self.store.get(key) or self._from_others(key, messages)
            answer = self._rereads.reread(recorded) if recorded is not None and self._rereads is not None else recorded
            if answer is not None:
                self.recalled += 1
                if answer is not recorded:  # whoever reads the store by itself must read the same
                    answer = self.store.put(key, messages, replace(answer, cost=0.0), recorded)
                return answer
            task = asyncio.create_task(self._pay(key, window, messages, sampling, recorded))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        else:
            self.recalled += 1
        return await asyncio.shield(task)

    async def _pay(
        self,
        key: str,
        window: Window | None,
        messages: Sequence[Message],
        sampling: Sampling,
        failed: Completion | None,
    ) -> Completion:
        self.spent += Spent(calls=1)
        try:
            if window is not None and self._sees is not None:
                completion = await self._sees.complete_window(window, messages, sampling)
            else:
                completion = await self.engine.complete(messages, sampling)
        except BaseException:
            self.spent += Spent(failed=1)
            raise
        self.spent += Spent(completion_tokens=completion.completion_tokens, cost=completion.cost)
        answer = self.store.put(key, messages, completion, failed)
        if self.shared is not None:
            self.shared.put(key, messages, answer)
        return answer

    def _from_others(self, key: str, messages: Sequence[Message]) -> Completion | None:
        """What was recorded elsewhere, now recorded here, too, so that each store is whole by itself."""
        found = self.shared.get(key) if self.shared is not None else None
        return None if found is None else self.store.put(key, messages, found)

    def _forget(self, key: str, task: asyncio.Task[Completion]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # seen: a caller that was cancelled meanwhile won't collect it
