"""How much of a model an engine can hold: how it divides over GPUs, and how many windows its cache takes at once.

Nothing is loaded: the model's sizes and the machine's are enough. What vLLM then really has is read from vLLM.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from rearank.engines.model import Architecture

GIB = 1 << 30
MOST_SEQUENCES = 512
"""Of an engine at once: vLLM's compiled graphs end there, and few runs have more windows ready."""

_WORKSPACE_GIB = 4.0  # activations of the largest step, CUDA graphs, NCCL: what vLLM takes before the cache
_ANSWER_SHARE = 2  # of max_tokens, half: answers end before the limit, and those that don't are made to wait by vLLM
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Split:
    """GPUs an engine is spread over: ``tensor`` splits each layer, ``pipeline`` the stack of layers, ``data`` nothing:
    so many engines share the calls, each with all the weights."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1

    @property
    def parts(self) -> int:
        """GPUs of all engines together; on a CPU, groups of cores."""
        return self.tensor * self.pipeline * self.data

    def misfits(self, sizes: Architecture) -> list[str]:
        """What of the model can't be divided so, one line each with the remedy."""
        found = []
        fitting = [n for n in range(1, sizes.heads + 1) if _divides_heads(n, sizes)]
        if self.tensor not in fitting:
            found.append(
                f"engine.tensor_parallel={self.tensor} does not divide the model's {sizes.heads} attention heads and "
                f"{sizes.kv_heads} key-value heads; choose one of {', '.join(map(str, fitting))}"
            )
        if self.pipeline > sizes.layers:
            found.append(
                f"engine.pipeline_parallel={self.pipeline} is more than the model's {sizes.layers} layers; "
                f"choose at most {sizes.layers}"
            )
        return found

    def shortage(self, seen: int, what: str = "GPUs") -> list[str]:
        """That the machine has fewer GPUs, or cores, than this takes, with the remedy."""
        if self.parts <= seen:
            return []
        return [
            f"engine.tensor_parallel={self.tensor} x pipeline_parallel={self.pipeline} x data_parallel={self.data} "
            f"takes {self.parts} {what} and {seen} {'is' if seen == 1 else 'are'} seen here; lower one of them"
        ]


def _divides_heads(tensor: int, sizes: Architecture) -> bool:
    """Fewer key-value heads than GPUs are copied, which needs a whole number of copies of each."""
    shared = sizes.kv_heads % tensor == 0 if sizes.kv_heads >= tensor else tensor % sizes.kv_heads == 0
    return sizes.heads % tensor == 0 and shared


@dataclass(frozen=True)
class Choice:
    """How many windows one engine works on at once (``None``: left to vLLM), and why in words."""

    sequences: int | None
    why: str


def choose_sequences(
    sizes: Architecture | None,
    split: Split,
    *,
    dtype: str,
    prompt: int,
    answer: int,
    cache_gib: float | None = None,
    gpu_gib: float | None = None,
    utilization: float = 0.9,
) -> Choice:
    """As many windows as the key-value cache holds whole.

    Args:
        sizes: the model's; ``None`` where they aren't known.
        split: the GPUs of an engine.
        dtype: torch's name of the weights' and the cache's precision.
        prompt: tokens of a typical window's prompt.
        answer: the most tokens of its answer; half of them are counted on.
        cache_gib: the cache's size, where it is set (on a CPU).
        gpu_gib: otherwise, the memory of the smallest GPU...
        utilization: ...of which this share may be used, weights included.
    """
    if sizes is None or dtype not in _BYTES:
        return Choice(None, "the model's sizes are not known, so that vLLM's own default holds")
    if cache_gib is None:
        if gpu_gib is None:
            return Choice(None, "no GPU's memory could be read, so that vLLM's own default holds")
        weights = sizes.parameters * _BYTES[dtype] / (split.tensor * split.pipeline) / GIB
        cache_gib = gpu_gib * utilization - weights - _WORKSPACE_GIB
        if cache_gib <= 0:
            return Choice(None, f"weights of {weights:.1f} GiB leave no cache that could be foreseen")
    each = bytes_per_token(sizes, split, dtype)
    tokens = int(cache_gib * GIB / each)
    window = prompt + max(answer // _ANSWER_SHARE, 1)
    sequences = max(1, min(tokens // window, MOST_SEQUENCES))
    if sequences > 8:
        sequences -= sequences % 8
    return Choice(
        sequences,
        f"a key-value cache of about {cache_gib:.1f} GiB holds {tokens:,} tokens at {each:,} bytes each, and a window "
        f"takes {window:,} (a prompt of {prompt:,}, half of {answer:,} for the answer)"
        + (f"; never more than {MOST_SEQUENCES}" if sequences == MOST_SEQUENCES else ""),
    )


def bytes_per_token(sizes: Architecture, split: Split, dtype: str) -> int:
    """Of the key-value cache of one GPU."""
    heads = max(sizes.kv_heads // split.tensor, 1)
    layers = -(-sizes.layers // split.pipeline)
    return 2 * layers * heads * sizes.head_dim * _BYTES[dtype]


def gpus_seen() -> list[float]:
    """GiB of each NVIDIA GPU that this process may use; empty where there is none. Imports no torch."""
    try:
        return [float(size) / 1024 for (size,) in ask_gpus("memory.total")]
    except ValueError:
        return []


def ask_gpus(*fields: str) -> list[tuple[str, ...]]:
    """What nvidia-smi says, field by field (its ``--query-gpu``), of each GPU that this process may use."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = [tuple(part.strip() for part in line.split(",")) for line in listed.splitlines() if line.strip()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return gpus
    chosen = [part.strip() for part in visible.split(",") if part.strip()]
    if all(part.isdecimal() for part in chosen):
        return [gpus[int(part)] for part in chosen if int(part) < len(gpus)]
    return gpus[: len(chosen)]  # named by UUID: which they are is not known, how many is
