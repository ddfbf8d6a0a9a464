"""Ray for the length of a command, and how many actors it has room for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from rearank.checks import missing_packages
from rearank.engines import OpenAINode, TransformersNode, VllmNode
from rearank.engines.vllm.arguments import built_for_cpu
from rearank.progress import progress
from rearank.sections import STANDARD, Rerank
from rearank.training.verl.leftovers import MARK, watched
from rearank.training.verl.session import connect, interruptible
from rearank.training.verl.settings import Cluster


class ClusterError(RuntimeError):
    """The Ray cluster has no room for what is asked of it."""


def problems(settings: Rerank, cluster: Cluster) -> list[str]:
    """What keeps ``rerank.runner=ray`` from starting, a line each."""
    found = missing_packages("cluster", "ray", "pandas", "pyarrow") + cluster.preflight()
    if settings.input == STANDARD:
        found.append(
            "rerank.runner=ray: standard input can't be read again after a stop; give a file (rerank.input=...), or "
            "set rerank.runner=local"
        )
    if (cluster.address or "").startswith("ray://"):
        found.append(
            f"cluster.address={cluster.address}: Ray Data streams to no client from afar; run this command on a "
            "machine of the cluster with cluster.address=auto (ray job submit does)"
        )
    return found


@contextmanager
def started(cluster: Cluster, folder: Path, cpus: float) -> Iterator[Any]:
    """Ray, started with ``cpus`` cores at least or joined; what this command started in it ends with the block.

    ``folder`` is where the mark of what is under way is kept.
    """
    import ray

    ours = cluster.address is None
    with watched(folder) as mark:
        environment = {**cluster.environment(), MARK: mark}
        counted = max(cluster.cpus or os.cpu_count() or 1, ceil(cpus))
        with progress("starting Ray" if ours else f"joining Ray at {cluster.address}"):
            connect(ray, cluster, environment, {"num_cpus": counted})
        try:
            with interruptible():
                yield ray
        finally:
            ray.shutdown()


def gpus_an_actor(engine: Any, machines: Sequence[dict[str, float]]) -> int:
    """How many its engine takes."""
    if isinstance(engine, VllmNode):
        cpu = engine.device == "cpu" or built_for_cpu()
        return 0 if cpu else engine.tensor_parallel * engine.pipeline_parallel * (engine.data_parallel or 1)
    if isinstance(engine, TransformersNode):
        there = any(machine.get("GPU", 0) >= 1 for machine in machines)
        return int(engine.device.startswith("cuda") or (engine.device == "auto" and there))
    return 0


@dataclass(frozen=True)
class Pool:
    """How many actors, and the cores and GPUs of each."""

    actors: int
    cpus: float
    gpus: int


def pool_of(settings: Rerank, engine: Any, machines: Sequence[dict[str, float]]) -> Pool:
    """The actors on machines with these resources.

    They are ``rerank.actors``, or by itself one for all GPUs that its engine takes, without GPUs one a machine; no more
    than a server may have calls at once.

    Raises:
        ClusterError: where there is no room for so many, and Ray would wait for ever.
    """
    gpus, cpus = gpus_an_actor(engine, machines), settings.actor_cpus
    room = [int(machine.get("CPU", 0) // cpus) for machine in machines]
    if gpus:
        room = [min(fit, int(machine.get("GPU", 0) // gpus)) for fit, machine in zip(room, machines, strict=True)]
    wanted = settings.actors or (sum(room) if gpus else sum(fit > 0 for fit in room))
    if isinstance(engine, OpenAINode):
        wanted = min(wanted, engine.max_concurrent_calls)
    if not 0 < wanted <= sum(room):
        asked = f"{cpus:g} CPUs" + (f" and {gpus} GPUs" if gpus else "")
        there = "; ".join(f"{machine.get('CPU', 0):g} CPUs, {machine.get('GPU', 0):g} GPUs" for machine in machines)
        raise ClusterError(
            f"the Ray cluster has room for {sum(room)} actors of {asked} each (its machines have {there}) and "
            f"{max(wanted, 1)} are asked for: set rerank.actors, rerank.actor_cpus or engine.tensor_parallel to what "
            "there is"
        )
    return Pool(wanted, cpus, gpus)
