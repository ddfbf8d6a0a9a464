"""Models through vLLM in this process: every call is a request of its own, vLLM batches what is under way.

vLLM's engine belongs to one event loop and its callers' loops come and go (``asyncio.run`` again and again), so it gets
a loop in a thread of its own. It starts with the first call: where every answer is recorded, nothing is loaded.
Long prompts become tokens, and long answers text, in one more thread, so that both loops stay free; for short ones the
way there and back would cost more than the work. The tokenizer has one user at a time.

A sample is drawn with its own seed, named by messages, sampling, seed and sample index. What else is in the batch
changes a row's logits by rounding alone, which float32 hides nearly always and bfloat16 does not.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar

from rearank.engines.base import EngineError
from rearank.engines.chat import Overflow, call_seed, load_chat
from rearank.engines.checkpoint import known_as
from rearank.engines.home import EngineAtHome
from rearank.engines.tokens import SpareTokenizer
from rearank.engines.vllm.arguments import built_for_cpu, cores_bound, engine_args, quiet
from rearank.engines.vllm.capacity import Split, choose_sequences, gpus_seen
from rearank.engines.vllm.processes import PATIENCE, ProcessGuard
from rearank.progress import progress
from rearank.types import Completion, Message, Sampling

T = TypeVar("T")

_log = logging.getLogger(__name__)

_PULSE = 1.0  # seconds between two looks at an engine that owes an answer: a dead one leaves some requests hanging
_SHORT_PROMPT, _SHORT_ANSWER = 4000, 500
"""Characters and tokens that take a tokenizer well below a millisecond."""


class VllmEngine(EngineAtHome):
    """A causal language model with a chat template, loaded from a folder or the hub.

    Args:
        model: a folder or a hub id.
        revision: the hub's commit, tag or branch.
        device: ``auto`` (what the installed vLLM was built for), ``cuda`` or ``cpu``.
        dtype: ``auto`` (bfloat16 on a GPU, float32 on a CPU) or torch's name of it.
        tensor_parallel: GPUs each layer is split over; it must divide the model's heads.
        pipeline_parallel: groups of GPUs the stack of layers is split over.
        data_parallel: whole engines that share the calls, each on GPUs of its own.
        gpu_memory_utilization: the share of a GPU's memory that weights and key-value cache may take.
        kv_cache_gib: the key-value cache's size on a CPU, GiB; the variable VLLM_CPU_KVCACHE_SPACE goes first.
        max_model_len: the most tokens, prompt and answer together; ``None`` for the model's own context.
        max_concurrent: calls an engine generates together at most; others wait their turn inside vLLM. ``None``: as
            many as its key-value cache holds, by the sizes of the model and of the first call (``capacity``).
        prefix_caching: keep the keys and values of prompts that begin alike; it changes no answer.
        enforce_eager: no compiled graphs; ``None``: compiled on a GPU, not on a CPU, where it takes minutes.
        overflow: what to do with a prompt that leaves the answer no room in the context. ``truncate`` shortens the
            longest messages in their middles until it fits, and says so in ``Completion.prompt_truncated``; ``refuse``
            fails the call.
        thinking: whether the model is to reason first, where its template has that switch; ``None`` leaves it alone.

    Raises:
        EngineError: where there is no such model, or its tokenizer has no chat template or end token, or the template
            has no switch for ``thinking``; or the installed vLLM is built for another device, or the model can't be
            split as asked.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        device: Literal["auto", "cuda", "cpu"] = "auto",
        dtype: str = "auto",
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
        data_parallel: int = 1,
        gpu_memory_utilization: float = 0.9,
        kv_cache_gib: float = 1.0,
        max_model_len: int | None = None,
        max_concurrent: int | None = None,
        prefix_caching: bool = True,
        enforce_eager: bool | None = None,
        overflow: Overflow = "truncate",
        thinking: bool | None = None,
    ) -> None:
        super().__init__("rearank-vllm")
        on_cpu = built_for_cpu()
        if device != "auto" and on_cpu != (device == "cpu"):
            built = "CPUs" if on_cpu else "GPUs"
            raise EngineError(f"engine.device={device}: the vLLM installed here is built for {built}")
        self.chat = load_chat(model, revision, overflow=overflow, longest=max_model_len, thinking=thinking)
        self.tokenizer = SpareTokenizer(self.chat.tokenizer)
        self._split = Split(tensor_parallel, pipeline_parallel, data_parallel)
        if self.chat.sizes is not None and (misfits := self._split.misfits(self.chat.sizes)):
            raise EngineError(f"{model}: {'; '.join(misfits)}")
        self.context = self.chat.context
        self.truncated = 0
        """Prompts that were shortened to fit."""
        self._settings = engine_args(
            self.chat,
            revision,
            self._split,
            on_cpu=on_cpu,
            dtype=dtype,
            gpu_memory_utilization=gpu_memory_utilization,
            cache_gib=kv_cache_gib,
            sequences=max_concurrent,
            prefix_caching=prefix_caching,
            enforce_eager=enforce_eager,
        )
        self._identity = {
            "engine": "vllm",
            "model": known_as(model),
            "revision": revision,
            "fingerprint": self.chat.fingerprint,
            "dtype": self._settings["dtype"],
            "context": self.context,
            "overflow": overflow,
            **self.chat.switch,
        }
        self._numbers = itertools.count()
        self._cache_gib = kv_cache_gib if on_cpu else None
        self._scribe = ThreadPoolExecutor(1, thread_name_prefix="rearank-tokens")
        self._writing = threading.Lock()
        # What follows is touched in the home loop only.
        self._llm: Any = None
        self._guard: ProcessGuard | None = None
        self._refused: Exception | None = None
        self._death: str | None = None
        self._calls: set[asyncio.Task[Any] | None] = set()
        self._owed: set[asyncio.Task[Any]] = set()
        self._watch: asyncio.Task[None] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, revision, weights' fingerprint, precision, context and the rule for prompts that are too long."""
        return self._identity

    async def aclose(self) -> None:
        """Finish what is under way and stop vLLM's processes."""
        await super().aclose()
        self._scribe.shutdown()

    async def _complete(self, messages: tuple[Message, ...], sampling: Sampling) -> Completion:
        self._calls.add(asyncio.current_task())
        try:
            short = sum(len(message.content) for message in messages) <= _SHORT_PROMPT
            prompt, truncated = await self._written(short, self.chat.prompt, messages, sampling)
            self.truncated += truncated
            self._start(len(prompt), sampling.max_tokens)
            began = time.perf_counter()
            tokens, finish = await self._alive(self._generate(prompt, messages, sampling))
            seconds = time.perf_counter() - began
            answer_tokens = tokens[:-1] if finish == "stop" and tokens[-1] in self.chat.ends else tokens
            text = await self._written(len(tokens) <= _SHORT_ANSWER, self.chat.text, answer_tokens, messages)
        finally:
            self._calls.discard(asyncio.current_task())
        return Completion(text, len(prompt), len(tokens), finish, seconds, truncated)

    async def _written(self, short: bool, work: Callable[..., T], *given: Any) -> T:
        """What ``work`` makes with the tokenizer: here, where that is ``short`` and the other thread isn't at it."""
        if short and self._writing.acquire(blocking=False):
            try:
                return work(*given)
            finally:
                self._writing.release()

        def aside() -> T:
            with self._writing:
                return work(*given)

        return await asyncio.get_running_loop().run_in_executor(self._scribe, aside)

    async def _generate(
        self, prompt: list[int], messages: tuple[Message, ...], sampling: Sampling
    ) -> tuple[list[int], Literal["stop", "length"]]:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        drawn = SamplingParams(
            max_tokens=self.chat.room(prompt, sampling),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=call_seed(messages, sampling) if sampling.temperature else None,
            stop_token_ids=sorted(self.chat.ends),
            detokenize=False,  # the text comes from our tokenizer, as the transformers engine's does
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        tokens: list[int] = []
        reason = None
        asked = {"type": "token", "prompt_token_ids": prompt}
        async for output in self._llm.generate(asked, drawn, f"rearank-{next(self._numbers)}"):
            tokens, reason = list(output.outputs[0].token_ids), output.outputs[0].finish_reason
        if reason == "stop" or reason == "length":
            return tokens, reason
        raise EngineError(f"vLLM gave up a request (it says {reason!r})")

    async def _alive(self, request: Coroutine[Any, Any, T]) -> T:
        """The request's result; ``EngineError`` where it fails or the engine dies under it."""
        task = asyncio.current_task()
        assert task is not None, "the home loop runs each call as a task"
        self._owed.add(task)
        try:
            return await request
        except EngineError:
            raise
        except asyncio.CancelledError:
            # By ``_look_after``, and by nobody else.
            if task not in self._owed and not task.uncancel():
                raise self._dead() from None
            raise
        except Exception as error:
            if self._llm.errored:
                raise self._dead() from error
            cause = error.__cause__ or error  # vLLM wraps a failed request in an error without words
            raise EngineError(f"generation failed: {type(cause).__name__}: {cause}") from error
        finally:
            self._owed.discard(task)

    async def _look_after(self) -> None:
        """Give up the requests that a dead engine owes; one look for all of them."""
        while True:
            await asyncio.sleep(_PULSE)
            if self._llm.errored:
                owed, self._owed = self._owed, set()
                for task in owed:
                    task.cancel()

    def _dead(self) -> EngineError:
        if self._death is None:  # looked into once: it takes a moment, and every call under way asks
            self._death = self._guard.ended() if self._guard is not None else ""
        return EngineError(
            f"vLLM's engine process died{self._death}; it says why in its own messages above, if it could"
        )

    def _start(self, prompt: int, answer: int) -> None:
        """Start vLLM unless that was tried before; the first call's sizes, in tokens, stand for the others'.

        It holds the home loop up, where nobody could go on anyway.
        """
        if self._llm is not None:
            return
        if self._refused is None:
            self._guard = ProcessGuard()
            on_cpu = self._cache_gib is not None
            for name, value in quiet(on_cpu=on_cpu).items():
                os.environ.setdefault(name, value)
            if self._settings["max_num_seqs"] is None:
                self._settings["max_num_seqs"] = self._chosen_sequences(prompt, answer)
            try:
                bound = cores_bound(self._split) if on_cpu else nullcontext()
                with progress("starting vLLM"), self._guard.watching(), bound:
                    self._llm = self._launch(self._settings)
                self._watch = asyncio.get_running_loop().create_task(self._look_after())
                _log.info("vLLM %s", self._capacity())
                return
            except Exception as error:
                self._refused = error
        raise EngineError(f"vLLM does not start: {self._refused}") from self._refused

    def _launch(self, settings: Mapping[str, Any]) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_engine_args(AsyncEngineArgs(**settings))

    def _chosen_sequences(self, prompt: int, answer: int) -> int | None:
        gpus = [] if self._cache_gib is not None else gpus_seen()
        choice = choose_sequences(
            self.chat.sizes,
            self._split,
            dtype=self._settings["dtype"],
            prompt=prompt,
            answer=min(answer, self.context - prompt),
            cache_gib=self._cache_gib,
            gpu_gib=min(gpus, default=None),
            utilization=self._settings["gpu_memory_utilization"],
        )
        _log.info("engine.max_concurrent=%s, chosen: %s", choice.sequences or "vLLM's default", choice.why)
        return choice.sequences

    def _capacity(self) -> str:
        """What vLLM says it really has, as far as its inner fields are where this version has them."""
        try:
            config = self._llm.vllm_config
            tokens = config.cache_config.num_gpu_blocks * config.cache_config.block_size
            return f"takes {config.scheduler_config.max_num_seqs} calls at once and caches {tokens:,} tokens"
        except (AttributeError, TypeError):
            return "has started"

    async def _stop(self) -> None:
        await asyncio.gather(*(call for call in self._calls if call is not None), return_exceptions=True)
        if self._watch is not None:
            self._watch.cancel()
        if self._llm is not None:
            self._llm.shutdown(timeout=PATIENCE)
            self._llm = None
        if self._guard is not None:
            self._guard.dismiss()
