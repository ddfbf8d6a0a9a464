"""The Ray actor that runs a training inside the cluster. The driver only starts it and listens."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from rearank.training.base import TrainingError
from rearank.training.verl.events import SHARED, Outcome, Reporter, root_cause
from rearank.training.verl.settings import Watch

_PATIENCE = 15.0  # seconds for the rollout engines to end


class Runner:
    """One training; an actor of no GPU."""

    def train(self, config: Mapping[str, Any], watch: Watch) -> Outcome:
        """verl's PPO trainer, from wherever ``config`` says that it continues."""
        return self._guarded(lambda: _train(config, watch))

    def fine_tune(self, config: Mapping[str, Any], watch: Watch) -> Outcome:
        """verl's SFT trainer."""

        def work() -> Outcome:
            from rearank.training.verl.sft import fine_tune

            return fine_tune(config, watch)

        return self._guarded(work)

    def _guarded(self, work: Callable[[], Outcome]) -> Outcome:
        try:
            _assert_plugin()
            return work()
        except Exception as error:
            # What was reported first is closest to the cause: later errors are its consequences.
            reported = Reporter().failure()
            return Outcome(failure=reported or root_cause(error), trace=traceback.format_exc())


def _assert_plugin() -> None:
    """verl says nothing aloud about a plug-in that fails to load, or that isn't installed."""
    on_cpu, shares = os.environ.get("VERL_PLATFORM") == "cpu", bool(os.environ.get(SHARED))
    if not on_cpu and not shares:
        return
    import verl  # noqa: F401
    from verl.plugin.platform import get_platform

    # As verl found it: an import from here would load it, too.
    applied = getattr(sys.modules.get("rearank.training.verl.cpu"), "applied", ())
    if on_cpu and (get_platform().device_name != "cpu" or "one backend" not in applied):
        raise RuntimeError("the CPU platform for verl did not load: install rearank itself into this environment")
    if shares and "shared prompts" not in applied:
        raise TrainingError(
            "trainer.shared_prompt: verl doesn't find its engine: install rearank itself into the cluster's "
            "environment (pip install --no-deps .), or set trainer.shared_prompt=false"
        )


def _train(config: Mapping[str, Any], watch: Watch) -> Outcome:
    import transfer_queue as tq
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from rearank.training.verl import advantage
    from rearank.training.verl.rollouts import RolloutManager
    from rearank.training.verl.trainer import WatchedTrainer

    tree = OmegaConf.create(dict(config))
    tree.transfer_queue.enable = True
    OmegaConf.resolve(tree)
    validate_config(tree, use_reference_policy=need_reference_policy(tree), use_critic=need_critic(tree))
    tq.init(tree.transfer_queue)
    advantage.register()
    trainer = WatchedTrainer(tree, watch)
    try:
        trainer.init()
        manager = RolloutManager.create(
            config=tree,
            llm_client=trainer.get_llm_client(),
            teacher_client=trainer.get_teacher_client(),
            reward_loop_worker_handles=trainer.get_reward_handles(),
        )
        trainer.fit(manager)
        step, ndcg = trainer.best
        return Outcome(trainer.total_training_steps, step, ndcg, trainer.stopped)
    finally:
        _shut_down_rollouts(trainer)
        tq.close()


def _shut_down_rollouts(trainer: Any) -> None:
    """vLLM's engines put their shared memory away only when they are asked to; verl leaves them to be killed."""
    import ray

    def shut_down(server: Any) -> None:
        if (engine := getattr(server, "engine", None)) is not None:
            engine.shutdown(timeout=_PATIENCE - 3)

    servers = getattr(trainer, "llm_server_manager", None)
    calls = [
        server.__ray_call__.remote(shut_down)
        for replica in (servers.get_replicas() if servers is not None else ())
        for server in replica.servers
    ]
    if calls:
        ray.wait(calls, num_returns=len(calls), timeout=_PATIENCE)
