"""A run's own Ray and an existing one of two machines: what reaches their processes, and what a killed run leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.runs import ROOT, pids
from tests.end_to_end.pipeline import environment

from rearank.training.verl.leftovers import UNDER_WAY, marked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

# A run without verl: it opens its session, asks a process on each machine, and waits to be killed.
DRIVER = """
import os, sys, time
from pathlib import Path
import ray
from rearank.training.verl import Cluster, VerlTrainer
from rearank.training.verl.session import session

folder, address = Path(sys.argv[1]), sys.argv[2] or None
env = {"NCCL_SOCKET_IFNAME": "lo", "HF_HOME": None, "SECRET": "a-secret-value"}
cluster = Cluster(address=address, nodes=2 if address else 1, gpus_per_node=1, env=env)
(folder / "starting").touch()
with session(VerlTrainer(cluster=cluster, device="cpu"), folder):
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    @ray.remote(num_cpus=0)
    def seen():
        return [os.environ.get(name) for name in env]

    places = [On(node["NodeID"], soft=False) for node in ray.nodes()]
    answers = ray.get([seen.options(scheduling_strategy=place).remote() for place in places])
    (folder / "seen").write_text(repr(answers))
    time.sleep(600)
"""


class Driver:
    """The program above, killed at the end."""

    def __init__(self, folder: Path, address: str) -> None:
        folder.mkdir()
        self.folder, self.said = folder, folder / "said.log"
        with self.said.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(folder), address],
                cwd=ROOT, env={**environment(), "HF_HOME": "/models", "NCCL_IB_HCA": "mlx5_0"}, stdout=log, stderr=log,
            )  # fmt: skip

    def wait_for(self, name: str) -> str:
        deadline = time.monotonic() + 200
        while not (self.folder / name).exists():
            assert self.process.poll() is None, self.said.read_text()[-3000:]
            assert time.monotonic() < deadline, self.said.read_text()[-3000:]
            time.sleep(0.05)
        return (self.folder / name).read_text()

    def kill(self) -> float:
        """Seconds until no process of the run was left."""
        mark = (self.folder / UNDER_WAY).read_text()
        self.process.kill()
        self.process.wait()
        began = time.monotonic()
        while marked(mark) and time.monotonic() < began + 60:
            time.sleep(0.1)
        assert marked(mark) == []
        return time.monotonic() - began


@pytest.fixture(scope="module")
def foreign(two_nodes: str) -> Iterator[tuple[str, list[int]]]:
    """Somebody else's Ray: its address and processes, which are there still at the end."""
    processes = pids(r"raylet/raylet|gcs_server|ray::(DashboardAgent|RuntimeEnvAgent)")
    assert len(processes) >= 3, "a head and two raylets at least"
    yield two_nodes, processes
    assert set(processes) <= set(pids(r"raylet/raylet|gcs_server|ray::(DashboardAgent|RuntimeEnvAgent)"))


def test_the_environment_reaches_every_machine_of_an_existing_ray(foreign: tuple[str, Any], tmp_path: Path) -> None:
    driver = Driver(tmp_path / "run", foreign[0])
    try:
        assert driver.wait_for("seen") == repr([["lo", "/models", "a-secret-value"]] * 2)
    finally:
        seconds = driver.kill()
    assert seconds < 30, "our actors end with us"
    assert "NCCL_IB_HCA: set here, and not sent" in driver.said.read_text()
    # The same folder again: the dead run's name is gone from that Ray, or waited for.
    again = Driver(tmp_path / "again", foreign[0])
    again.wait_for("seen")
    again.process.send_signal(signal.SIGTERM)
    assert again.process.wait(timeout=60) == -signal.SIGINT, "as Ctrl-C does"
    assert not (again.folder / UNDER_WAY).exists()


@pytest.mark.parametrize("when", ["starting", "seen"])
def test_a_killed_run_takes_its_own_ray_with_it_and_no_other(
    when: str, foreign: tuple[str, Any], tmp_path: Path
) -> None:
    driver = Driver(tmp_path / "run", "")
    driver.wait_for(when)
    before = set(foreign[1])
    if when == "starting":  # Ray is half there
        deadline = time.monotonic() + 60
        while not set(pids(r"raylet/raylet")) - before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert driver.process.poll() is None
    else:
        assert driver.wait_for("seen") == repr([["lo", "/models", "a-secret-value"]])
    assert driver.kill() < 30
    assert set(pids(r"raylet/raylet")) <= before
