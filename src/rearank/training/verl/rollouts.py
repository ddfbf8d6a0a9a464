"""verl's agent loop with three things added: one engine for a group, a seed for an answer, an end at the first failure.

verl spreads a group over all rollout engines, and each of them reads the prompt anew; by one routing id a group shares
one engine, whose prefix cache reads it once. verl counts a failed answer and goes on with the others; a run of ours
ends with what went wrong. ``compose`` chooses the worker, ``WatchedTrainer.get_llm_client`` the client. Imported in the
cluster only.
"""

from __future__ import annotations

import hashlib
import os
from contextvars import ContextVar
from typing import Any

import ray
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ
from verl.workers.rollout.llm_server import LLMServerClient

from rearank.rewards import RewardError
from rearank.training.verl.events import SEEDED, Reporter, innermost, root_cause

_Worker = AgentLoopWorkerTQ.__ray_metadata__.modified_class
_group: ContextVar[str] = ContextVar("group")
"""Of the answer that the running task samples."""


class GroupClient(LLMServerClient):  # type: ignore[misc]
    """Asks the same rollout engine for all answers of a group. What vLLM calls a request stays verl's, and unique."""

    async def _acquire_server(self, request_id: str, **extra: Any) -> Any:
        return await super()._acquire_server(_group.get(request_id), **extra)


class RolloutWorker(_Worker):  # type: ignore[misc,valid-type]
    """Samples the answers of its share of the windows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reporter = Reporter()
        # An answer ends the conversation here. verl's per-family rules are about the turn after it, and ask the
        # tokenizer for tokens (a newline, for Qwen's) that a small vocabulary need not have.
        self.hf_model_type = None

    async def _run_agent_loop(self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any) -> Any:
        if SEEDED in os.environ and not trajectory["validate"]:
            place = (trajectory["step"], kwargs["index"], kwargs["session_id"])
            sampling_params = {**sampling_params, "seed": answer_seed(self.config.data.seed, *place)}
        _group.set(str(kwargs["uid"]))
        try:
            return await super()._run_agent_loop(sampling_params, trajectory=trajectory, **kwargs)
        except Exception as error:
            message = f"an answer could not be sampled or scored: {root_cause(error)}"
            self._reporter.fail(message, harmless=isinstance(innermost(error), RewardError))
            raise


class RolloutManager(AgentLoopManagerTQ):  # type: ignore[misc]
    """verl's manager over ``RolloutWorker``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(RolloutWorker)


def answer_seed(seed: int, step: int, row: int, sample: int) -> int:
    """The same answer is drawn from the same distribution again, whatever else is in the batch or was before it."""
    digest = hashlib.sha256(f"{seed}/{step}/{row}/{sample}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1
