"""vLLM's side, by the entry point ``vllm.general_plugins``: linear layers whose weights can be loaded again.

On a CPU vLLM packs the weights of linear layers for its own kernels when it first loads them
(vllm/model_executor/layers/utils.py, dispatch_cpu_unquantized_gemm), and drops the originals: the trainer's new weights
then have nowhere to go. In a training run the plain ``torch`` kernel is used instead; it reads the weight at each call.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any


def register() -> None:
    """Called by vLLM in each of its processes; does nothing outside a training run on CPUs."""
    if os.environ.get("VERL_PLATFORM", "").strip().lower() != "cpu":
        return
    from vllm.model_executor.layers import utils

    keep_weights(utils)


def keep_weights(utils: ModuleType) -> None:
    """Replace the dispatcher in vLLM's module ``utils``."""
    import torch

    def dispatch(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = dispatch  # type: ignore[attr-defined]
