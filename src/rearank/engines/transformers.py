"""Models on this machine through Hugging Face transformers: batches what is waiting, one worker thread.

A sample is drawn from its own random stream, named by messages, sampling, seed and sample index. What else is in the
batch changes a row's logits by rounding alone: about 1e-6 in float32, where samples agree with and without company;
in bfloat16 rounding is coarser, and ``max_batch=1`` is the setting for runs that must repeat to the letter.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rearank.engines.base import EngineError
from rearank.engines.chat import Overflow, SpareTokenizer, call_seed, in_one_line, load_chat
from rearank.engines.checkpoint import cannot_load, dtype_name, known_as
from rearank.types import Completion, Message, Sampling

if TYPE_CHECKING:
    import torch


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
        max_batch: calls generated together at most.
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
        max_batch: int = 128,
        max_batch_tokens: int = 65536,
        overflow: Overflow = "truncate",
        gather_seconds: float = 0.005,
        thinking: bool | None = None,
    ) -> None:
        import torch

        on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
        self._device = torch.device(("cuda" if on_gpu else "cpu") if device == "auto" else device)
        self._dtype = dtype_name(dtype, on_gpu=on_gpu)
        self._max_batch = max_batch
        self._max_batch_tokens = max_batch_tokens
        self._gather_seconds = gather_seconds
        self.chat = load_chat(model, revision, overflow=overflow, thinking=thinking)
        self.tokenizer = SpareTokenizer(self.chat.tokenizer)
        self.context = self.chat.context
        self._model = _load(self.chat.source, revision, self._dtype)
        self._model.to(self._device).eval()
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
        self._waiting: list[_Call] = []
        self._dispatcher: asyncio.Task[None] | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="rearank-transformers")

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, revision, weights' fingerprint, precision and the rule for prompts that are too long."""
        return self._identity

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """The model's answer; raises ``EngineError`` for a call it can't answer."""
        loop = asyncio.get_running_loop()
        call = _Call(tuple(messages), sampling, loop, loop.create_future())
        self._waiting.append(call)
        if self._dispatcher is None or self._dispatcher.done():
            self._dispatcher = asyncio.create_task(self._dispatch())
        return await call.answer

    async def aclose(self) -> None:
        """Finish what is under way and let the worker thread go."""
        if self._dispatcher is not None:
            await asyncio.gather(self._dispatcher, return_exceptions=True)
        self._worker.shutdown()

    async def _dispatch(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(self._gather_seconds)
            self._waiting = [call for call in self._waiting if not call.answer.done()]
            ready, self._waiting = self._waiting, []
            batch, rest = await loop.run_in_executor(self._worker, self._choose, ready)
            self._waiting = rest + self._waiting
            if batch:
                await loop.run_in_executor(self._worker, self._answer, batch)

    def _choose(self, ready: list[_Call]) -> tuple[list[_Call], list[_Call]]:
        """(the next batch, the rest): the call that waits longest, and those nearest to it in length."""
        calls = [call for call in ready if call.prompt or self._prepare(call)]
        if not calls:
            return [], []
        first = calls[0]
        batch: list[_Call] = []
        for call in sorted(calls, key=lambda c: (c is not first, abs(len(c.prompt) - len(first.prompt)))):
            together = [*batch, call]
            padded = max(len(c.prompt) for c in together) + max(c.sampling.max_tokens for c in together)
            if batch and (len(together) > self._max_batch or padded * len(together) > self._max_batch_tokens):
                break
            batch = together
        chosen = set(map(id, batch))
        return batch, [call for call in calls if id(call) not in chosen]

    def _prepare(self, call: _Call) -> bool:
        """Tokenize the call's prompt, cut to fit; a call that can't be asked is settled with the reason."""
        try:
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

        with torch.inference_mode():
            rows = [_Row(call, self.chat.room(call.prompt, call.sampling)) for call in batch]
            width = max(len(call.prompt) for call in batch)
            pad = self.chat.tokenizer.pad_token_id
            pad = next(iter(self.chat.ends)) if pad is None else pad
            prompts = [[pad] * (width - len(c.prompt)) + c.prompt for c in batch]
            lengths = torch.tensor([len(c.prompt) for c in batch], device=self._device)
            inputs = torch.tensor(prompts, device=self._device)
            mask = (torch.arange(width, device=self._device) >= width - lengths[:, None]).long()
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            cache = None
            while rows:
                output = self._model(
                    input_ids=inputs,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = output.past_key_values
                tokens = _draw(output.logits[:, -1], rows)
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
                if not going:
                    return
                positions = positions[:, -1:] + 1
                if len(going) < len(rows):
                    kept = torch.tensor(going, device=self._device)
                    rows = [rows[i] for i in going]
                    positions, mask = positions[kept], mask[kept]
                    cache.batch_select_indices(kept)
                inputs = torch.tensor([[row.tokens[-1]] for row in rows], device=self._device)
                mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)


class _Row:
    """A call's place in a batch: its tokens so far and its own random stream."""

    def __init__(self, call: _Call, limit: int) -> None:
        import torch

        self.call = call
        self.tokens: list[int] = []
        self.limit = limit
        # On the CPU always: the stream must not depend on the device that computes the logits.
        self.random = torch.Generator().manual_seed(call_seed(call.messages, call.sampling))

    def uniform(self) -> float:
        import torch

        return float(torch.rand((), generator=self.random, dtype=torch.float64))


def _draw(logits: torch.Tensor, rows: list[_Row]) -> list[int]:
    """The next token of each row.

    One uniform number picks from the cumulated distribution, in the vocabulary's order: sorting by probability would
    let a rounding error swap two tokens and change the draw.
    """
    import torch

    tokens = logits.argmax(-1)
    sampled = [i for i, row in enumerate(rows) if row.call.sampling.temperature > 0]
    if sampled:
        double = {"dtype": torch.float64, "device": logits.device}
        heat = torch.tensor([rows[i].call.sampling.temperature for i in sampled], **double)
        top_p = torch.tensor([rows[i].call.sampling.top_p for i in sampled], **double)
        point = torch.tensor([rows[i].uniform() for i in sampled], **double)
        share = torch.softmax(logits[sampled].double() / heat[:, None], dim=-1)
        if bool((top_p < 1).any()):
            share = _nucleus(share, top_p)
        total = share.cumsum(-1)
        drawn = (total <= point[:, None] * total[:, -1:]).sum(-1)
        tokens[sampled] = drawn.clamp(max=logits.shape[-1] - 1)
    return [int(token) for token in tokens.tolist()]


def _nucleus(share: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """``share`` with 0 outside the fewest tokens that together reach ``top_p``."""
    ordered, index = share.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    kept = ordered.masked_fill(before >= top_p[:, None], 0.0)
    kept[:, 0] = ordered[:, 0]
    return share.new_zeros(share.shape).scatter(-1, index, kept)


def _load(source: str, revision: str | None, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # whoever loads the engine shows what loads
    try:
        return AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=getattr(torch, dtype))
    except (OSError, ValueError) as error:
        raise cannot_load(source, error) from error
