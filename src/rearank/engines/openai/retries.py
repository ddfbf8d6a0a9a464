"""What goes wrong with a call to a server, and what is done about it.

Retried: 408, 409, 425, 429, every 5xx, time-outs, broken connections, a body cut in the middle, malformed JSON, a reply
without choices. The run stops where every other call would fare the same: a refused key, no credit, no such model, a
parameter the model doesn't take. A prompt that is too long is shortened. Anything else fails its call.

The package ``openai`` can retry, too, but its waits are constants, it retries neither 425 nor a reply that can't be
read, fails a call whose ``Retry-After`` is long, and checks no budget between two tries: here it sends a request once.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from rearank.engines.openai.budget import Usage
from rearank.engines.openai.overflow import TooLong, too_long

_RETRIED = {408, 409, 425, 429}
_NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "exceeded_current_quota_error"}
_REFUSED_PARAMETER = re.compile(
    r"unsupported[_ ](?:parameter|value)|unknown[_ ]parameter|unrecognized request argument|"
    r"extra inputs are not permitted|not supported with this model|does not support|supports at most",
    re.IGNORECASE,
)
_REMEDIES = {  # the first that occurs in what the server says
    "max_completion_tokens": "set engine.max_tokens_field=max_completion_tokens",
    "max_tokens": "set engine.max_tokens_field=max_completion_tokens, or a smaller model.max_tokens",
    "temperature": "set engine.send_temperature=false",
    "top_p": "set engine.send_temperature=false",
    "seed": "set engine.send_seed=false",
    "chat_template_kwargs": "set model.thinking=null; the server has its own switch for it, see engine.extra_body",
}
_SHOWN = 400  # characters of what a server says


class Kind(Enum):
    """What is done about a call that gave no answer."""

    RETRY = "ask again"
    FAIL = "fail this call"
    STOP = "stop the run"
    NO_MODEL = "stop the run, saying which models there are"
    OVERFLOW = "shorten the prompt and ask again"


class Trouble(Exception):  # noqa: N818 - not an error yet: most are mended
    """A request that gave no answer.

    ``wait`` is how long the server asks to be left alone (seconds); ``usage`` what it charges all the same;
    ``unreachable`` says that no server was there.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        wait: float | None = None,
        usage: Usage | None = None,
        too_long: TooLong | None = None,
        unreachable: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.wait = wait
        self.usage = usage
        self.too_long = too_long
        self.unreachable = unreachable


@dataclass(frozen=True)
class Backoff:
    """How long to wait before asking again: twice as long each time, jittered, and as long as the server asks."""

    first: float = 1.0
    longest: float = 60.0

    def seconds(self, retry: int, asked: float | None = None) -> float:
        """Before retry number ``retry`` (0, 1...); ``asked`` is the server's own wish, honoured up to ``longest``."""
        if asked is not None:  # and a little later, so that not all come back at once
            return min(asked, self.longest) + random.uniform(0, min(self.first, self.longest))
        return min(self.longest, self.first * 2.0 ** min(retry, 32)) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds to wait by ``retry-after-ms`` or ``Retry-After`` (seconds or an HTTP date); ``None`` if not said.

    ``headers`` are lower case.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    seconds = _number(said)
    if seconds is not None or said is None:
        return seconds
    try:
        then = parsedate_to_datetime(said)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max((then - (now or datetime.now(UTC))).total_seconds(), 0.0)


def read_failure(status: int, headers: Mapping[str, str], body: str, key_variable: str | None) -> Trouble:
    """What an HTTP status of 400 or more means.

    Args:
        status: HTTP's.
        headers: lower case.
        body: the reply's, JSON or not.
        key_variable: the environment variable the key came from, ``None`` where none was sent.
    """
    error = _error_object(body)
    message = " ".join(str(error.get("message") or body).split())[:_SHOWN]
    said = f"HTTP {status}: {message or 'no reason given'}"
    words = {str(error.get("code") or "").lower(), str(error.get("type") or "").lower()}
    if status in (401, 403):
        remedy = (
            f"set the environment variable {key_variable} to a valid key"
            if key_variable
            else "name the environment variable that holds the key (engine.key_variable=...)"
        )
        return Trouble(Kind.STOP, f"the server refuses the key ({said}); {remedy}")
    if status == 402 or words & _NO_CREDIT:
        return Trouble(Kind.STOP, f"the account has no credit left ({said}); top it up and run the same command again")
    if status == 404:
        return Trouble(Kind.NO_MODEL, said)
    if status in _RETRIED or status >= 500:
        return Trouble(Kind.RETRY, said, wait=retry_after(headers))
    length = too_long(error, message) if status in (400, 413, 422) else None
    if length is not None:
        return Trouble(Kind.OVERFLOW, said, too_long=length)
    if _REFUSED_PARAMETER.search(f"{message} {' '.join(words)}"):
        remedy = next((r for name, r in _REMEDIES.items() if name in message), "see engine.extra_body")
        return Trouble(Kind.STOP, f"the server refuses a parameter of every call ({said}); {remedy}")
    return Trouble(Kind.FAIL, said)


def _error_object(body: str) -> dict[str, Any]:
    """The server's error, wherever it puts it."""
    try:
        whole = json.loads(body)
    except ValueError:
        return {}
    if not isinstance(whole, dict):
        return {}
    inner = whole.get("error", whole)
    if isinstance(inner, str):
        return {"message": inner}
    if not isinstance(inner, dict):
        return {}
    return inner if "message" in inner else {**inner, "message": inner.get("detail")}


def _number(text: str | None) -> float | None:
    """A finite number, below 0 taken as 0."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return max(value, 0.0) if math.isfinite(value) else None
