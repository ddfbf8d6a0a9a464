"""Before any work: does a server answer, does it take the key, has it the model?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from rearank.engines.openai.overflow import Request
from rearank.engines.openai.retries import Kind, Trouble
from rearank.engines.openai.server import Server
from rearank.engines.openai.settings import OpenAISettings
from rearank.types import Message

_SECONDS = 4.0
_TOKENS = 16


@dataclass
class _Seen:
    """Of one server; ``absent`` says that nobody is there."""

    absent: str = ""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def try_servers(settings: OpenAISettings, model: str) -> tuple[list[str], list[str]]:
    """Problems and warnings, a line each; takes a few seconds at most, and costs nothing without ``settings.trial``.

    Of several servers, all asked at once, one that isn't there is a warning as long as another one is.

    Args:
        settings: of the servers.
        model: the name they are to know the model by.
    """
    quick = replace(settings, connect_seconds=min(settings.connect_seconds, _SECONDS))
    seen = asyncio.run(_all(quick, model))
    problems = [line for one in seen for line in one.problems]
    warnings = [line for one in seen for line in one.warnings]
    absent = [one.absent for one in seen if one.absent]
    if len(absent) == len(seen):
        return absent + problems, warnings
    return problems, warnings + [f"{line}; it is left out until it answers" for line in absent]


async def _all(settings: OpenAISettings, model: str) -> list[_Seen]:
    return await asyncio.gather(*(_one(settings, url, model) for url in settings.urls))


async def _one(settings: OpenAISettings, url: str, model: str) -> _Seen:
    seen = await _list(replace(settings, timeout_seconds=_SECONDS), url, model)
    if settings.trial and not seen.absent and not seen.problems:
        seen.problems += await _call(settings, url, model)
    return seen


async def _list(settings: OpenAISettings, url: str, model: str) -> _Seen:
    server = Server(settings, url)
    server.open()
    try:
        names = await server.listed()
    except Trouble as trouble:
        what = f"engine.base_url={url}: {trouble}"
        if trouble.unreachable:
            return _Seen(absent=f"{what}; start the server there, or name another one")
        # A server need not list its models: only what every call would meet counts.
        return _Seen(problems=[what] if trouble.kind is Kind.STOP else [])
    finally:
        await server.close()
    if not names or model in names or model == settings.accept_model:
        return _Seen()
    listed = ", ".join(names[:10]) + ("..." if len(names) > 10 else "")
    return _Seen(warnings=[f"{url} doesn't list the model {model!r} (engine.served_model); it lists {listed}"])


async def _call(settings: OpenAISettings, url: str, model: str) -> list[str]:
    """One request of a few tokens, as the run's own will be; what it answers doesn't matter."""
    server, message = Server(settings, url), Message("user", "Write the digit 1.")
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
        return [f"engine.trial: {url} answers no call: {trouble}"]
    finally:
        await server.close()
    return []
