"""rearank: train and evaluate reasoning rerankers with reinforcement learning (REARANK, EMNLP 2025).

Importing the package imports nothing heavy; rooms are imported where they are used. ``from rearank import Reranker``
is the library's face.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rearank import moved

if TYPE_CHECKING:
    from rearank.reranker import Reranker, RerankResult

    __version__: str

__all__ = ["RerankResult", "Reranker", "__version__"]
moved.install()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("rearank")
        except PackageNotFoundError:  # the code alone, on a path
            return "unknown"
    if name in ("Reranker", "RerankResult"):
        from rearank import reranker

        return getattr(reranker, name)
    if name == "load_environment":  # verifiers looks for it here: in the module that an environment's name names
        return import_module("rearank.adapters.verifiers").load_environment
    raise AttributeError(f"module 'rearank' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
