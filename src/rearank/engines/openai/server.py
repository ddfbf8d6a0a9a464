"""The line to a server that speaks OpenAI's chat protocol: a request out, the reply's text or a ``Trouble`` back.

The package ``openai`` sends; it retries nothing by itself. The key goes into the request's header and nowhere else:
what the server says is searched for it before anyone reads it, and the libraries' logs, which show requests, are off.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from rearank.engines.openai.overflow import Request
from rearank.engines.openai.retries import Kind, Trouble, read_failure
from rearank.engines.openai.settings import OpenAISettings

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LIBRARIES = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")
_NOBODY_THERE = ("ConnectError", "ConnectTimeout")  # by name: a client library's classes differ between versions
_SECRET = 8  # characters of a key that is one
_LISTED = 10  # names of models in a message
_HANDSHAKE = 3.0  # seconds
_ENCRYPTED = "the server speaks TLS and was asked in plain text: engine.base_url must begin with https://"


class Server:
    """The server at ``url``, asked as ``node`` says; belongs to the event loop that first calls it."""

    def __init__(self, node: OpenAISettings, url: str) -> None:
        self.url = url
        self._node = node
        self._key = os.environ.get(node.variable or "", "").strip()
        self._client: Any = None
        self._reached = self._served = False  # whether it said anything, and whether it took a request

    def open(self) -> None:
        """Load the client, which takes a moment the first time; the server is not asked yet."""
        if self._client is None:
            self._client = self._connect()

    async def chat(self, body: Mapping[str, Any], request: Request) -> str:
        """The reply to ``body``, unread; raises ``Trouble``. ``open`` comes first.

        ``request`` is what ``body`` holds.
        """
        create = self._client.chat.completions.with_raw_response.create
        return await self._sent(create, body, self._node.timeout_seconds, request)

    async def _sent(
        self,
        send: Callable[..., Awaitable[Any]],
        body: Mapping[str, Any],
        seconds: float,
        request: Request | None = None,
    ) -> str:
        """The body of the reply; raises ``Trouble``."""
        import openai

        try:
            async with asyncio.timeout(seconds):
                raw = await send(**body)
            self._reached = self._served = True
            return bytes(raw.http_response.content).decode("utf-8", "replace")
        except openai.APIStatusError as error:
            self._reached = True
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            text = self.clean(error.response.text)
            if (
                error.status_code == 400
                and not self._served
                and not text.lstrip().startswith("{")
                and await self._speaks_tls()
            ):
                raise Trouble(Kind.STOP, _ENCRYPTED) from None
            raise read_failure(error.status_code, headers, text, self._node.variable, request) from None
        except TimeoutError:
            raise self._too_slow() from None
        except openai.APIConnectionError as error:
            raise await self._broken(error.__cause__ or error) from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in _LIBRARIES:
                raise
            raise await self._broken(error) from None

    async def listed(self) -> list[str]:
        """The names of its models, as far as it gives them; raises ``Trouble``. ``open`` comes first."""
        raw = await self._sent(self._client.models.with_raw_response.list, {}, self._node.connect_seconds)
        try:
            return [self.clean(str(model["id"])) for model in json.loads(raw)["data"]]
        except (ValueError, KeyError, TypeError):
            return []

    async def without(self, model: str, trouble: Trouble) -> str:
        """What a refusal of ``model`` means, by the models that the server lists, and what to do."""
        try:
            names = await self.listed()
        except Trouble:
            names = []
        if model in names:
            return (
                f"{self.url} lists the model {model!r} and takes no chat for it ({trouble}): is it a model that chats "
                f"(model.path, engine.served_model), and is engine.base_url right? Chats are sent to "
                f"{self.url}/chat/completions"
            )
        more = "..." if len(names) > _LISTED else ""
        listed = f": it serves {', '.join(names[:_LISTED])}{more}"
        if not names:
            listed = "; it lists none either: does engine.base_url lack its /v1?"
        return f"{self.url} has no model {model!r} ({trouble}){listed}; set model.path or engine.served_model"

    def clean(self, text: str) -> str:
        """``text`` without the key."""
        return text.replace(self._key, "***") if self._key else text

    def without_secret(self, text: str) -> str:
        """An answer without the key that the server was sent, as answers are stored.

        Servers that check none are given a word or a digit as a key, which an answer may well hold: it stays.
        """
        return self.clean(text) if len(self._key) >= _SECRET else text

    async def close(self) -> None:
        """Drop the connections."""
        if self._client is not None:
            await self._client.close()

    def _connect(self) -> Any:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

        for name in _LIBRARIES:
            logging.getLogger(name).setLevel(logging.WARNING)
        timeout = Timeout(self._node.timeout_seconds, connect=self._node.connect_seconds)
        # A server on this machine is not asked through a proxy.
        local = urlsplit(self.url).hostname in _LOOPBACK
        trusted = _own_certificates() if local else True  # which an environment that isn't trusted would hide
        client = AsyncOpenAI(
            api_key=self._key or "none",  # the package insists on one
            base_url=self.url,
            timeout=timeout,
            max_retries=0,
            http_client=DefaultAsyncHttpxClient(trust_env=not local, timeout=timeout, verify=trusted),
        )
        if self._node.base_url is not None:  # the numbers of an account at OpenAI are nobody else's business
            client.organization = client.project = None
        return client

    def _too_slow(self) -> Trouble:
        return Trouble(
            Kind.RETRY, f"no answer in time (engine.timeout_seconds={self._node.timeout_seconds:g})", silent=True
        )

    async def _speaks_tls(self) -> bool:
        """Whether a server that is asked in plain text wants to be asked through TLS."""
        parts = urlsplit(self.url)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
        try:
            if parts.scheme == "http":
                async with asyncio.timeout(min(self._node.connect_seconds, _HANDSHAKE)):
                    _, writer = await asyncio.open_connection(parts.hostname, parts.port or 80, ssl=context)
                writer.transport.abort()
                return True
        except (OSError, TimeoutError):
            pass
        return False

    async def _broken(self, cause: BaseException) -> Trouble:
        """The connection, or the body that came over it."""
        name = type(cause).__name__
        if name == "ReadTimeout":
            return self._too_slow()
        if (refused := _tls_error(cause)) is not None and not self._reached:
            return Trouble(Kind.STOP, self.clean(_tls_advice(refused)))
        if not self._reached and name not in _NOBODY_THERE and await self._speaks_tls():
            return Trouble(Kind.STOP, _ENCRYPTED)
        reason = self.clean(
            f"the connection failed ({name}: {cause})" if str(cause) else f"the connection failed ({name})"
        )
        return Trouble(Kind.RETRY, reason, unreachable=not self._reached or name in _NOBODY_THERE, silent=True)


def _own_certificates() -> ssl.SSLContext | bool:
    """What SSL_CERT_FILE and SSL_CERT_DIR name; ``True`` for the usual ones."""
    file, folder = (os.environ.get(name) or None for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    return ssl.create_default_context(cafile=file, capath=folder) if file or folder else True


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The encryption's own error behind a connection's."""
    for _ in range(8):
        if error is None or isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _tls_advice(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted ({error.verify_message}); name the file of the certificate that "
            "signed it in the environment variable SSL_CERT_FILE, or set engine.base_url to the name or address that "
            "the certificate is for"
        )
    return (
        f"the server speaks no TLS that this machine knows ({error.reason or error}): if it is served without, "
        "engine.base_url must begin with http://; if its certificates are your own, name their file in the "
        "environment variable SSL_CERT_FILE"
    )
