"""A public fake: an engine without a model, for tests, dry runs and scheduling studies. Ours and yours."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Le

from rearank.checks import check_fields
from rearank.engines.base import EngineError, turns
from rearank.prompts import Asks
from rearank.types import Completion, Message, Qrels, Sampling, Window

Behaviour: TypeAlias = Literal["oracle", "given", "reverse", "random", "malformed", "noisy"]

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
_LETTERED = re.compile(r"^(?:Passage )?\[?([A-Z])[\]:] ", re.MULTILINE)
_PASSAGE_LINE = re.compile(r"^(?:\[\d+\]|\[[A-Z]\]|Passage(?: [A-Z])?:) .*$", re.MULTILINE)
_CHAIN = re.compile(r"\]\s*>\s*\[")
_ONE_LABEL = re.compile(r"\[\d+\]|\[[A-Z]\]|\bPassage [A-Z]\b")
_YES_AND_NO = re.compile(r"\byes\b.*\bno\b", re.IGNORECASE | re.DOTALL)
_RELEVANT = 0.5
"""From this (noisy) grade on the answer is yes."""


@dataclass(eq=False)
class ScriptedEngine:
    """Answers by rule, after a delay, sometimes with an error; the same call always fares the same.

    It answers in the form that the end of the last message asks for: a ranking (an example there holds ``] > [``),
    the best passage alone (an example names one), or yes or no.

    Args:
        behaviour: ``oracle`` (best grade first, ties as given), ``noisy`` (an oracle that misreads each grade anew in
            each call), ``given``, ``reverse``, ``random`` or ``malformed``. Asked for yes or no, ``given`` says yes,
            ``reverse`` no, and an oracle yes from grade 1 on (``noisy``: where what it reads is at least 0.5).
        judgements: the grades the oracles go by, query id -> passage id -> grade; absent ones count 0.
        seed: with the messages and the sampling it fixes random orders, delays and failures.
        seconds: median delay of a call; 0 answers at once.
        sigma: spread of the delays, which are log-normal as answer lengths are.
        slots: how many calls are served at once, others wait in line; ``None`` for no limit.
        failing: share of the calls that raise ``EngineError``, 0 to 1.
        noise: of ``noisy``: standard deviation of the Gaussian error it adds to a grade.
    """

    behaviour: Behaviour = "oracle"
    _: KW_ONLY
    judgements: Qrels | None = None
    seed: int = 0
    seconds: Annotated[float, Ge(0)] = 0.0
    sigma: Annotated[float, Ge(0)] = 0.5
    slots: Annotated[int, Ge(1)] | None = None
    failing: Annotated[float, Ge(0), Le(1)] = 0.0
    noise: Annotated[float, Ge(0)] = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        self.calls = 0
        self._free = asyncio.Semaphore(self.slots) if self.slots is not None else nullcontext()

    @property
    def identity(self) -> Mapping[str, Any]:
        """Delays and failures are left out: they change no answer."""
        identity: dict[str, Any] = {"engine": "scripted", "behaviour": self.behaviour, "seed": self.seed}
        if self.behaviour == "noisy":
            identity["noise"] = self.noise
        if self.behaviour in ("oracle", "noisy"):
            grades = json.dumps(self.judgements, sort_keys=True)
            identity["judgements"] = hashlib.sha256(grades.encode()).hexdigest()
        return identity

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """As ``complete_window``, with the window's size read off the messages' ``[1] ...`` lines."""
        return await self._serve(None, messages, sampling)

    async def complete_window(self, window: Window, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """The scripted answer about ``window``; raises ``EngineError`` for the share of calls that fails."""
        return await self._serve(window, messages, sampling)

    async def aclose(self) -> None:
        """Nothing to release."""

    async def _serve(self, window: Window | None, messages: Sequence[Message], sampling: Sampling) -> Completion:
        async with self._free:
            return await self._answer(window, messages, sampling)

    async def _answer(self, window: Window | None, messages: Sequence[Message], sampling: Sampling) -> Completion:
        call = json.dumps([self.seed, turns(messages), asdict(sampling)])
        rng = random.Random(hashlib.sha256(call.encode()).digest())
        seconds = self.seconds * math.exp(rng.gauss(0.0, self.sigma))
        failed = rng.random() < self.failing
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
        asked, letters = _asked(messages)
        if asked == "yes_no":
            answer = "yes" if self._relevant(window, rng) else "no"
        else:
            order = self._order(window, len(window) if window is not None else _window_size(messages), rng)
            names = [chr(ord("A") + i) if letters else str(i + 1) for i in order]
            answer = " > ".join(f"[{name}]" for name in (names[:1] if asked == "best" else names))
        return f"<think> The scripted engine's {self.behaviour} order. </think>\n<answer> {answer} </answer>"

    def _order(self, window: Window | None, size: int, rng: random.Random) -> list[int]:
        """0-based positions, best first."""
        order = list(range(size))
        if self.behaviour in ("oracle", "noisy"):
            read = self._read_grades(window, rng)
            order.sort(key=lambda i: -read[i])
        elif self.behaviour == "reverse":
            order.reverse()
        elif self.behaviour == "random":
            rng.shuffle(order)
        return order

    def _relevant(self, window: Window | None, rng: random.Random) -> bool:
        """Whether the first passage is; there is one only."""
        if self.behaviour in ("oracle", "noisy"):
            return self._read_grades(window, rng)[0] >= _RELEVANT
        return rng.random() < 0.5 if self.behaviour == "random" else self.behaviour == "given"

    def _read_grades(self, window: Window | None, rng: random.Random) -> Sequence[float]:
        """The passages' grades as this call sees them."""
        if window is None or self.judgements is None:
            raise EngineError(
                "the scripted oracle needs judgements and the window itself: give it judgements and call it "
                "through PromptRanker, or choose behaviour=reverse or random"
            )
        grades = self.judgements.get(window.query.id, {})
        noise = self.noise if self.behaviour == "noisy" else 0.0
        # Below 0 is not relevant, as 0 is.
        return [
            max(grades.get(passage.id, 0), 0) + (rng.gauss(0.0, noise) if noise else 0) for passage in window.passages
        ]


def _asked(messages: Sequence[Message]) -> tuple[Asks, bool]:
    """What the conversation asks for, by the end of its last message, and whether letters are the labels."""
    request = _PASSAGE_LINE.split(messages[-1].content)[-1] if messages else ""
    letters = any(_LETTERED.search(message.content) for message in messages)
    if _CHAIN.search(request):
        return "ranking", letters
    if _YES_AND_NO.search(request):
        return "yes_no", letters
    return ("best" if _ONE_LABEL.search(request) else "ranking"), letters


def _window_size(messages: Sequence[Message]) -> int:
    """How many passages the messages number ``[1]``, ``[2]``... or letter A, B... at the start of a line."""
    size = 0
    for message in messages:
        for match in _IDENTIFIER.finditer(message.content):
            size += int(match.group(1)) == size + 1
        for match in _LETTERED.finditer(message.content):
            size += ord(match.group(1)) - ord("A") == size
    return size
