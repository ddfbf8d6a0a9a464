"""Models on this machine through Hugging Face transformers: batches what is waiting, one worker thread.

A sample is drawn from its own random stream, named by messages, sampling, seed and sample index. What else is in the
batch changes a row's logits by rounding alone: about 1e-6 in float32, where samples agree with and without company;
in bfloat16 rounding is coarser, and ``max_batch=1`` is the setting for runs that must repeat to the letter.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rearank.engines.base import EngineError
from rearank.types import Completion, Message, Sampling

if TYPE_CHECKING:
    import torch

Overflow: TypeAlias = Literal["truncate", "refuse"]

_ANSWER_SHARE = 2  # a prompt is cut so that the answer keeps max_tokens, but never more than 1/2 of the context
_HASHED_WHOLE = 1 << 30  # weights up to 1 GiB are fingerprinted whole, larger files by size, date and both ends
_END = 1 << 20


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

    Raises:
        EngineError: where there is no such model, or its tokenizer has no chat template or end token.
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
    ) -> None:
        import torch

        on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
        self._device = torch.device(("cuda" if on_gpu else "cpu") if device == "auto" else device)
        self._dtype = ("bfloat16" if on_gpu else "float32") if dtype == "auto" else dtype
        self._overflow = overflow
        self._max_batch = max_batch
        self._max_batch_tokens = max_batch_tokens
        self._gather_seconds = gather_seconds
        self.tokenizer, self._model = _load(str(model), revision, self._dtype)
        self._model.to(self._device).eval()
        self._ends = _end_tokens(self.tokenizer, self._model, str(model))
        self.context = _context(self.tokenizer, self._model)
        self._identity = {
            "engine": "transformers",
            # A folder is known by what is in it: moving it changes no answer.
            "model": "" if Path(model).expanduser().is_dir() else str(model),
            "revision": revision,
            "fingerprint": fingerprint(str(model), self._model),
            "dtype": self._dtype,
            "overflow": overflow,
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
            call.prompt, call.truncated = self._fit(call.messages, call.sampling)
        except EngineError as error:
            call.settle(error)
            return False
        except Exception as error:
            call.settle(EngineError(f"the model's chat template refuses this prompt: {error}"))
            return False
        self.truncated += call.truncated
        return True

    def _fit(self, messages: tuple[Message, ...], sampling: Sampling) -> tuple[list[int], bool]:
        limit = self.context - min(sampling.max_tokens, self.context // _ANSWER_SHARE)
        prompt = self._encode(messages)
        if len(prompt) <= limit:
            return prompt, False
        advice = "shorten the passages (prompt.max_characters), or take fewer in a window (strategy.size)"
        if self._overflow == "refuse":
            raise EngineError(
                f"a prompt of {len(prompt)} tokens leaves the answer too little of the model's context of "
                f"{self.context}; {advice}, or set engine.overflow=truncate"
            )
        low, high, best = 0, max(len(m.content) for m in messages), None
        while low <= high:  # the longest contents that fit
            middle = (low + high) // 2
            tokens = self._encode(tuple(replace(m, content=_shorten(m.content, middle)) for m in messages))
            if len(tokens) <= limit:
                low, best = middle + 1, tokens
            else:
                high = middle - 1
        if best is None:
            raise EngineError(
                f"the prompt's frame alone is longer than the model's context of {self.context}; {advice}"
            )
        return best, True

    def _encode(self, messages: tuple[Message, ...]) -> list[int]:
        turns = [asdict(message) for message in messages]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _answer(self, batch: list[_Call]) -> None:
        start = time.perf_counter()
        self.batches += 1

        def finish(call: _Call, tokens: list[int], reason: Literal["stop", "length"]) -> None:
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            seconds = time.perf_counter() - start
            ended = len(tokens) + (reason == "stop")
            call.settle(Completion(text, len(call.prompt), ended, reason, seconds, call.truncated))

        try:
            self._generate(batch, finish)
        except Exception as error:
            for call in batch:  # those already answered keep their answers
                failure = EngineError(f"generation failed: {type(error).__name__}: {error}")
                failure.__cause__ = error
                call.settle(failure)

    def _generate(
        self, batch: list[_Call], finish: Callable[[_Call, list[int], Literal["stop", "length"]], None]
    ) -> None:
        """Decode ``batch`` together; a row leaves the batch, and its caller goes on, as soon as it ends."""
        import torch

        with torch.inference_mode():
            rows = [_Row(call, self.context) for call in batch]
            width = max(len(call.prompt) for call in batch)
            pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else next(iter(self._ends))
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
                    if token in self._ends:
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
    """A call's place in a batch: what it has said so far and its own random stream."""

    def __init__(self, call: _Call, context: int) -> None:
        import torch

        self.call = call
        self.tokens: list[int] = []
        self.limit = min(call.sampling.max_tokens, context - len(call.prompt))
        named = json.dumps([[asdict(m) for m in call.messages], asdict(call.sampling)])
        seed = int.from_bytes(hashlib.sha256(named.encode()).digest()[:7])
        # On the CPU always: the stream must not depend on the device that computes the logits.
        self.random = torch.Generator().manual_seed(seed)

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


def _shorten(text: str, length: int) -> str:
    """``text`` cut in its middle to ``length`` characters: a prompt says what it wants at its ends."""
    if len(text) <= length:
        return text
    tail = length // 2
    return text[: length - tail] + text[len(text) - tail :]


def _load(model: str, revision: str | None, dtype: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # what loads is said by those who load it
    torch_dtype = getattr(torch, dtype, None)
    if not isinstance(torch_dtype, torch.dtype):
        raise EngineError(f"engine.dtype: torch has no {dtype!r}; write auto, float32 or bfloat16")
    folder = Path(model).expanduser()
    if not folder.is_dir() and (folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1):
        raise EngineError(f"no model at {model}: give a folder with config.json and weights, or a hub id")
    source = str(folder) if folder.is_dir() else model
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        network = AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=torch_dtype)
    except (OSError, ValueError) as error:
        raise EngineError(f"can't load {model}: {str(error).splitlines()[0]}") from error
    if not getattr(tokenizer, "chat_template", None):
        raise EngineError(
            f"{model}: its tokenizer has no chat template; use an instruction-tuned model, or put a "
            "chat_template.jinja beside its tokenizer"
        )
    return tokenizer, network


def _end_tokens(tokenizer: Any, network: Any, model: str) -> frozenset[int]:
    """The ids that end an answer: the tokenizer's and those of the model's generation config."""
    listed = getattr(network.generation_config, "eos_token_id", None)
    listed = listed if isinstance(listed, list) else [listed]
    ends = frozenset(i for i in (*listed, tokenizer.eos_token_id) if i is not None)
    if not ends:
        raise EngineError(f"{model}: neither its tokenizer nor its generation config names an end token (eos_token)")
    return ends


def _context(tokenizer: Any, network: Any) -> int:
    """The most tokens, prompt and answer together; a tokenizer without a limit states an absurdly large one."""
    config = network.config.get_text_config()
    stated = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    return int(min(stated, tokenizer.model_max_length))


def fingerprint(model: str, network: Any = None) -> str:
    """What the weights are: a hash of a folder's files, the commit of a hub model (``""`` if it can't be told)."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return str(getattr(getattr(network, "config", None), "_commit_hash", None) or "")
    digest = hashlib.sha256()
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in {".json", ".jinja", ".safetensors", ".bin", ".model"}
    ):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= _HASHED_WHOLE:
                while block := file.read(_END):
                    digest.update(block)
            else:
                digest.update(f"{path.stat().st_mtime_ns}:".encode() + file.read(_END))
                file.seek(-_END, 2)
                digest.update(file.read(_END))
    return digest.hexdigest()
