"""Models on this machine through Hugging Face transformers: batches what is waiting, one worker thread.

A sample is drawn from its own random stream, named by messages, sampling, seed and sample index. What else is in the
batch changes a row's logits by rounding alone: about 1e-6 in float32, where samples agree with and without company;
in bfloat16 rounding is coarser, and ``max_batch=1`` is the setting for runs that must repeat to the letter.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rearank.engines.base import EngineError
from rearank.engines.chat import Overflow, call_seed, in_one_line, load_chat
from rearank.engines.checkpoint import cannot_load, dtype_name, known_as
from rearank.engines.tokens import SpareTokenizer
from rearank.types import Completion, Message, Sampling

_NAME = "rearank-transformers"
_SMALL = 32 * 2**20
"""Bytes of weights that a processor's cache holds."""
_BESIDE = 4
"""Batches beside each other at most: they share Python."""
_MOST, _ON_CPU = 256, 16
"""Calls in a batch at most, where nobody says."""
_LEAST = 32
"""Calls that a batch takes before another one begins beside it: fewer cost more each."""


@dataclass(eq=False)
class _Call:
    """One completion under way."""

    messages: tuple[Message, ...]
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Completion]
    prompt: list[int] = field(default_factory=list)
    truncated: bool = False

    def settle(self, result: Completion | Exception) -> None:
        """Hand over the result; callable from the worker thread."""
        self.loop.call_soon_threadsafe(self._settle, result)

    def _settle(self, result: Completion | Exception) -> None:
        if self.answer.done():
            return
        if isinstance(result, Exception):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)


class TransformersEngine:
    """A causal language model with a chat template, loaded from a folder or the hub.

    Args:
        model: a folder or a hub id.
        revision: the hub's commit, tag or branch.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``...
        dtype: ``auto`` (bfloat16 on a GPU, float32 on a CPU) or torch's name of it.
        max_batch: calls generated together at most; ``None``: 256, and 16 of a model that is large for a CPU, so that
            the first answers come soon.
        max_batch_tokens: padded prompt and answer tokens of a batch at most; one call alone may exceed it.
        overflow: what to do with a prompt that leaves the answer no room in the context. ``truncate`` shortens the
            longest messages in their middles until it fits, and says so in ``Completion.prompt_truncated``; ``refuse``
            fails the call.
        gather_seconds: how long to wait for company before a batch starts.
        thinking: whether the model is to reason first, where its template has that switch; ``None`` leaves it alone.

    Raises:
        EngineError: where there is no such model, or its tokenizer has no chat template or end token, or the template
            has no switch for ``thinking``.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_batch: int | None = None,
        max_batch_tokens: int = 65536,
        overflow: Overflow = "truncate",
        gather_seconds: float = 0.005,
        thinking: bool | None = None,
    ) -> None:
        import torch

        on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
        self._device = torch.device(("cuda" if on_gpu else "cpu") if device == "auto" else device)
        self._dtype = dtype_name(dtype, on_gpu=on_gpu)
        self._max_batch_tokens = max_batch_tokens
        self._gather_seconds = gather_seconds
        self.chat = load_chat(model, revision, overflow=overflow, thinking=thinking)
        self.tokenizer = SpareTokenizer(self.chat.tokenizer)
        self.context = self.chat.context
        self._model = _load(self.chat.source, revision, self._dtype)
        self._model.to(self._device).eval()
        slow = self._device.type == "cpu" and _bytes_of(self._model) >= _SMALL
        self._max_batch = max_batch or (_ON_CPU if slow else _MOST)
        self._identity = {
            "engine": "transformers",
            "model": known_as(model),
            "revision": revision,
            "fingerprint": self.chat.fingerprint,
            "dtype": self._dtype,
            "overflow": overflow,
            **self.chat.switch,
        }
        self.truncated = 0
        """Prompts that were shortened to fit."""
        self.batches = 0
        self.written = 0
        """Tokens of answers so far, unfinished ones among them; for progress, threads may lose some of their count."""
        self._waiting: list[_Call] = []
        self._dispatchers: set[asyncio.Task[None]] = set()
        self._at_once, self._open = _batches_at_once(self._model), 0
        self._workers = _workers(self._at_once)
        # Prompts become tokens in one thread, whatever the number of workers, and no batch waits for it.
        self._desk = ThreadPoolExecutor(1, thread_name_prefix="rearank-prompts")
        self._reading = threading.Lock()

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, revision, weights' fingerprint, precision and the rule for prompts that are too long."""
        return self._identity

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """The model's answer; raises ``EngineError`` for a call it can't answer."""
        loop = asyncio.get_running_loop()
        call = _Call(tuple(messages), sampling, loop, loop.create_future())
        self._waiting.append(call)
        self._open += 1
        try:
            self._dispatch_more()
            return await call.answer
        finally:
            self._open -= 1

    async def aclose(self) -> None:
        """Finish what is under way and let the worker threads go."""
        while self._dispatchers:  # one that ends may have started another
            await asyncio.gather(*self._dispatchers, return_exceptions=True)
        self._workers.shutdown()
        self._desk.shutdown()

    def _dispatch_more(self) -> None:
        if self._waiting and len(self._dispatchers) < self._at_once:
            task = asyncio.create_task(self._dispatch())
            self._dispatchers.add(task)
            task.add_done_callback(self._dispatchers.discard)  # one that is cancelled before it has begun

    async def _dispatch(self) -> None:
        """Hand one batch after the other to a worker, while calls wait."""
        try:
            while self._waiting:
                await self._dispatch_one()
        finally:  # at once: a call that comes before a callback would run must find no dispatcher that is about to end
            self._dispatchers -= {asyncio.current_task()}

    async def _dispatch_one(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._gather_seconds)
        self._waiting = [call for call in self._waiting if not call.answer.done()]
        ready, self._waiting = self._waiting, []
        # Not all that wait: too few would be left for the batch beside this one when its turn comes.
        share = max(_LEAST, -(-self._open // self._at_once))
        batch, rest = await loop.run_in_executor(self._desk, self._choose, ready, min(share, self._max_batch))
        self._waiting = rest + self._waiting
        self._dispatch_more()  # the others saw nothing while this one chose
        if batch:
            await loop.run_in_executor(self._workers, self._answer, batch)

    def _choose(self, ready: list[_Call], most: int) -> tuple[list[_Call], list[_Call]]:
        """(the next batch of at most so many, the rest): the call that waits longest, and those nearest in length."""
        calls = [call for call in ready if call.prompt or self._prepare(call)]
        if not calls:
            return [], []
        first = calls[0]
        chosen: list[_Call] = []
        prompt = answer = 0
        for call in sorted(calls, key=lambda c: (c is not first, abs(len(c.prompt) - len(first.prompt)))):
            prompt, answer = max(prompt, len(call.prompt)), max(answer, call.sampling.max_tokens)
            count = len(chosen) + 1
            if chosen and (count > most or (prompt + answer) * count > self._max_batch_tokens):
                break
            chosen.append(call)
        taken = set(map(id, chosen))
        return chosen, [call for call in calls if id(call) not in taken]

    def _prepare(self, call: _Call) -> bool:
        """Tokenize the call's prompt, cut to fit; a call that can't be asked is settled with the reason."""
        try:
            with self._reading:
                call.prompt, call.truncated = self.chat.prompt(call.messages, call.sampling)
        except EngineError as error:
            call.settle(error)
            return False
        self.truncated += call.truncated
        return True

    def _answer(self, batch: list[_Call]) -> None:
        start = time.perf_counter()
        self.batches += 1

        def finish(call: _Call, tokens: list[int], reason: Literal["stop", "length"]) -> None:
            seconds = time.perf_counter() - start
            ended = len(tokens) + (reason == "stop")
            with self._reading:
                text = self.chat.text(tokens, call.messages)
            call.settle(Completion(text, len(call.prompt), ended, reason, seconds, call.truncated))

        try:
            self._generate(batch, finish)
        except Exception as error:
            for call in batch:  # those already answered keep their answers
                failure = EngineError(f"generation failed: {type(error).__name__}: {in_one_line(error)}")
                failure.__cause__ = error
                call.settle(failure)

    def _generate(
        self, batch: list[_Call], finish: Callable[[_Call, list[int], Literal["stop", "length"]], None]
    ) -> None:
        """Decode ``batch`` together; a row leaves the batch, and its caller goes on, as soon as it ends."""
        import torch

        from rearank.engines.decoding.draws import drawn
        from rearank.engines.decoding.loop import Decoding

        with torch.inference_mode():
            rows = [_Row(call, self.chat.room(call.prompt, call.sampling)) for call in batch]
            decoding = Decoding(self._model, [call.prompt for call in batch], min(self.chat.ends))
            while True:
                points = [row.points[len(row.tokens)] for row in rows]
                tokens = drawn(decoding.logits, [row.call.sampling for row in rows], points)
                going = []
                for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                    if row.call.answer.done():  # nobody waits for it any more
                        continue
                    if token in self.chat.ends:
                        finish(row.call, row.tokens, "stop")
                        continue
                    row.tokens.append(token)
                    if len(row.tokens) >= row.limit:
                        finish(row.call, row.tokens, "length")
                    else:
                        going.append(i)
                self.written += len(rows)
                if not going:
                    return
                ended = len(going) < len(rows)
                rows = [rows[i] for i in going]
                decoding.step([row.tokens[-1] for row in rows], going if ended else None)


class _Row:
    """A call's place in a batch: its tokens so far and its own random stream."""

    def __init__(self, call: _Call, limit: int) -> None:
        import torch

        self.call = call
        self.tokens: list[int] = []
        self.limit = limit
        # On the CPU always: the stream must not depend on the device that computes the logits.
        random = torch.Generator().manual_seed(call_seed(call.messages, call.sampling))
        self.points: list[float] = torch.rand(max(limit, 1), generator=random, dtype=torch.float64).tolist()
        """A number in [0, 1) for each token."""


def _batches_at_once(model: Any) -> int:
    """How many batches a CPU answers beside each other.

    A small model's matrices are too small to be shared among cores, so that each core has a batch of its own; a large
    one's are read from memory, and then once for all.
    """
    import torch

    small = model.device.type == "cpu" and _bytes_of(model) < _SMALL
    return min(torch.get_num_threads(), _BESIDE) if small else 1


def _bytes_of(model: Any) -> int:
    """Of its weights."""
    return sum(weights.numel() * weights.element_size() for weights in model.parameters())


def _workers(count: int) -> ThreadPoolExecutor:
    """So many threads that run a model, torch's threads shared out among them."""
    import torch

    threads = torch.get_num_threads()
    if count == 1:
        return ThreadPoolExecutor(1, thread_name_prefix=_NAME)
    started = threading.Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread that never asked takes the process's number at its first work
        torch.set_num_threads(threads // count)

    pool = ThreadPoolExecutor(count, _NAME, begin)
    for _ in range(count):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(threads)  # each worker's is also the process's for threads to come: it is set back
    return pool


def _load(source: str, revision: str | None, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # whoever loads the engine shows what loads
    try:
        return AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=getattr(torch, dtype))
    except (OSError, ValueError) as error:
        raise cannot_load(source, error) from error
