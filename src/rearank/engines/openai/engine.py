"""Models behind a server that speaks OpenAI's chat protocol: OpenAI, vLLM, SGLang, DeepSeek and many more.

What is retried, and when the run stops instead, stands in ``retries``; which of several servers is asked, in
``servers``. The connections belong to one event loop and its callers' loops come and go, so they get a loop in a thread
of their own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from rearank.engines.base import EngineError
from rearank.engines.chat import call_seed, split_prefill
from rearank.engines.checkpoint import fingerprint, known_as
from rearank.engines.home import EngineAtHome
from rearank.engines.openai.budget import Budget, BudgetError, Usage
from rearank.engines.openai.overflow import Request, TooLong, fitted, tokens_of
from rearank.engines.openai.refusals import SETTINGS, Refusals
from rearank.engines.openai.replies import Reply, is_served_as, read_reply, reread, whole_text
from rearank.engines.openai.retries import Backoff, Kind, Trouble
from rearank.engines.openai.server import Server
from rearank.engines.openai.servers import Servers
from rearank.engines.openai.settings import OpenAISettings
from rearank.ranking import AbortRunError
from rearank.types import Completion, Message, Sampling

_log = logging.getLogger(__name__)

_SHORTENED_AT_MOST = 12  # times a prompt is shortened before its call fails
_EMPTY_AT_MOST = 2  # empty answers that are asked for again: they are paid for
_LONG_ENOUGH = 2000  # characters of a prompt: of a shorter one a template's own tokens say too much
_USUAL_TOKEN, _WIDEST_TOKEN = 4, 8  # characters of a token, mean over a prompt
_LOOK_AGAIN = 0.02  # seconds
_SEEDS = 1 << 31  # what every server takes as a seed
_CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}  # as vLLM and SGLang take it
_ADVICE = "shorten the passages (prompt.max_characters), or take fewer in a window (strategy.size)"


class ServerError(EngineError, AbortRunError):
    """The server would answer no call of this run; the message says why and how to mend it."""


class OpenAIEngine(EngineAtHome):
    """Asks the server that ``node`` describes, or one of several, for answers of ``model``.

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
        self._servers = Servers(node)
        self._slots = asyncio.Semaphore(node.max_concurrent_calls)
        self._stopping = asyncio.Event()
        self._reason: EngineError | None = None
        self._answered = 0
        self._asking = 0
        self._refusals = Refusals()
        self._logged: set[str] = set()

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, revision, the local weights' fingerprint where the model is a folder, and what else shapes an answer.

        The server's address does not: the same model may be served elsewhere tomorrow.
        """
        return self._identity

    def reread(self, recorded: Completion) -> Completion | None:
        """A recorded answer as it is read today; ``None`` for a failure that an earlier version recorded."""
        text = reread(recorded.text, recorded.finish if recorded.completion_tokens else "stop")
        return recorded if text == recorded.text else None if text is None else replace(recorded, text=text)

    async def drain(self) -> None:
        """Give up the calls that wait for their turn or for another try; those being answered go on."""
        if self._home is not None:
            await self._home.run(self._end(EngineError("the run ended before this call was made")))

    async def _stop(self) -> None:
        """Drop the connections; what is under way ends with the loop."""
        await self._servers.close()

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
            server: Server | None = None
            request = Request(messages, sampling.max_tokens)
            answered, failures, cuts, empty, cost = self._answered, 0, 0, 0, 0.0
            while True:
                self._go_on()
                began = time.perf_counter()
                server = self._servers.next(server)
                try:
                    reply = await self._ask(server, request, call_seed(messages, sampling), sampling)
                    break
                except Trouble as trouble:
                    if trouble.usage is not None:
                        cost += self._charge(self._counted(server, trouble.usage, request, ""))
                    empty += trouble.empty
                    if await self._is_longest(server, request, trouble):
                        trouble.too_long = TooLong()
                    if trouble.too_long is not None and cuts < _SHORTENED_AT_MOST:
                        request = self._shorter(request, trouble)
                        cuts += 1
                    elif trouble.kind is Kind.RETRY and failures < self.node.retries and empty <= _EMPTY_AT_MOST:
                        at_once = failures == 0 and self._servers.other_than(server)
                        await self._pause(0.0 if at_once else self._backoff.seconds(failures, trouble.wait))
                        failures += 1
                    else:
                        nobody = self._answered == answered
                        await self._give_up(server, trouble, failures, messages, nobody_answered=nobody)
            self._answered += 1
            self._refusals.answered(request.characters)
            self.truncated += request.shortened
            usage = self._counted(server, reply.usage or Usage(), request, reply.text)
            self._look_at(server, request, reply)
            return Completion(
                text=whole_text(reply, prefill),  # a server says what it added
                prompt_tokens=usage.prompt,
                completion_tokens=usage.completion,
                finish=reply.finish,
                seconds=time.perf_counter() - began,
                prompt_truncated=request.shortened,
                cost=cost + self._charge(usage),
            )

    async def _ask(self, server: Server, request: Request, seed: int, sampling: Sampling) -> Reply:
        """One request; raises ``Trouble``."""
        self._asking += 1
        try:
            with self._servers.asking(server):
                body = await server.chat(self._body(request, seed, sampling), request)
                reply = read_reply(body, self.node.variable, request)
        except Trouble as trouble:
            trouble.args = (server.clean(str(trouble)),)
            raise
        finally:
            self._asking -= 1
        if not is_served_as(self.model, reply.model, self.node.accept_model):
            answering = server.clean(repr(reply.model))
            raise Trouble(
                Kind.STOP,
                f"{self.model!r} was asked for and {answering} answers; if that is the same model, set "
                "engine.accept_model to the name it answers under",
                usage=reply.usage,
            )
        return replace(reply, text=server.without_secret(reply.text))

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

    async def _is_longest(self, server: Server, request: Request, trouble: Trouble) -> bool:
        """Whether an unexplained refusal may be for a prompt's length, since shorter ones are answered.

        It waits for the calls under way while none is: refusals come sooner than answers.
        """
        while trouble.of_its_length and self._asking and not self._answered and not self._stopping.is_set():
            await asyncio.sleep(_LOOK_AGAIN)
        longest = trouble.of_its_length and self._refusals.is_longest(request.characters)
        if longest and self.node.overflow == "truncate":
            self._log_once(
                server,
                "refused lengths",
                f"answers shorter prompts and refuses one of {request.characters:,} characters ({trouble}): such "
                f"prompts are shortened until it answers; {_ADVICE}",
            )
        return longest

    def _shorter(self, request: Request, trouble: Trouble) -> Request:
        """What to ask instead of a request that is too long; raises ``EngineError`` where there is nothing."""
        shorter = fitted(request, trouble.too_long) if trouble.too_long is not None else None
        if shorter is None:
            raise EngineError(f"the prompt can't be made to fit the model's context ({trouble}); {_ADVICE}")
        if shorter.shortened and self.node.overflow == "refuse":
            known = "may be too long: shorter ones are answered" if trouble.of_its_length else "is too long"
            raise EngineError(f"the prompt {known} ({trouble}); {_ADVICE}, or set engine.overflow=truncate")
        return shorter

    def _counted(self, server: Server, usage: Usage, request: Request, answer: str) -> Usage:
        """``usage`` with what the server doesn't count estimated from the texts, so that the budget is kept."""
        asked = sum(tokens_of(message.content) for message in request.messages)
        prompt = usage.prompt or (min(asked, usage.total) if usage.total else asked)
        completion = usage.completion or max(usage.total - prompt, 0) or tokens_of(answer)
        counted = Usage(prompt, completion, usage.cached)
        if counted != usage:
            self._log_once(
                server,
                "uncounted",
                "does not count the tokens of its answers: they are estimated from the texts' lengths, and so are the "
                "costs",
            )
        return counted

    def _look_at(self, server: Server, request: Request, reply: Reply) -> None:
        """Log, once, what the server does to answers and prompts that no answer shows."""
        if reply.in_reasoning:
            self._log_once(
                server,
                "reasoning",
                "sends answers in the field of the reasoning, and no other text: they are read as answers; a server "
                "with a reasoning parser does that to a model that doesn't think (start it without, or set "
                "model.thinking=true)",
            )
        characters = request.characters
        read = reply.usage.prompt if reply.usage is not None else 0
        if read and characters >= _LONG_ENOUGH and read * _WIDEST_TOKEN < characters:
            self._log_once(
                server,
                "cut prompts",
                f"counts {read} tokens in a prompt of {characters:,} characters (about "
                f"{characters // _USUAL_TOKEN:,} tokens): it seems to cut prompts without saying so, and these answers "
                "are to a part of the passages; give the server a longer context (Ollama: OLLAMA_CONTEXT_LENGTH), or "
                "shorten the passages (prompt.max_characters) or the windows (strategy.size)",
            )

    def _log_once(self, server: Server, subject: str, text: str) -> None:
        if subject not in self._logged:
            self._logged.add(subject)
            _log.warning("%s %s", server.url, text)

    def _charge(self, usage: Usage) -> float:
        """What an answer cost, US dollars."""
        if self.node.prices is None:
            return 0.0
        cost = self.node.prices.cost(usage)
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

    async def _give_up(
        self, server: Server, trouble: Trouble, failures: int, messages: tuple[Message, ...], *, nobody_answered: bool
    ) -> NoReturn:
        tried = f" (tried {failures + 1} times)" if failures else ""
        failure = f"{server.url}: {trouble}{tried}"
        first = self._answered == 0
        if trouble.kind is Kind.OVERFLOW:
            failure += f"; it stays too long however much is cut: {_ADVICE}"
        if trouble.kind is Kind.NO_MODEL:
            failure = await server.without(self.model, trouble)
        elif trouble.unreachable and nobody_answered:
            failure += (
                "; nobody answers there: start the server, or set engine.base_url (http:// or https://, host, port)"
            )
        elif trouble.alike and first:
            every = self._refusals.every_call(str(trouble), hash(messages), self._asking)
            failure += "; so it does every prompt so far" if every else "; if it does so with every prompt"
            failure += f", look at what all calls have in common: {SETTINGS}"
            raise ServerError(failure) if every else EngineError(failure)  # no halt: a later call may be answered
        elif not (trouble.kind is Kind.STOP or (trouble.kind is Kind.REFUSED and first)):
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
