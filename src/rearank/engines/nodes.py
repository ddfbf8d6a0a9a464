"""The nodes of ``conf/engine``: typed fields, what each needs of the machine, and the engine they create.

Nothing heavy is imported before ``create``.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from rearank.engines.base import Engine, EngineError
from rearank.engines.scripted import ScriptedEngine
from rearank.types import Qrels

_HERE = "engine=transformers runs models on this machine, engine=scripted none at all"


@dataclass(frozen=True)
class TransformersNode:
    """Hugging Face transformers on this machine; see ``TransformersEngine`` for the fields."""

    device: str = "auto"
    dtype: str = "auto"
    max_batch: int = 128
    max_batch_tokens: int = 65536
    overflow: Literal["truncate", "refuse"] = "truncate"

    def __post_init__(self) -> None:
        _at_least_1(max_batch=self.max_batch, max_batch_tokens=self.max_batch_tokens)

    def preflight(self) -> list[str]:
        """Missing packages; a GPU where ``device`` asks for one."""
        missing = [_package(name, "train") for name in ("torch", "transformers") if find_spec(name) is None]
        if self.device.startswith("cuda") and not _has_gpu():
            missing.append(f"engine.device={self.device} needs an NVIDIA GPU and there is none; set engine.device=cpu")
        return missing

    def create(self, model: str, *, revision: str | None = None, judgements: Qrels | None = None) -> Engine:
        """Load ``model``; raises ``EngineError`` where that can't be done. ``judgements`` are not looked at."""
        if missing := self.preflight():
            raise EngineError("; ".join(missing))
        from rearank.engines.transformers import TransformersEngine

        return TransformersEngine(
            model,
            revision=revision,
            device=self.device,
            dtype=self.dtype,
            max_batch=self.max_batch,
            max_batch_tokens=self.max_batch_tokens,
            overflow=self.overflow,
        )


@dataclass(frozen=True)
class ScriptedNode:
    """The public fake; see ``ScriptedEngine`` for the fields."""

    behaviour: Literal["oracle", "given", "reverse", "random", "malformed"] = "oracle"
    seed: int = 0
    seconds: float = 0.0
    sigma: float = 0.5
    slots: int | None = None
    failing: float = 0.0

    def __post_init__(self) -> None:
        self.create("")

    def preflight(self) -> list[str]:
        """Nothing is ever missing."""
        return []

    def create(self, model: str, *, revision: str | None = None, judgements: Qrels | None = None) -> Engine:
        """The fake; ``model`` plays no part, ``judgements`` are what the oracle goes by."""
        return ScriptedEngine(
            self.behaviour,
            judgements=judgements,
            seed=self.seed,
            seconds=self.seconds,
            sigma=self.sigma,
            slots=self.slots,
            failing=self.failing,
        )


@dataclass(frozen=True)
class VllmNode:
    """vLLM in this process, on GPUs: typed and preflighted, not launched by this version."""

    tensor_parallel: int = 1
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        _at_least_1(tensor_parallel=self.tensor_parallel, max_model_len=self.max_model_len)
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(f"gpu_memory_utilization is a share in (0, 1], not {self.gpu_memory_utilization}")

    def preflight(self) -> list[str]:
        """The package and the GPU, and that this version can't launch it."""
        missing = [] if find_spec("vllm") else [_package("vllm", "vllm")]
        if not _has_gpu():
            missing.append(f"engine=vllm needs an NVIDIA GPU and there is none; {_HERE}")
        return [*missing, f"this version does not launch engine=vllm yet; {_HERE}"]

    def create(self, model: str, *, revision: str | None = None, judgements: Qrels | None = None) -> Engine:
        """Raises ``EngineError`` naming what to use instead."""
        raise EngineError("; ".join(self.preflight()))


@dataclass(frozen=True)
class OpenAINode:
    """A server that speaks OpenAI's chat protocol: typed and preflighted, not launched by this version."""

    base_url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    max_concurrent_calls: int = 32
    timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        _at_least_1(max_concurrent_calls=self.max_concurrent_calls)
        if self.timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds must be above 0, not {self.timeout_seconds}")

    def preflight(self) -> list[str]:
        """The key, needed unless ``base_url`` names a server of one's own; and that this version can't call it."""
        missing = []
        if self.base_url is None and not os.environ.get(self.key_variable):
            missing.append(f"engine=openai needs a key: set the environment variable {self.key_variable}")
        return [*missing, f"this version does not call engine=openai yet; {_HERE}"]

    def create(self, model: str, *, revision: str | None = None, judgements: Qrels | None = None) -> Engine:
        """Raises ``EngineError`` naming what to use instead."""
        raise EngineError("; ".join(self.preflight()))


@dataclass(frozen=True)
class NoEngine:
    """For tasks that ask no model anything."""

    def preflight(self) -> list[str]:
        """Nothing is ever missing."""
        return []

    def create(self, model: str, *, revision: str | None = None, judgements: Qrels | None = None) -> Engine:
        """Raises ``EngineError``: the task does need an engine."""
        raise EngineError(f"engine=none answers nothing and this task asks a model; {_HERE}")


def _package(name: str, extra: str) -> str:
    return f"the package {name} is missing; install rearank's extra {extra}: pip install -e '.[{extra}]'"


def _has_gpu() -> bool:
    """Without importing torch, which takes seconds."""
    return shutil.which("nvidia-smi") is not None


def _at_least_1(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
