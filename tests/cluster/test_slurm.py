"""`examples/cluster/slurm.sh` with stand-ins for SLURM's commands: two Ray nodes of this machine really train.

The same run says that `cluster.env` reaches verl's and vLLM's processes on both.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster.runs import SMALL, curves, pids, result, step_reached
from tests.end_to_end.pipeline import ROOT, environment

pytestmark = [pytest.mark.full, pytest.mark.slow, pytest.mark.timeout(1500)]
SCRIPT = ROOT / "examples" / "cluster" / "slurm.sh"
STEPS, SECRET = 8, "a-secret-value"
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
  show) printf 'localhost\\nlocalhost\\n' ;;
  requeue) echo "$2" >> "$REQUEUED" ;;
esac
"""
RAYS = r"raylet/raylet|gcs_server|ray::|VLLM::"


@contextmanager
def job(tmp_path: Path, restarts: int) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """The batch script as SLURM starts it, and what it said so far; killed at the end where it is there still."""
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    slurm = {
        **{"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "two", "SLURM_GPUS_ON_NODE": "1", "SLURM_CPUS_PER_TASK": "2"},
        **{"SLURM_RESTART_COUNT": str(restarts), "VENV": str(Path(sys.executable).parent.parent), "RAY_CPUS": "48"},
        **{"REQUEUED": str(tmp_path / "requeued"), "PATH": f"{tmp_path}:{os.environ['PATH']}", "TEST_HOME": "/models"},
    }
    arguments = [*SMALL, f"paths.outputs={tmp_path}", f"algorithm.steps={STEPS}", "trainer.validate_every=4"]
    arguments += [f"+cluster.env.TEST_TOKEN={SECRET}", "+cluster.env.TEST_HOME=null"]
    said = tmp_path / f"said-{restarts}.log"
    with said.open("w") as log:
        process = subprocess.Popen(
            ["bash", str(SCRIPT), *arguments], cwd=ROOT, env={**environment(), **slurm}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process, said.read_text
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def variable(pid: int, name: str) -> str | None:
    try:
        pairs = (pair.partition("=") for pair in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    except OSError:
        return None
    return next((value for found, _, value in pairs if found == name), None)


def test_the_script_trains_is_requeued_and_goes_on(tmp_path: Path) -> None:
    folder, before = tmp_path / "run", set(pids(RAYS))
    with job(tmp_path, 0) as (process, said):
        deadline = time.monotonic() + 600
        while not step_reached(folder, 2)():
            assert process.poll() is None, said()[-4000:]
            assert time.monotonic() < deadline, said()[-4000:]
            time.sleep(0.1)
        for kind, count in (("ray::WorkerDict", 2), ("VLLM::", 2)):
            found = pids(kind)
            assert len(found) >= count, kind
            assert {variable(pid, "TEST_TOKEN") for pid in found} == {SECRET}, kind
            assert {variable(pid, "TEST_HOME") for pid in found} == {"/models"}, kind
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=200) == 0, said()[-4000:]
    assert (tmp_path / "requeued").read_text() == "4711\n"
    assert "interrupted; the same command goes on from here" in said()
    assert not set(pids(RAYS)) - before, "nothing is left on the machines when SLURM takes them back"
    done = max(line["step"] for line in curves(folder))
    assert 2 <= done < STEPS
    with job(tmp_path, 1) as (process, said):
        assert process.wait(timeout=900) == 0, said()[-4000:]
    assert re.search(r"restart 1", said())
    assert re.search(r"continued from step [1-7]", said())
    assert [line["step"] for line in curves(folder) if "train/loss" in line] == list(range(1, STEPS + 1))
    assert result(folder)["steps"] == STEPS
    assert not set(pids(RAYS)) - before
    files = (path for path in folder.rglob("*") if path.is_file())
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
