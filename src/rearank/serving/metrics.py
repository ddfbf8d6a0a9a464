"""What a server counts, as Prometheus reads it; and the id under which a request is answered and logged."""

from __future__ import annotations

import logging
import re
import time
import uuid
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from itertools import accumulate
from typing import Any

from rearank.reranker import RerankResult

TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_ID = b"x-request-id"
_OURS = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")  # what may stand in a log and a header as it is
_BOUNDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # seconds
_log = logging.getLogger(__name__)


class Metrics:
    """Counts of one server since it started; all of them are taken in its event loop."""

    def __init__(self, model: str, under_way: Callable[[], int]) -> None:
        self._model, self._under_way = model, under_way
        self._requests: Counter[str] = Counter()  # by status
        self._durations = [0] * (len(_BOUNDS) + 1)
        self._seconds = 0.0
        self._windows: Counter[str] = Counter()  # by how the answer was read
        self._sums: Counter[str] = Counter()
        self._cost = 0.0

    def answered(self, status: int, seconds: float) -> None:
        """A request for a ranking was, with this status, so long after it began to arrive."""
        self._requests[str(status)] += 1
        self._durations[bisect_left(_BOUNDS, seconds)] += 1
        self._seconds += seconds

    def ranked(self, result: RerankResult) -> None:
        """A list was reranked."""
        self._windows.update(result.statuses)
        self._sums.update(
            documents=len(result.windows and result.passages),
            shortened=len(result.shortened),
            prompt=result.prompt_tokens,
            completion=result.completion_tokens,
        )
        self._cost += result.cost

    def text(self) -> str:
        """In Prometheus' text form."""
        sums = self._sums
        tokens = {kind: sums[kind] for kind in ("prompt", "completion")}
        counts = list(accumulate(self._durations))
        buckets = dict(zip((*map(str, _BOUNDS), "+Inf"), counts, strict=True))
        lines = [
            *_counter("requests", "Requests for a ranking, by the status of the answer.", "status", self._requests),
            *_head("request_seconds", "histogram", "From a request's arrival to its answer."),
            *(f'rearank_request_seconds_bucket{{le="{bound}"}} {count}' for bound, count in buckets.items()),
            f"rearank_request_seconds_sum {self._seconds:.6f}",
            f"rearank_request_seconds_count {counts[-1]}",
            *_head("requests_under_way", "gauge", "Requests that are worked on or wait for it."),
            f"rearank_requests_under_way {self._under_way()}",
            *_counter("windows", "Answers of the model, by how they could be parsed.", "parsed", self._windows),
            *_counter("tokens", "Tokens of prompts and of answers.", "kind", tokens),
            *_counter("documents", "Documents in lists that were reranked.", "", {"": sums["documents"]}),
            *_counter("shortened_documents", "Of these, longer than the prompt shows.", "", {"": sums["shortened"]}),
            *_counter("cost_dollars", "Paid to the model's server, where it has a price.", "", {"": self._cost}),
            *_head("model_info", "gauge", "Which model this is."),
            f'rearank_model_info{{model="{_escaped(self._model)}"}} 1',
        ]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, what: str) -> list[str]:
    return [f"# HELP rearank_{name} {what}", f"# TYPE rearank_{name} {kind}"]


def _counter(name: str, what: str, label: str, values: Mapping[str, float]) -> Iterator[str]:
    yield from _head(f"{name}_total", "counter", what)
    for value, count in sorted(values.items()):
        yield f"rearank_{name}_total" + (f'{{{label}="{_escaped(value)}"}}' if label else "") + f" {count}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class RequestIds:
    """ASGI around everything: gives each request an id, counts those at ``paths``, and logs the ones that failed.

    A caller's own ``X-Request-Id`` is kept where it may stand in a log as it is; it comes back in the answer's header.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], metrics: Metrics, paths: tuple[str, ...]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500  # where nothing is answered, something broke
        sent = dict(scope["headers"]).get(REQUEST_ID, b"").decode("latin-1")
        request_id = sent if _OURS.fullmatch(sent) else str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (REQUEST_ID, request_id.encode())]}
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            if scope["path"] in self._paths and scope["method"] == "POST":
                self._metrics.answered(status, time.monotonic() - began)
                if status >= 500:
                    _log.warning("request %s: answered %d", request_id, status)
