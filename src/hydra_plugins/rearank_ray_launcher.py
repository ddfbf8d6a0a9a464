"""A Hydra launcher for Ray: the jobs of a sweep as Ray tasks. ``launcher=ray`` chooses it.

Hydra's own plugin (hydra-ray-launcher) asks for a cloudpickle that today's Ray, vLLM and verl are not made with. Hydra
looks for launchers in this package alone, and imports them at every start: nothing heavy may be imported at the top.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

_log = logging.getLogger(__name__)


# No dataclass: Hydra imports this file before Python knows it as a module, which dataclasses need.
_NODE: dict[str, Any] = {
    "_target_": "hydra_plugins.rearank_ray_launcher.RayLauncher",
    "address": None,  # a Ray of the sweep's own on this machine; or "auto", or "ray://host:10001"
    "num_cpus": 1,  # of a job, and so how many run at once
    "num_gpus": 0,
    "total_cpus": None,  # that a Ray of our own counts; the machine's
    "runtime_env": {},  # Ray's, for machines that lack this code; its values are written to no file
}
ConfigStore.instance().store(group="hydra/launcher", name="rearank_ray", node=_NODE, provider="rearank")


class RayLauncher(Launcher):
    """Waits for all jobs; one whose process died has an empty result, and the others theirs."""

    def __init__(
        self,
        address: str | None,
        num_cpus: float,
        num_gpus: float,
        total_cpus: int | None,
        runtime_env: Mapping[str, Any],
    ) -> None:
        from rearank.training.verl.hiding import launcher_runtime_of

        self._address, self._total, self._environment = address, total_cpus, launcher_runtime_of(runtime_env)
        self._resources = {"num_cpus": num_cpus, "num_gpus": num_gpus}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's protocol."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job; the results are in the order of ``job_overrides``."""
        import ray

        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        Path(str(self._config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        own = {"num_cpus": self._total, "include_dashboard": False} if self._address is None else {}
        ray.init(address=self._address or "local", runtime_env=self._environment or None, **own)
        try:
            remote = ray.remote(max_retries=0, **self._resources)(_run)
            shared = ray.put((self._context, self._task, self._config, Singleton.get_state(), str(Path.cwd())))
            jobs = list(enumerate(job_overrides, start=initial_job_idx))
            for number, overrides in jobs:
                _log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
            waiting = [remote.remote(shared, number, list(overrides)) for number, overrides in jobs]
            return [self._result(ray, ref, number) for ref, (number, _) in zip(waiting, jobs, strict=True)]
        finally:
            ray.shutdown()

    def _result(self, ray: Any, ref: Any, number: int) -> JobReturn:
        try:
            result: JobReturn = ray.get(ref)
        except ray.exceptions.RayError as error:
            _log.error("job #%d: %s", number, str(error).splitlines()[0])
            result = JobReturn(status=JobStatus.COMPLETED)
            result.return_value = None
        return result


def _run(shared: tuple[Any, ...], number: int, overrides: list[str]) -> JobReturn:
    """One job, in a process of Ray's, in the folder that the sweep was started in."""
    context, task, config, singletons, folder = shared
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(singletons)
    job = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job):
        job.hydra.job.id = f"{job.hydra.job.name}_{number}"
        job.hydra.job.num = number
    HydraConfig.instance().set_config(job)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=job,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
