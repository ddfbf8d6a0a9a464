"""The fields of ``engine=openai``, checked, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Gt

from rearank.checks import KEPT, check_fields, check_variable
from rearank.engines.openai.budget import Prices
from rearank.runs import INCIDENTAL

OPENAI = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"

_Seconds = Annotated[float, Gt(0)]
_Dollars = Annotated[float, Ge(0)]
_NEVER_CONTINUE = ("openai.com", "openai.azure.com", "deepseek.com")  # they'd begin anew and say nothing of it
_OURS = ("model", "messages", "stream", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed")


@dataclass(frozen=True)
class OpenAISettings:
    """A server that speaks OpenAI's chat protocol.

    Args:
        base_url: up to and with ``/v1``; ``null`` for OpenAI's own. A list names several servers of the same model:
            a call goes to the one with the fewest calls under way, and one that fails is left out until it answers.
        key_variable: the environment variable that holds the key, of all servers. ``null``: OPENAI_API_KEY for OpenAI's
            own server and none for another, which has no business with that key.
        served_model: the name the server knows the model by; ``null`` for the model's path.
        accept_model: a name that answers may come under, in addition to the one asked for and its dated snapshots.
        max_concurrent_calls: requests under way at once, at all servers together; others wait in line.
        connect_seconds: to reach the server.
        timeout_seconds: for one request, from its start to the end of the answer.
        retries: how often a request is repeated, here or at another server, before its call fails.
        first_wait: seconds before the first repetition, doubled for each further one, and jittered.
        longest_wait: the most seconds between two of them, whatever the server asks for (Retry-After).
        max_tokens_field: what the server calls the most tokens of an answer; OpenAI's reasoning models want
            ``max_completion_tokens``.
        send_temperature: whether to send ``temperature`` and ``top_p``; OpenAI's reasoning models refuse them.
        send_seed: whether to send the seed of a sampled call.
        extra_body: further fields of every request (``{reasoning_effort: low}``). No keys: it is written down.
        price_prompt: US dollars per million prompt tokens; ``null`` where calls cost nothing or nobody counts.
        price_completion: US dollars per million tokens answered, reasoning included.
        price_cached: of prompt tokens the server had seen before; ``null``: as other prompt tokens.
        budget: US dollars that this run's folder may cost; ``null`` for no limit.
        overflow: what to do with a prompt that the server finds too long. ``truncate`` shortens the longest messages
            in their middles until it fits, and says so in ``Completion.prompt_truncated``; ``refuse`` fails the call.
        trial: make one call of a few tokens before any work, to see that the server answers; it may cost money.
    """

    base_url: str | tuple[str, ...] | None = None
    key_variable: str | None = field(default=None, metadata=INCIDENTAL)
    served_model: str | None = None
    accept_model: str | None = None
    max_concurrent_calls: Annotated[int, Ge(1)] = field(default=32, metadata=INCIDENTAL)
    connect_seconds: _Seconds = field(default=10.0, metadata=INCIDENTAL)
    timeout_seconds: _Seconds = field(default=600.0, metadata=INCIDENTAL)
    retries: Annotated[int, Ge(0)] = field(default=8, metadata=INCIDENTAL)
    first_wait: _Seconds = field(default=1.0, metadata=INCIDENTAL)
    longest_wait: _Seconds = field(default=60.0, metadata=INCIDENTAL)
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    send_temperature: bool = True
    send_seed: bool = True
    extra_body: dict[str, Any] = field(default_factory=dict)
    price_prompt: _Dollars | None = None
    price_completion: _Dollars | None = None
    price_cached: _Dollars | None = None
    budget: _Dollars | None = field(default=None, metadata=INCIDENTAL)
    overflow: Literal["truncate", "refuse"] = "truncate"
    trial: bool = field(default=False, metadata=INCIDENTAL)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.base_url is not None and not isinstance(self.base_url, str):
            object.__setattr__(self, "base_url", _checked_list(self.base_url))
        for url in self.urls:
            _check_url(url)
        check_variable("key_variable", self.key_variable)
        if (self.price_prompt is None) != (self.price_completion is None):
            raise ValueError("price_prompt and price_completion belong together; set both, or neither")
        if self.price_prompt is None and (self.budget is not None or self.price_cached is not None):
            raise ValueError(
                "budget and price_cached need the prices of the model: set price_prompt and price_completion "
                "(US dollars per million tokens, from the provider's price list)"
            )
        if taken := [name for name in _OURS if name in self.extra_body]:
            raise ValueError(f"extra_body can't set {taken[0]}: the model and the engine have their own keys for it")

    @property
    def urls(self) -> tuple[str, ...]:
        """Of every server, without a slash at its end."""
        given = self.base_url or OPENAI
        return tuple(url.rstrip("/") for url in ((given,) if isinstance(given, str) else given))

    @property
    def variable(self) -> str | None:
        """The environment variable that the key comes from; ``None`` where none is sent."""
        return self.key_variable or (OPENAI_KEY if self.base_url is None else None)

    @property
    def prices(self) -> Prices | None:
        """``None`` where they aren't known."""
        if self.price_prompt is None or self.price_completion is None:
            return None
        return Prices(self.price_prompt, self.price_completion, self.price_cached)

    def prefill_misfits(self, prefill: str) -> list[str]:
        """Why the server can't go on from ``prefill``, the beginning of an answer; empty if it can, or there is none.

        vLLM's and SGLang's can, without a reasoning parser (which would take the rest for a reasoning).
        """
        hosts = [urlsplit(url).hostname or "" for url in self.urls] if prefill else []
        return [
            f"{host} continues no answer that is begun for it (prompt.prefill={prefill!r}); choose a prompt without "
            "prefill (prompt=compact, say), or a server of vLLM or SGLang (engine.base_url)"
            for host in hosts
            if any(host == name or host.endswith(f".{name}") for name in _NEVER_CONTINUE)
        ]


def _checked_list(urls: Any) -> tuple[str, ...]:
    """Several addresses as a tuple; raises ``ValueError``, which quotes none, for anything else."""
    if not isinstance(urls, list | tuple) or not urls or not all(isinstance(url, str) and url for url in urls):
        raise ValueError("base_url must be an address, or a list of some: [http://host:port/v1, http://other:port/v1]")
    if len({url.rstrip("/") for url in urls}) < len(urls):
        raise ValueError("base_url names the same server twice; leave one of them out")
    return tuple(urls)


def _check_url(url: str) -> None:
    """Raises ``ValueError``, which quotes nothing that could be a secret."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("base_url is no address; write http://host:port/v1") from None
    if parts.username or parts.password or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "base_url must hold no user, password, key or query: put the key into an environment variable and its "
            f"name into key_variable{KEPT}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url must begin with http:// or https:// and name a host, not {url!r}")
