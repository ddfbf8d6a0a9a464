"""Before any work: does the server answer, does it take the key, has it the model?"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from rearank.engines.openai.overflow import Request
from rearank.engines.openai.retries import Kind, Trouble
from rearank.engines.openai.server import Server
from rearank.engines.openai.settings import OpenAISettings
from rearank.types import Message

_SECONDS = 4.0
_TOKENS = 16


def try_server(settings: OpenAISettings, model: str) -> tuple[list[str], list[str]]:
    """Problems and warnings, a line each; takes a few seconds at most, and costs nothing without ``settings.trial``.

    Args:
        settings: of the server.
        model: the name it is to know the model by.
    """
    quick = replace(settings, connect_seconds=min(settings.connect_seconds, _SECONDS))
    problems, warnings = asyncio.run(_list(replace(quick, timeout_seconds=_SECONDS), model))
    if settings.trial and not problems:
        problems += asyncio.run(_call(quick, model))
    return problems, warnings


async def _list(settings: OpenAISettings, model: str) -> tuple[list[str], list[str]]:
    server = Server(settings)
    server.open()
    try:
        names = await server.listed()
    except Trouble as trouble:
        if trouble.unreachable:
            what = f"engine.base_url={server.url}: {trouble}; start the server there, or name another one"
            return [what], []
        # A server need not list its models: only what every call would meet counts.
        return ([f"engine.base_url={server.url}: {trouble}"] if trouble.kind is Kind.STOP else []), []
    finally:
        await server.close()
    if not names or model in names or model == settings.accept_model:
        return [], []
    listed = ", ".join(names[:10]) + ("..." if len(names) > 10 else "")
    return [], [f"{server.url} doesn't list the model {model!r} (engine.served_model); it lists {listed}"]


async def _call(settings: OpenAISettings, model: str) -> list[str]:
    """One request of a few tokens, as the run's own will be; what it answers doesn't matter."""
    server, message = Server(settings), Message("user", "Write the digit 1.")
    server.open()
    body = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content}],
        settings.max_tokens_field: _TOKENS,
        "extra_body": dict(settings.extra_body),
    }
    try:
        await server.chat(body, Request((message,), _TOKENS))
    except Trouble as trouble:
        return [f"engine.trial: {server.url} answers no call: {trouble}"]
    finally:
        await server.close()
    return []
