"""What an engine is: messages and a sampling in, a completion out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from rearank.engines.model import Architecture
from rearank.types import Completion, Message, Qrels, Sampling, Window


class EngineError(RuntimeError):
    """A call that gave no completion, or an engine that can't start; the message says why and how to mend it."""


def turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The conversation as chat templates, servers and hashes take it.

    Not by ``dataclasses.asdict``, which copies deeply: half of what a window would cost the event loop.
    """
    return [{"role": message.role, "content": message.content} for message in messages]


@runtime_checkable
class Engine(Protocol):
    """Completes a conversation. A call either answers or raises; it never makes up an answer.

    ``identity`` is what distinguishes this engine's answers from another's (model, revision, weights' fingerprint,
    precision): with the messages and the sampling it names a call in the completions store.
    """

    @property
    def identity(self) -> Mapping[str, Any]: ...

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class SeesWindows(Protocol):
    """An engine that may look at the window behind the messages.

    Only fakes do: an oracle knows judgements by passage id, whatever the prompt's wording.
    """

    async def complete_window(self, window: Window, messages: Sequence[Message], sampling: Sampling) -> Completion: ...


@runtime_checkable
class EngineNode(Protocol):
    """What a node of ``conf/engine`` builds to: cheap to make, imports nothing heavy."""

    def preflight(self) -> list[str]:
        """What this machine lacks to run it, one line each with its remedy; empty if nothing."""
        ...

    def create(
        self,
        model: str,
        *,
        revision: str | None = None,
        judgements: Qrels | None = None,
        thinking: bool | None = None,
    ) -> Engine:
        """The engine over ``model`` (a folder or a hub id); raises ``EngineError`` where it can't start.

        ``judgements`` are for fakes; ``thinking`` is the switch of models that have one.
        """
        ...


@runtime_checkable
class SplitsModels(Protocol):
    """A node whose engine spreads a model over several GPUs."""

    def misfits(self, sizes: Architecture) -> list[str]:
        """What of a model of these sizes can't be divided as asked, one line each with its remedy."""
        ...
