"""What goes wrong with a call to a server, and what is done about it.

Retried: 408, 409, 425, 429, every 5xx, time-outs, broken connections, a body cut in the middle, malformed JSON, a reply
without choices, a failure in a reply of status 200, an empty answer. The run stops where every other call would fare
the same: a refused key, no credit, no such model, a certificate that isn't trusted, a setting that the model doesn't
take, and whatever else the first few prompts are all refused for. A prompt that is too long is shortened. Anything
else, a moderated prompt for one, fails its call.

The package ``openai`` can retry, too, but its waits are constants, it retries neither 425 nor a reply that can't be
read, fails a call whose ``Retry-After`` is long, and checks no budget between two tries: here it sends a request once.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from rearank.engines.openai.budget import Usage
from rearank.engines.openai.overflow import Request, TooLong, names_too_long, too_long
from rearank.engines.openai.refusals import (
    is_about_credit,
    is_about_roles,
    is_about_the_key,
    is_about_the_model,
    is_moderated,
    refused_setting,
    wants_a_longer_answer,
)

WORDS = ("message", "detail", "msg", "error_msg", "status_msg")
"""The fields that servers say in what is wrong."""
_RETRIED = {408, 409, 425, 429}
_MAY_BE_CREDIT = {400, 403, 429}
_NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "exceeded_current_quota_error"}
_TOO_LONG = (400, 413, 422)
_TEMPLATE = (500, 501)  # some servers' own status for a template that refuses the conversation
_SHOWN = 400  # characters of what a server says
_READ = 4000  # of which so many are searched


class Kind(Enum):
    """What is done about a call that gave no answer."""

    RETRY = "ask again"
    FAIL = "fail this call"
    REFUSED = "stop the run, unless a call was answered before: then fail this one"
    STOP = "stop the run"
    NO_MODEL = "stop the run, saying which models there are"
    OVERFLOW = "shorten the prompt and ask again"


class Trouble(Exception):  # noqa: N818 - not an error yet: most are mended
    """A request that gave no answer.

    ``wait`` is how long the server asks to be left alone (seconds); ``usage`` what it charges all the same;
    ``unreachable`` says that no server was there, ``silent`` that nothing was heard from it, ``empty`` that an answer
    came without a word, ``alike`` that the same refusal of several prompts is no prompt's fault, and ``of_its_length``
    that this one may be refused for being too long.
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
        silent: bool = False,
        empty: bool = False,
        alike: bool = False,
        of_its_length: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.wait = wait
        self.usage = usage
        self.too_long = too_long
        self.unreachable = unreachable
        self.silent = silent
        self.empty = empty
        self.alike = alike
        self.of_its_length = of_its_length


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


def read_failure(
    status: int, headers: Mapping[str, str], body: str, key_variable: str | None, request: Request | None = None
) -> Trouble:
    """What an HTTP status of 400 or more means.

    Args:
        status: HTTP's.
        headers: lower case.
        body: the reply's, JSON or not.
        key_variable: the environment variable the key came from, ``None`` where none was sent.
        request: what was asked, where a prompt's size may explain the figures.
    """
    error = _error_object(body)
    message = " ".join(str(error.get("message") or body).split())[:_READ]
    said = f"HTTP {status}: {message[:_SHOWN] or 'no reason given'}"
    words = {str(error.get("code") or "").lower(), str(error.get("type") or "").lower()}
    if status == 402 or words & _NO_CREDIT or (status in _MAY_BE_CREDIT and is_about_credit(message[:_SHOWN])):
        return Trouble(Kind.STOP, f"the account has no credit left ({said}); top it up and run the same command again")
    if status in (400, 401, 403, 422, 451):
        if status != 401 and is_moderated(error, message):
            return Trouble(Kind.FAIL, f"the server refuses this prompt for its content ({said})")
        if is_about_the_key(status, error, message):
            mend = (
                f"set the environment variable {key_variable} to a valid key"
                if key_variable
                else "name the environment variable that holds the key (engine.key_variable=...)"
            )
            kind = Kind.STOP if status == 401 else Kind.REFUSED
            return Trouble(kind, f"the server refuses the key ({said}); {mend}")
    if status == 404 or (status in _TOO_LONG and is_about_the_model(error, message)):
        return Trouble(Kind.NO_MODEL, said)
    if status in _TEMPLATE and is_about_roles(message) and (remedy := refused_setting(error, message)):
        return Trouble(Kind.REFUSED, f"the model's template refuses the conversation ({said}); {remedy}")
    coded = status >= 500 and names_too_long(error)  # a local server that raised, or a gateway in front of one
    if (status in _RETRIED or status >= 500) and not coded:
        return Trouble(Kind.RETRY, said, wait=retry_after(headers))
    readable = (coded or status in _TOO_LONG) and not wants_a_longer_answer(message)
    length = too_long(error, message, request) if readable else None
    if length is not None:
        return Trouble(Kind.OVERFLOW, said, too_long=length)
    if (remedy := refused_setting(error, message)) is not None:
        return Trouble(Kind.REFUSED, f"the server refuses a setting of every call ({said}); {remedy}")
    hint = "; may this key use this model (engine.key_variable)?" if status == 403 else ""
    return Trouble(Kind.FAIL, said + hint, alike=True, of_its_length=status in _TOO_LONG)


def _error_object(body: str) -> dict[str, Any]:
    """The server's error, wherever it puts it."""
    try:
        whole = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(whole, dict):
        return {}
    inner = whole.get("error", whole)
    if isinstance(inner, str):
        return {"message": inner}
    if not isinstance(inner, dict):
        return {}
    words = next((inner[name] for name in WORDS if inner.get(name)), None)
    return {**inner, "message": words}


def _number(text: str | None) -> float | None:
    """A finite number, below 0 taken as 0."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return max(value, 0.0) if math.isfinite(value) else None
