"""From the cluster to the driver: figures, tables and progress, in order; and the first failure anywhere.

A small Ray actor that both sides know by name. The driver keeps the tracker (files, W&B), so the cluster waits for it
before a checkpoint counts: what a resumed run continues from has always been logged.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

NAME = "REARANK_EVENTS"
"""The environment variable that holds the actor's name in every process of a run."""

SEEDED = "REARANK_SEED_ANSWERS"
"""Set where every sampled answer gets a seed of its own."""


SHARED = "REARANK_SHARED_PROMPT"
"""Set where each prompt is computed once: ``trainer.shared_prompt`` and the form of the mask, as ``auto dense``."""


class Events:
    """The actor. Events are numbered from 1; ``take(n)`` acknowledges those up to ``n``."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Any]] = []
        self._taken = 0
        self._failure: str | None = None
        self._harmless = False
        self._stop = False

    def put(self, kind: str, content: Any) -> int:
        """Add one; returns its number."""
        self._events.append((kind, content))
        return len(self._events)

    def take(self, taken: int) -> list[tuple[str, Any]]:
        """Those after number ``taken``."""
        self._taken = max(self._taken, taken)
        return self._events[taken:]

    def acknowledged(self) -> int:
        """Up to which number the driver has dealt with them."""
        return self._taken

    def fail(self, message: str, harmless: bool) -> None:
        """Remember what went wrong; the first message stays."""
        if self._failure is None:
            self._failure, self._harmless = message, harmless

    def stop(self) -> None:
        """Ask the run to end: the driver was interrupted."""
        self._stop = True

    def state(self) -> tuple[str | None, bool, bool]:
        """(what went wrong in some process of the run, whether all processes live, whether it was asked to end)."""
        return self._failure, self._harmless, self._stop


@dataclass(frozen=True)
class Outcome:
    """How a training ended. ``failure`` in a line, ``trace`` at length; both ``None`` where it went well."""

    steps: int = 0
    best_step: int = -1
    best_ndcg: float | None = None
    stopped: str | None = None
    failure: str | None = None
    trace: str | None = None


class StoppedError(RuntimeError):
    """The run ends because it was asked to."""


class Reporter:
    """A process's end of ``Events``."""

    def __init__(self, actor: Any = None) -> None:
        import ray

        self._ray = ray
        self._actor = actor if actor is not None else ray.get_actor(os.environ[NAME])

    def put(self, kind: str, content: Any) -> int:
        """Send an event; returns its number."""
        return int(self._ray.get(self._actor.put.remote(kind, content)))

    def wait_for_driver(self, number: int, seconds: float = 300.0) -> None:
        """Until the driver has dealt with event ``number``.

        Raises ``TimeoutError`` where it doesn't: it is gone, or can't write; ``StoppedError`` where it was interrupted.
        """
        deadline = time.monotonic() + seconds
        while self._ray.get(self._actor.acknowledged.remote()) < number:
            self.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the command that started this run took no figures for {seconds:.0f} s")
            time.sleep(0.02)

    def fail(self, message: str, *, harmless: bool = False) -> None:
        """Say what went wrong, before anybody waits for this process in vain.

        ``harmless``: every process lives, so that the steps that are done can still be saved.
        """
        self._ray.get(self._actor.fail.remote(message, harmless))

    def failure(self) -> str | None:
        """What went wrong anywhere."""
        return self._state()[0]

    def harmless(self) -> bool:
        """Whether what went wrong left every process alive."""
        return self._state()[1]

    def check(self) -> None:
        """Raises ``StoppedError`` once the driver has asked the run to end."""
        if self._state()[2]:
            raise StoppedError("interrupted")

    def _state(self) -> tuple[str | None, bool, bool]:
        state: tuple[str | None, bool, bool] = self._ray.get(self._actor.state.remote())
        return state


def root_cause(error: BaseException) -> str:
    """The innermost reason of an error that crossed Ray's processes, in a line: ``ValueError: no such grade``."""
    from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

    error = innermost(error)
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if isinstance(error, (ActorDiedError, RayActorError)):
        who = next((line.partition(":")[2].strip() for line in lines if line.startswith("class_name:")), "")
        return f"a process of the cluster{f' ({who})' if who else ''} died: killed, out of memory, or its node is gone"
    message = lines[-1] if isinstance(error, RayTaskError) and lines else (lines[0] if lines else "")
    return message if _is_ours(error) else f"{type(error).__name__}: {message}"


def innermost(error: BaseException) -> BaseException:
    """Of an error that crossed Ray's processes, the one that it began with, as far as that is known."""
    from ray.exceptions import RayActorError, RayTaskError

    seen: set[int] = set()
    while id(error) not in seen and not _is_ours(error):
        seen.add(id(error))
        inner = getattr(error, "cause", None) if isinstance(error, RayTaskError) else None
        inner = inner or (error.__cause__ if not isinstance(error, RayActorError) else None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


def _is_ours(error: BaseException) -> bool:
    """Written for users: what it was raised from says less."""
    return type(error).__module__.startswith("rearank.")
