"""Runs of `python run.py` with `trainer=verl_cpu`: real Ray, verl and vLLM, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.end_to_end.pipeline import ROOT, environment, lines

QUICKSTART = (
    *("experiment=quickstart", "trainer=verl_cpu", "tracking=none", "name=run"),
    "analyse.after_training=0",  # it would load vLLM twice more
)
SMALL = (
    *QUICKSTART,
    "dataset.collection.query_count=24",
    "validation.collection.query_count=8",
    "prepare.validation_windows=8",
    "algorithm.steps=2",
    "algorithm.prompts_per_step=4",
    "algorithm.group_size=4",
    "trainer.save_every=1",
    "trainer.validate_every=2",
    "task=train",
    "cluster.seconds_to_sync=600",  # two runs may share two cores
)
_OURS = re.compile(r"ray::|raylet|gcs_server|VLLM::|vllm|default_worker")


def command(outputs: Path, settings: tuple[str, ...], *overrides: str) -> list[str]:
    """``python run.py``; later overrides win."""
    places = [f"paths.outputs={outputs}", f"paths.cache={outputs.parent}/cache"]
    return [sys.executable, str(ROOT / "run.py"), *settings, *places, *overrides]


def run(outputs: Path, settings: tuple[str, ...], *overrides: str, expect: int = 0, timeout: float = 900) -> str:
    """Run to the end, check the exit status; what was said."""
    done = subprocess.run(
        command(outputs, settings, *overrides),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    said = done.stdout + done.stderr
    assert done.returncode == expect, f"exit status {done.returncode}\n{said[-4000:]}"
    return said


class Started:
    """A run under way."""

    def __init__(self, outputs: Path, settings: tuple[str, ...], *overrides: str) -> None:
        self._log = outputs / "said.log"
        arguments = command(outputs, settings, *overrides)
        with self._log.open("w") as said:
            self.process = subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=said, stderr=said)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_until(self, reached: Callable[[], bool], timeout: float = 400) -> None:
        deadline = time.monotonic() + timeout
        while not reached():
            assert self.process.poll() is None, f"it ended by itself: {self.said[-4000:]}"
            assert time.monotonic() < deadline, f"the moment never came: {self.said[-4000:]}"
            time.sleep(0.1)

    def stop(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=120)


def curves(folder: Path) -> list[dict[str, Any]]:
    """What was logged so far."""
    return lines(folder / "training" / "train.jsonl")


def step_reached(folder: Path, step: int) -> Callable[[], bool]:
    """Whether step ``step`` was logged."""
    return lambda: any(line["step"] >= step for line in curves(folder))


def result(folder: Path) -> dict[str, Any]:
    """The finished training's."""
    found: dict[str, Any] = json.loads((folder / "training" / "result.json").read_text())
    return found


def cluster_processes(patience: float = 0.0, pattern: re.Pattern[str] = _OURS) -> list[str]:
    """Ray's and vLLM's processes that this pytest process began, once they had ``patience`` seconds to go."""
    deadline = time.monotonic() + patience
    while (found := _processes(pattern)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _processes(pattern: re.Pattern[str]) -> list[str]:
    # Other files' tests may run beside: pytest-xdist leaves its worker's name to every process below.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    mark = f"PYTEST_XDIST_WORKER={worker}".encode() if worker else b""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            mine = mark in (folder / "environ").read_bytes()
            dead = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if mine and not dead and pattern.search(words) and "pytest" not in words and "run.py" not in words:
            found.append(f"{folder.name}: {words[:100]}")
    return found


def has_machines(address: str, wanted: int) -> bool:
    """Whether a Ray cluster comes to have so many machines."""
    script = ROOT / "examples" / "cluster" / "wait_for_machines.py"
    words = [sys.executable, str(script), address, str(wanted), "120"]
    return subprocess.run(words, env=environment(), timeout=200, check=False).returncode == 0


def pids(pattern: str) -> list[int]:
    """Of the processes whose command line has ``pattern``."""
    return [int(line.partition(":")[0]) for line in _processes(re.compile(pattern))]
