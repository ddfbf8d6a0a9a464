"""A public fake: an engine without a model, for tests, dry runs and scheduling studies. Ours and yours."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeAlias

from rearank.engines.base import EngineError
from rearank.types import Completion, Message, Qrels, Sampling, Window

Behaviour: TypeAlias = Literal["oracle", "given", "reverse", "random", "malformed"]

MALFORMED = (
    "",
    "<think> [1] looks good, but in 1995",
    "<think> none </think> I would say the third passage.",
    "<think> x </think> <answer> [0] > [99] > [-1] </answer>",
    "<think> x </think> <answer> [1] > [1] > [1] </answer>",
    "<think> x </think> <answer> [2] </answer>",
    "<answer> </answer>",
    "\ud800 \x00 <|im_end|> [[1]]",
)
"""What ``behaviour="malformed"`` answers: one of every way in which answers go wrong."""

_IDENTIFIER = re.compile(r"^\[(\d+)\] ", re.MULTILINE)


class ScriptedEngine:
    """Answers by rule, after a delay, sometimes with an error; the same call always fares the same.

    Args:
        behaviour: ``oracle`` (best grade first, ties as given), ``given``, ``reverse``, ``random`` or ``malformed``.
        judgements: the grades ``oracle`` goes by, query id -> passage id -> grade; absent ones count 0.
        seed: with the messages and the sampling it fixes random orders, delays and failures.
        seconds: median delay of a call; 0 answers at once.
        sigma: spread of the delays, which are log-normal as answer lengths are.
        slots: how many calls are served at once, others wait in line; ``None`` for no limit.
        failing: share of the calls that raise ``EngineError``, 0 to 1.
    """

    def __init__(
        self,
        behaviour: Behaviour = "oracle",
        *,
        judgements: Qrels | None = None,
        seed: int = 0,
        seconds: float = 0.0,
        sigma: float = 0.5,
        slots: int | None = None,
        failing: float = 0.0,
    ) -> None:
        if slots is not None and slots < 1:
            raise ValueError(f"slots must be at least 1, or null for no limit, not {slots}")
        if not 0 <= failing <= 1:
            raise ValueError(f"failing is a share of the calls and must lie in [0, 1], not {failing}")
        if seconds < 0 or sigma < 0:
            raise ValueError(f"seconds and sigma must be 0 or more, not {seconds} and {sigma}")
        self.behaviour = behaviour
        self.calls = 0
        self._judgements = judgements
        self._seed = seed
        self._seconds = seconds
        self._sigma = sigma
        self._slots = asyncio.Semaphore(slots) if slots is not None else None
        self._failing = failing

    @property
    def identity(self) -> Mapping[str, Any]:
        """Delays and failures are left out: they change no answer."""
        grades = hashlib.sha256(json.dumps(self._judgements, sort_keys=True).encode()).hexdigest()
        return {
            "engine": "scripted",
            "behaviour": self.behaviour,
            "seed": self._seed,
            **({"judgements": grades} if self.behaviour == "oracle" else {}),
        }

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """As ``complete_window``, with the window's size read off the messages' ``[1] ...`` lines."""
        return await self._serve(None, messages, sampling)

    async def complete_window(self, window: Window, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """The scripted answer about ``window``; raises ``EngineError`` for the share of calls that fails."""
        return await self._serve(window, messages, sampling)

    async def aclose(self) -> None:
        """Nothing to release."""

    async def _serve(self, window: Window | None, messages: Sequence[Message], sampling: Sampling) -> Completion:
        if self._slots is None:
            return await self._answer(window, messages, sampling)
        async with self._slots:
            return await self._answer(window, messages, sampling)

    async def _answer(self, window: Window | None, messages: Sequence[Message], sampling: Sampling) -> Completion:
        call = json.dumps([self._seed, [asdict(m) for m in messages], asdict(sampling)])
        rng = random.Random(hashlib.sha256(call.encode()).digest())
        seconds = self._seconds * math.exp(rng.gauss(0.0, self._sigma))
        failed = rng.random() < self._failing
        self.calls += 1
        if seconds:
            await asyncio.sleep(seconds)
        if failed:
            raise EngineError("the scripted engine failed this call, as its setting `failing` asks")
        text = self._text(window, messages, rng)
        read = sum(len(m.content.split()) for m in messages)
        return Completion(text, read, len(text.split()), seconds=seconds)

    def _text(self, window: Window | None, messages: Sequence[Message], rng: random.Random) -> str:
        if self.behaviour == "malformed":
            return rng.choice(MALFORMED)
        order = list(range(len(window) if window is not None else _window_size(messages)))
        if self.behaviour == "oracle":
            if window is None or self._judgements is None:
                raise EngineError(
                    "the scripted oracle needs judgements and the window itself: give it judgements and call it "
                    "through PromptRanker, or choose behaviour=reverse or random"
                )
            grades = self._judgements.get(window.query.id, {})
            order.sort(key=lambda i: -max(grades.get(window.passages[i].id, 0), 0))  # below 0 is not relevant, as 0
        elif self.behaviour == "reverse":
            order.reverse()
        elif self.behaviour == "random":
            rng.shuffle(order)
        ranked = " > ".join(f"[{i + 1}]" for i in order)
        return f"<think> The scripted engine's {self.behaviour} order. </think>\n<answer> {ranked} </answer>"


def _window_size(messages: Sequence[Message]) -> int:
    """How many passages the messages number ``[1]``, ``[2]``... at the start of a line."""
    size = 0
    for message in messages:
        for match in _IDENTIFIER.finditer(message.content):
            size += int(match.group(1)) == size + 1
    return size
