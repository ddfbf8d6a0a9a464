"""A chat server that misbehaves on demand, in a process of its own: ``python -m tests.engines.fault_server --port 0``.

It answers with a ranking that the request's own hash fixes, so that two runs that ask the same get the same. What goes
wrong is fixed too, by the request's hash and by how often it came (its attempt): by ``--faults``, by ``[[faults: 429
500]]`` in a message (attempt 0, attempt 1...; then all is well), or for a share of the attempts (``--share``).

Every request is written to ``--log`` (JSONL) when it comes and again when its answer has gone out.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TextIO

TRANSIENT = ("429", "500", "cut", "malformed", "empty", "drop")
"""What a client survives by asking again."""

_SCRIPT = re.compile(r"\[\[faults: ([^\]]*)\]\]")
_IDENTIFIER = re.compile(r"^\[(\d+)\]", re.MULTILINE)
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
_TOO_LONG = {
    "openai": "This model's maximum context length is {context} tokens. However, your messages resulted in {prompt} "
    "tokens. Please reduce the length of the messages.",
    "vllm": "This model's maximum context length is {context} tokens. However, you requested {most} output tokens and "
    "your prompt contains at least {bound} input tokens, for a total of at least {total} tokens. Please reduce the "
    "length of the input prompt or the number of requested output tokens.",
    "silent": "The prompt is too long for the context window.",
}


@dataclass
class FaultServer:
    """The settings, and what came so far."""

    faults: tuple[str, ...] = ()
    share: float = 0.0
    delay: float = 0.0
    context: int | None = None
    wording: str = "openai"
    model: str = "small"
    key: str | None = None
    log: TextIO | None = None
    attempts: Counter[str] = field(default_factory=Counter)
    served: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive until the client or a fault ends it."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *lines = head.decode("latin-1").strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if not await self.answer(line.split()[1], headers, body, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):  # the client went away
            pass
        finally:
            writer.close()

    async def answer(self, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may be used again."""
        if path == "/v1/models":
            return await _send(writer, 200, json.dumps({"data": [{"id": self.model}]}))
        if path != "/v1/chat/completions":
            return await _send(writer, 404, '{"detail": "Not Found"}')
        request = json.loads(body)
        name = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        attempt = self.attempts[name]
        self.attempts[name] += 1
        fault = self.fault(request, name, attempt)
        self.served += 1
        line = {
            "number": self.served,
            "call": name,
            "attempt": attempt,
            "fault": fault,
            "messages": hashlib.sha256(json.dumps(request["messages"]).encode()).hexdigest(),
            "request": {key: value for key, value in request.items() if key != "messages"},
            "characters": sum(len(message["content"]) for message in request["messages"]),
        }
        self.write({"event": "received", **line})
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            fault = "401"
        usable = await self.respond(request, name, fault, headers, writer)
        self.write({"event": "answered", **line, "fault": fault})
        return usable

    def fault(self, request: dict[str, Any], name: str, attempt: int) -> str:
        """What goes wrong with this attempt; ``ok`` for nothing."""
        text = " ".join(message["content"] for message in request["messages"])
        script = _SCRIPT.search(text)
        faults = script.group(1).split() if script is not None else self.faults
        if attempt < len(faults):
            return faults[attempt]
        drawn = random.Random(f"{name}:{attempt}")
        if not faults and drawn.random() < self.share:
            return drawn.choice(TRANSIENT)
        most = request.get("max_tokens") or request.get("max_completion_tokens")
        return "long" if self.context is not None and len(text.split()) + most > self.context else "ok"

    async def respond(
        self, request: dict[str, Any], name: str, fault: str, headers: dict[str, str], writer: asyncio.StreamWriter
    ) -> bool:
        """Send what ``fault`` stands for; whether the connection may be used again."""
        kind, _, value = fault.partition("=")
        extra: dict[str, str] = {}
        if kind == "drop":
            return False
        if kind == "slow":
            await asyncio.sleep(float(value))
        if kind == "429":
            extra["Retry-After"] = value or "0.02"
            if value == "date":
                extra["Retry-After"] = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
            if value.endswith("ms"):
                extra = {"Retry-After-Ms": value.removesuffix("ms")}
        if kind in _ERRORS:
            code, words = _ERRORS[kind]
            told = words.format(key=headers.get("authorization", ""), model=request["model"], detail=value)
            return await _send(writer, int(kind[:3]), _error(told, code), extra)
        if kind == "long":
            return await _send(writer, 400, _error(self.refusal(request), None))
        reply = _reply(request, name)
        if kind == "empty":
            reply["choices"] = []
        elif kind == "wrong":
            reply["model"] = value or "another-model"
        elif kind == "filter":
            reply["choices"][0] |= {"finish_reason": "content_filter", "message": {"content": None}}
        elif kind == "length":
            reply["choices"][0]["finish_reason"] = "length"
        elif kind == "reasoning":
            text = reply["choices"][0]["message"]["content"]
            think, _, answer = text.removeprefix("<think>").partition("</think>\n")
            reply["choices"][0]["message"] = {"content": answer, "reasoning_content": think}
        text = json.dumps(reply)
        if kind == "malformed":
            text = text[: len(text) // 2] + "}"
        return await _send(writer, 200, text, extra, cut=kind == "cut")

    def refusal(self, request: dict[str, Any]) -> str:
        """Of a prompt that is too long."""
        prompt = sum(len(message["content"].split()) for message in request["messages"])
        most = request.get("max_tokens") or request.get("max_completion_tokens")
        context = self.context or 0
        bound = max(context - most, 0) + 1
        figures = {"context": context, "prompt": prompt, "most": most, "bound": bound, "total": bound + most}
        return _TOO_LONG[self.wording].format(**figures)

    def write(self, line: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(json.dumps(line) + "\n")
            self.log.flush()


_ERRORS: dict[str, tuple[str | None, str]] = {
    "400": (None, "I don't like this request"),
    "401": ("invalid_api_key", "Incorrect API key provided: {key}"),
    "402": (None, "Insufficient Balance"),
    "404": ("model_not_found", "The model `{model}` does not exist"),
    "429": ("rate_limit_exceeded", "slow down"),
    "429quota": ("insufficient_quota", "You exceeded your current quota"),
    "400field": (
        "unsupported_parameter",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    ),
    "500": (None, "the server stumbled"),
    "503": (None, "overloaded"),
}


def _reply(request: dict[str, Any], name: str) -> dict[str, Any]:
    """A ranking of what the messages number ``[1]``, ``[2]``..., in an order that the request fixes."""
    texts = [message["content"] for message in request["messages"]]
    order = sorted({int(number) for text in texts for number in _IDENTIFIER.findall(text)}) or [1]
    random.Random(name).shuffle(order)
    ranked = " > ".join(f"[{number}]" for number in order)
    text = f"<think>by rule {name[:8]}</think>\n<answer> {ranked} </answer>"
    prompt, completion = sum(len(text.split()) for text in texts), len(text.split())
    return {
        "id": f"chat-{name[:12]}",
        "object": "chat.completion",
        "model": request["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
    }


def _error(message: str, code: str | None) -> str:
    return json.dumps({"error": {"message": message, "type": "error", "code": code}})


async def _send(
    writer: asyncio.StreamWriter, status: int, text: str, extra: dict[str, str] | None = None, *, cut: bool = False
) -> bool:
    """Whether the connection may be used again: not after a body that was ``cut`` in its middle."""
    body = text.encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(extra or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\n{head}\r\n".encode())
    writer.write(body[: len(body) // 2] if cut else body)
    await writer.drain()
    return not cut


@contextmanager
def fault_server(log: Path, *options: str) -> Iterator[str]:
    """One in a process of its own, on a free port; its base URL."""
    command = [sys.executable, "-m", "tests.engines.fault_server", "--port", "0", "--log", str(log), *options]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def logged(log: Path, event: str = "received") -> list[dict[str, Any]]:
    """The log's lines about ``event``; the last may still be under way."""
    lines = [json.loads(line) for line in log.read_text().split("\n")[:-1]]
    return [line for line in lines if line["event"] == event]


async def main() -> None:
    """Prints the port, then serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--faults", default="", help="of every call's attempts 0, 1...")
    parser.add_argument("--share", type=float, default=0.0, help="of the attempts that something goes wrong with")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before an answer")
    parser.add_argument("--context", type=int, help="words of prompt and answer together")
    parser.add_argument("--wording", choices=sorted(_TOO_LONG), default="openai", help="of a refusal by length")
    parser.add_argument("--key", help="the one that is accepted")
    given = parser.parse_args()
    with given.log.open("a") if given.log is not None else open("/dev/null", "w") as log:  # noqa: PTH123
        state = FaultServer(
            faults=tuple(given.faults.split()),
            share=given.share,
            delay=given.delay,
            context=given.context,
            wording=given.wording,
            key=given.key,
            log=log,
        )
        server = await asyncio.start_server(state.serve, "127.0.0.1", given.port)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
