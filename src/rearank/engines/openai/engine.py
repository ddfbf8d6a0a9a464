"""Models behind a server that speaks OpenAI's chat protocol: OpenAI, vLLM, SGLang, DeepSeek and many more.

What is retried, and when the run stops instead, stands in ``retries``. The connection belongs to one event
loop and its callers' loops come and go, so it gets a loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from rearank.engines.base import EngineError
from rearank.engines.chat import call_seed, split_prefill
from rearank.engines.checkpoint import fingerprint, known_as
from rearank.engines.home import EngineAtHome
from rearank.engines.openai.budget import Budget, BudgetError, Usage
from rearank.engines.openai.overflow import Request, fitted
from rearank.engines.openai.replies import Reply, is_served_as, read_reply, whole_text
from rearank.engines.openai.retries import Backoff, Kind, Trouble
from rearank.engines.openai.server import Server
from rearank.engines.openai.settings import OpenAISettings
from rearank.ranking import AbortRunError
from rearank.types import Completion, Message, Sampling

_SHORTENED_AT_MOST = 12  # times a prompt is shortened before its call fails
_SEEDS = 1 << 31  # what every server takes as a seed
_CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}  # as vLLM and SGLang take it
_ADVICE = "shorten the passages (prompt.max_characters), or take fewer in a window (strategy.size)"


class ServerError(EngineError, AbortRunError):
    """The server would answer no call of this run; the message says why and how to mend it."""


class OpenAIEngine(EngineAtHome):
    """Asks the server that ``node`` describes for answers of ``model``.

    Args:
        node: see ``OpenAISettings``.
        model: what the server is asked for, unless ``node.served_model`` names something else.
        revision: part of what names an answer; it is not sent.
        thinking: the switch of models that have one, sent as vLLM and SGLang take it
            (``chat_template_kwargs.enable_thinking``); ``None`` sends nothing.
    """

    def __init__(
        self, node: OpenAISettings, model: str | Path, *, revision: str | None = None, thinking: bool | None = None
    ) -> None:
        super().__init__("rearank-openai")
        self.node = node
        self.model = node.served_model or str(model)
        self.budget = Budget(node.budget)
        self.truncated = 0
        """Prompts that were shortened to fit."""
        self.retried = 0
        """Requests that were repeated."""
        self._extra = _with_switch(node.extra_body, thinking)
        self._identity = {
            "engine": "openai",
            "model": node.served_model or known_as(model),
            "revision": revision,
            "fingerprint": fingerprint(model),
            "extra_body": json.loads(json.dumps(self._extra)),
            "send_temperature": node.send_temperature,
            "send_seed": node.send_seed,
            "overflow": node.overflow,
        }
        self._backoff = Backoff(node.first_wait, node.longest_wait)
        # What follows is touched in the home loop only.
        self._server = Server(node)
        self._slots = asyncio.Semaphore(node.max_concurrent_calls)
        self._stopping = asyncio.Event()
        self._reason: EngineError | None = None
        self._answered = 0

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, revision, the local weights' fingerprint where the model is a folder, and what else shapes an answer.

        The server's address does not: the same model may be served elsewhere tomorrow.
        """
        return self._identity

    async def drain(self) -> None:
        """Give up the calls that wait for their turn or for another try; those being answered go on."""
        if self._home is not None:
            await self._home.run(self._end(EngineError("the run ended before this call was made")))

    async def _stop(self) -> None:
        """Drop the connections; what is under way ends with the loop."""
        await self._server.close()

    async def _complete(self, messages: tuple[Message, ...], sampling: Sampling) -> Completion:
        """The server's answer.

        Raises:
            EngineError: for a call that got none.
            ServerError: where no call of this run would; stops the run.
            BudgetError: where the budget is spent; stops the run.
        """
        _, prefill = split_prefill(messages)
        if refused := self.node.prefill_misfits(prefill):
            raise ServerError("; ".join(refused))
        async with self._slots:
            self._server.open()
            request = Request(messages, sampling.max_tokens)
            answered, failures, cuts, cost = self._answered, 0, 0, 0.0
            while True:
                self._go_on()
                began = time.perf_counter()
                try:
                    reply = await self._ask(self._body(request, call_seed(messages, sampling), sampling))
                    break
                except Trouble as trouble:
                    cost += self._charge(trouble.usage) if trouble.usage is not None else 0.0
                    if trouble.too_long is not None and cuts < _SHORTENED_AT_MOST:
                        request = self._shorter(request, trouble)
                        cuts += 1
                    elif trouble.kind is Kind.RETRY and failures < self.node.retries:
                        await self._pause(self._backoff.seconds(failures, trouble.wait))
                        failures += 1
                    else:
                        await self._give_up(trouble, failures, nobody_answered=self._answered == answered)
            self._answered += 1
            self.truncated += request.shortened
            usage = reply.usage or Usage()
            return Completion(
                text=whole_text(reply, prefill),  # a server says what it added
                prompt_tokens=usage.prompt,
                completion_tokens=usage.completion,
                finish=reply.finish,
                seconds=time.perf_counter() - began,
                prompt_truncated=request.shortened,
                cost=cost + self._charge(reply.usage),
            )

    async def _ask(self, body: Mapping[str, Any]) -> Reply:
        """One request; raises ``Trouble``."""
        reply = read_reply(await self._server.chat(body))
        if not is_served_as(self.model, reply.model, self.node.accept_model):
            answering = self._server.clean(repr(reply.model))
            raise Trouble(
                Kind.STOP,
                f"{self.model!r} was asked for and {answering} answers; if that is the same model, set "
                "engine.accept_model to the name it answers under",
                usage=reply.usage,
            )
        return reply

    def _body(self, request: Request, seed: int, sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [asdict(message) for message in request.messages],
            self.node.max_tokens_field: request.max_tokens,
        }
        if self.node.send_temperature:
            body["temperature"] = sampling.temperature
            if sampling.top_p != 1:
                body["top_p"] = sampling.top_p
        if self.node.send_seed and sampling.temperature:
            body["seed"] = seed % _SEEDS
        continued = _CONTINUED if split_prefill(request.messages)[1] else {}
        if self._extra or continued:
            body["extra_body"] = {**self._extra, **continued}
        return body

    def _shorter(self, request: Request, trouble: Trouble) -> Request:
        """What to ask instead of a request that is too long; raises ``EngineError`` where there is nothing."""
        shorter = fitted(request, trouble.too_long) if trouble.too_long is not None else None
        if shorter is None:
            raise EngineError(f"the prompt can't be made to fit the model's context ({trouble}); {_ADVICE}")
        if shorter.shortened and self.node.overflow == "refuse":
            raise EngineError(f"the prompt is too long ({trouble}); {_ADVICE}, or set engine.overflow=truncate")
        return shorter

    def _charge(self, usage: Usage | None) -> float:
        """What an answer cost, US dollars; a budget can't be kept with a server that doesn't say."""
        if self.node.prices is None:
            return 0.0
        if usage is None and self.node.budget is not None:
            failure = f"{self._server.url} doesn't say how many tokens it charges for, so engine.budget can't be kept"
            self._halt(ServerError(f"{failure}; set engine.budget=null to go on without it"))
        cost = self.node.prices.cost(usage or Usage())
        self.budget.charge(cost)
        return cost

    def _go_on(self) -> None:
        """Before every request: raises where the run is over or the budget is spent."""
        if self._reason is None:
            try:
                self.budget.check()
            except BudgetError as error:
                self._halt(error)
        if self._reason is not None:
            raise type(self._reason)(str(self._reason))

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the run ends meanwhile."""
        self.retried += 1
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _give_up(self, trouble: Trouble, failures: int, *, nobody_answered: bool) -> NoReturn:
        tried = f" (tried {failures + 1} times)" if failures else ""
        failure = f"{self._server.url}: {trouble}{tried}"
        if trouble.kind is Kind.NO_MODEL:
            failure = f"{self._server.url} has no model {self.model!r} ({trouble}){await self._server.models()}"
            failure += "; set model.path or engine.served_model"
        elif trouble.unreachable and nobody_answered:
            failure += "; nobody answers there: start the server, or set engine.base_url"
        elif trouble.kind is not Kind.STOP:
            raise EngineError(failure)
        self._halt(ServerError(failure))
        raise ServerError(failure)

    def _halt(self, reason: EngineError) -> None:
        """No further request is sent; the first reason counts."""
        self._reason = self._reason or reason
        self._stopping.set()

    async def _end(self, reason: EngineError) -> None:
        self._halt(reason)


def _with_switch(extra: Mapping[str, Any], thinking: bool | None) -> dict[str, Any]:
    """``extra`` with the thinking switch, where there is one; what ``extra`` itself says of it wins."""
    if thinking is None:
        return dict(extra)
    template = {"enable_thinking": thinking, **extra.get("chat_template_kwargs", {})}
    return {**extra, "chat_template_kwargs": template}
