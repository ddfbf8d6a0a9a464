"""``/v1/rerank`` on Ray Serve: one front that takes requests, and replicas that each hold the model. Imports Ray.

The front is the application of ``task=serve``: it checks keys and bodies and bounds what is under way. A request whose
replica dies is given to another one, as reranking changes nothing; Ray Serve by itself would answer it 500.
``examples/cluster/serve.yaml`` deploys it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ray import serve
from ray.exceptions import RayActorError

from rearank.choices import choose
from rearank.config import ConfigError
from rearank.engines.model import Model
from rearank.reranker import Reranker, RerankResult
from rearank.serving.app import create_app
from rearank.serving.limits import Serving
from rearank.types import Passage

_TRIES = 3  # a request that kills its replica must not kill them all
_NODES = ("model", "prompt", "strategy", "engine")
_log = logging.getLogger(__name__)


@serve.deployment(name="Model", max_ongoing_requests=32)
class ModelReplica:
    """A loaded model; ``overrides`` are ``task=serve``'s keys, as on the command line."""

    def __init__(self, overrides: Sequence[str]) -> None:
        given = [override.partition("=") for override in overrides]
        named = {node: name for node, _, name in given if node in _NODES}
        others = ["".join(one) for one in given if one[0] not in _NODES]
        model, settings = _chosen(overrides)
        named.setdefault("model", model)
        self._reranker = Reranker(
            named.pop("model"), **named, store=settings.store, max_concurrent_queries=None, overrides=others
        )
        self._reranker.warm_up()

    async def rerank(self, query: str, passages: tuple[Passage, ...]) -> RerankResult:
        """As ``Reranker.arerank``."""
        return await self._reranker.arerank(query, passages)


class _Replicas:
    """What the application asks: any replica, and another one where that died."""

    def __init__(self, handle: Any, model: Model, engine_name: str) -> None:
        self._handle = handle
        self.model = model
        self.engine_name = engine_name

    async def arerank(self, query: str, passages: Sequence[Passage]) -> RerankResult:
        for left in reversed(range(_TRIES)):
            response = self._handle.rerank.remote(query, tuple(passages))
            try:
                result: RerankResult = await response
                return result
            except RayActorError:
                if not left:
                    raise
                _log.warning("a replica died with a request under way, which is given to another one")
            except asyncio.CancelledError:  # the caller hung up
                response.cancel()
                raise
        raise AssertionError


@serve.deployment(name="Front", max_ongoing_requests=1000)
@serve.ingress()
class Front:
    """The application; its own limits (``serve.max_concurrent``, ``serve.max_waiting``) hold for all replicas."""

    def __init__(self, replicas: Any, overrides: Sequence[str]) -> None:
        chosen = choose((*_NODES, "serve"), {}, overrides)
        settings: Serving = chosen.build("serve")
        self._app = create_app(_Replicas(replicas, chosen.build("model"), chosen.options["engine"]), settings)

    def __serve_build_asgi_app__(self) -> Any:
        return self._app


def application(args: Mapping[str, Any]) -> Any:
    """What Ray Serve's config file names as ``import_path``.

    Args:
        args: ``overrides``, a list of keys as ``task=serve`` takes them: ``["model=rearank7b", "engine=vllm"]``.

    Raises:
        ConfigError: for another argument, or a key that isn't there.
    """
    if set(args) != {"overrides"} or not isinstance(args["overrides"], Sequence) or isinstance(args["overrides"], str):
        raise ConfigError("args: give overrides, a list of keys as task=serve takes them, and nothing else")
    overrides = [str(one) for one in args["overrides"]]
    _chosen(overrides)
    return Front.bind(ModelReplica.bind(overrides), overrides)  # type: ignore[attr-defined]


def _chosen(overrides: Sequence[str]) -> tuple[str, Serving]:
    """The model's name and the section ``serve``; raises ``ConfigError`` for a key that isn't there."""
    chosen = choose((*_NODES, "serve"), {}, overrides)
    settings: Serving = chosen.build("serve")
    return chosen.options["model"], settings
