"""Ray for the length of a run: started or joined, a run's actors in it, and nothing of ours left on the way out.

A Ray that this run started is stopped with it, however it ends; one that was there before keeps nothing of ours.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from rearank.progress import progress
from rearank.training.base import TrainingError
from rearank.training.verl.events import NAME, SEEDED, SHARED, Events, Outcome, root_cause
from rearank.training.verl.hiding import runtime_of, without_values
from rearank.training.verl.leftovers import MARK, watched
from rearank.training.verl.runner import Runner
from rearank.training.verl.settings import Cluster, VerlSettings

FAILURE = "failure.txt"
"""In the training's folder: the traceback of what a run failed of."""

_EVERY = 0.2  # seconds between two looks at the cluster's events
_PATIENCE = 30.0  # seconds that an interrupted run gets to put its processes away
_KNOCK = 10.0  # seconds for a connection to an existing Ray
_CPUS_A_GPU = 10  # that verl's placement groups ask for at most (RayResourcePool, max_colocate_count)
_CPUS_BESIDE = 16  # of the queue's, the reward's and our own actors
_OF_MACHINES = re.compile(r"(NCCL|GLOO)_|HF_(HOME|HUB_CACHE)$")  # what is exported for training on several of them
_log = logging.getLogger(__name__)
_TRANSFER_QUEUE = ("TransferQueueController", "transfer_queue")


class RaySession:
    """A connection to Ray in which one run is started."""

    def __init__(self, ray: Any, folder: Path, environment: Mapping[str, str], hidden: Collection[str] = ()) -> None:
        self._ray, self._folder, self._hidden = ray, folder, hidden
        self._events = ray.remote(num_cpus=0)(Events).options(name=environment[NAME]).remote()
        self._runner = ray.remote(num_cpus=1)(Runner).remote()
        self._call: Any = None

    def run(self, method: str, take: Callable[[Sequence[tuple[str, Any]]], None], *arguments: Any) -> Outcome:
        """Call the runner's ``method``; what happens meanwhile goes to ``take``, in order, to be dealt with at once.

        Raises ``TrainingError`` with the root cause where it fails; the whole of it is in ``FAILURE``.
        """
        ray, taken = self._ray, 0
        self._call = getattr(self._runner, method).remote(*arguments)
        try:
            over = False
            while not over:
                over = bool(ray.wait([self._call], timeout=_EVERY)[0])
                events = ray.get(self._events.take.remote(taken))
                take(events)
                taken += len(events)
            outcome: Outcome = ray.get(self._call)
        except (ray.exceptions.RayError, ConnectionError) as error:  # the latter from ray://
            outcome = Outcome(failure=root_cause(error), trace=str(error))
        self._call = None
        if outcome.failure is not None:
            place = self._folder / FAILURE
            failure = without_values(outcome.failure, self._hidden)
            place.write_text(without_values(f"{failure}\n\n{outcome.trace}\n", self._hidden))
            raise TrainingError(
                f"training failed: {failure}\n  the whole of it: {place}; "
                "once the cause is mended, the same command goes on from the last checkpoint"
            )
        return outcome

    def close(self) -> None:
        """Stop the run's actors; one that is at work is asked to end, and given a while."""
        if self._call is not None:
            self._events.stop.remote()
            self._ray.wait([self._call], timeout=_PATIENCE)
        for actor in (self._runner, self._events):
            self._ray.kill(actor)


@contextmanager
def session(trainer: VerlSettings, folder: Path) -> Iterator[RaySession]:
    """Ray, started or joined; on the way out nothing of ours is left in it.

    Raises ``TrainingError`` where there is no such cluster, too few GPUs, or another run of verl is under way in it.
    """
    import ray

    cluster = trainer.cluster
    ours = cluster.address is None
    with watched(folder) as mark:
        run = {NAME: f"rearank-events-{uuid4().hex[:12]}", MARK: mark}
        environment = {**_environment(trainer), **(given := cluster.environment()), **run}
        with progress("starting Ray" if ours else f"joining Ray at {cluster.address}"):
            # CPUs are only counted: verl's actors ask for more than they use, and would wait for ever on a machine of
            # few cores. Without a GPU cores are handed out as "GPUs", too (see cpu.platform).
            cpus = cluster.cpus or max(os.cpu_count() or 1, _cpus_wanted(cluster))
            resources = {"num_cpus": cpus, **({"num_gpus": cluster.gpus} if trainer.on_cpu else {})}
            connect(ray, cluster, environment, resources)
        try:
            _check_cluster(ray, trainer)
            with interruptible():  # not before: ray.init handles SIGTERM in its own way
                opened = RaySession(ray, folder, environment, given.values())
                try:
                    yield opened
                finally:
                    opened.close()
        finally:
            _disconnect(ray, ours)


def connect(ray: Any, cluster: Cluster, environment: Mapping[str, str], resources: Mapping[str, Any]) -> None:
    """Start a Ray of our own with ``resources``, or join the one that there is; ``environment`` reaches its processes.

    Raises ``TrainingError`` where none can be reached.
    """
    if ray.is_initialized():
        raise TrainingError("this process is connected to a Ray already; rearank connects by itself")
    runtime = runtime_of(cluster.runtime_env)
    settings: dict[str, Any] = {"log_to_driver": bool(os.environ.get("REARANK_TRACE"))}
    if cluster.address is None:
        # A Ray that is there already is somebody else's: "local" never joins one.
        settings |= {"address": "local", "include_dashboard": False, **resources}
    else:
        settings |= {"address": cluster.address}
        runtime["env_vars"] = dict(environment)
        if unsent := sorted(name for name in os.environ if _OF_MACHINES.match(name) and name not in environment):
            _log.warning(
                "%s: set here, and not sent to this Ray's machines, which may have their own; +cluster.env.%s=null "
                "sends it", ", ".join(unsent), unsent[0],
            )  # fmt: skip
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 starves a run on a machine where others work, too
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        _knock(cluster.address)
        # A Ray of our own inherits it all, its own processes too: that keeps values out of Ray's logs.
        with _exported(environment if cluster.address is None else {}):
            ray.init(logging_level=logging.ERROR, runtime_env=runtime, **settings)
    except (ray.exceptions.RayError, OSError, ValueError, RuntimeError) as error:
        reason_given = without_values(str(error).splitlines()[0], cluster.environment().values())
        raise TrainingError(
            f"cluster.address={cluster.address}: no Ray can be reached ({reason_given}); start one with "
            "`ray start --head`, or leave cluster.address=null for a Ray of this run's own"
        ) from None  # Ray's own words may repeat the environment


@contextmanager
def _exported(environment: Mapping[str, str]) -> Iterator[None]:
    """Part of this process's own environment for the length of a block: what it starts there inherits it."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _knock(address: str | None) -> None:
    """Raises ``OSError`` where nobody listens at ``host:port``: Ray would knock for many minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK).close()


def _check_cluster(ray: Any, trainer: VerlSettings) -> None:
    """Raises ``TrainingError`` where verl would wait for ever for what the cluster doesn't have, or isn't free."""
    cluster = trainer.cluster
    if not _queue_is_gone(ray):  # a killed run's takes some seconds to go
        raise TrainingError(
            "another training of verl's is under way in this Ray cluster, and two would mix their answers "
            "(they share an actor by name); wait for it, or use a cluster of your own"
        )
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = sum(machine.get("GPU", 0) >= cluster.gpus_per_node for machine in machines)
    if fitting < cluster.nodes:
        gpus = ", ".join(f"{machine.get('GPU', 0):g}" for machine in machines)
        raise TrainingError(
            f"the Ray cluster's machines have {gpus} GPUs, and cluster.nodes={cluster.nodes} with "
            f"cluster.gpus_per_node={cluster.gpus_per_node} are asked for: set these to what there is"
        )
    if cluster.address is None:
        return  # nobody else is in it
    for name, wanted in (("GPU", cluster.gpus), ("CPU", _cpus_wanted(cluster))):
        free = ray.available_resources().get(name, 0)
        if free < wanted:
            raise TrainingError(
                f"the Ray cluster has {free:g} {name}s free and this run asks for {wanted}: others use them, or its "
                f"machines were started with fewer (ray start --num-{name.lower()}s=...; CPUs are only counted)"
            )


def _disconnect(ray: Any, ours: bool) -> None:
    """Leave, and where Ray is not ours wait until the actors of this run are gone from it."""
    if not ours:
        _queue_is_gone(ray)
    ray.shutdown()


def _queue_is_gone(ray: Any) -> bool:
    """Whether no training of verl's is under way; one that is gets ``_PATIENCE`` seconds to end."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            ray.get_actor(*_TRANSFER_QUEUE)
        except Exception:  # gone, or the cluster is
            return True
        time.sleep(_EVERY)
    return False


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: schedulers send it, and Ray must still be put away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _environment(trainer: VerlSettings) -> dict[str, str]:
    """What every process of the run needs in its environment."""
    common = {
        "NCCL_DEBUG": "WARN",
        "VLLM_LOGGING_LEVEL": "WARN",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true",
        "VLLM_DISABLE_COMPILE_CACHE": "1",  # vllm issue 31199: a corrupt cache
        "TRANSFER_QUEUE_ENABLE": "1",
        "REARANK_WEIGHT_TIMEOUT": f"{trainer.cluster.seconds_to_sync:g}",
    }
    if trainer.on_cpu:
        common |= {
            "VERL_PLATFORM": "cpu",
            "VERL_ENGINE_DEVICE": "cuda",  # verl registers its FSDP engines for cuda and npu only
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    if trainer.seed_answers if trainer.seed_answers is not None else trainer.on_cpu:
        common[SEEDED] = "1"
    if trainer.shared_prompt:
        common[SHARED] = f"{str(trainer.shared_prompt).lower()} {trainer.mask_form}"
    # What the user set stays, but for what this process set for itself.
    return {**{name: os.environ.get(name, value) for name, value in common.items()}, "TOKENIZERS_PARALLELISM": "true"}


def _cpus_wanted(cluster: Cluster) -> int:
    return _CPUS_A_GPU * cluster.gpus + _CPUS_BESIDE
