"""``trainer=verl``: GRPO on a Ray cluster. This version types and preflights the node; it does not launch it yet."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from rearank.training.base import Lora, TrainingError, TrainingJob, TrainingResult
from rearank.training.local import missing_packages

_HERE = "trainer=trl trains on one machine"


@dataclass(frozen=True)
class VerlTrainer:
    """The cluster.

    Args:
        nodes: machines.
        gpus_per_node: GPUs of each.
        micro_batch: answers a GPU takes in one pass.
        lora: adapters instead of all weights; ``null`` trains all.
        save_every: steps between checkpoints.
        validate_every: steps between validations.
        tensor_parallel: GPUs a rollout engine spans.
    """

    nodes: int = 1
    gpus_per_node: int = 8
    micro_batch: int = 8
    lora: Lora | None = None
    save_every: int = 20
    validate_every: int = 10
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        for name in ("nodes", "gpus_per_node", "micro_batch", "save_every", "validate_every", "tensor_parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.gpus_per_node % self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel ({self.tensor_parallel}) must divide gpus_per_node ({self.gpus_per_node})"
            )

    def preflight(self) -> list[str]:
        """Missing packages and GPUs; and that this version can't launch it."""
        packages = missing_packages("trainer=verl", ["verl", "ray", "vllm"])
        missing = [line.replace("'.[train]'", "'.[cluster]'") for line in packages]
        if shutil.which("nvidia-smi") is None:
            missing.append(f"trainer=verl needs {self.nodes} x {self.gpus_per_node} GPUs and there is none; {_HERE}")
        return [*missing, f"this version does not launch trainer=verl yet; {_HERE}"]

    def train(self, job: TrainingJob, algorithm: Any) -> TrainingResult:
        """Raises ``TrainingError`` naming what to use instead."""
        raise TrainingError("; ".join(self.preflight()))
