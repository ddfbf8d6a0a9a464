"""What a killed program leaves behind: real processes and shared memory, without Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rearank.training.verl.leftovers import MARK, UNDER_WAY, marked, sweep, watched

# A worker with a segment of shared memory and a child of its own, which changes its title's place; all of them deaf.
WORKER = """
import os, signal, sys, time
from multiprocessing import shared_memory
for kind in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(kind, signal.SIG_IGN)
segment = shared_memory.SharedMemory(create=True, size=4096)
if os.fork() == 0:
    os.setsid()
os.write(1, f"{segment.name}\\n".encode())  # at once: both write
time.sleep(600)
"""
DRIVER = """
import os, subprocess, sys, time
from pathlib import Path
from rearank.training.verl.leftovers import MARK, watched
with watched(Path(sys.argv[1])) as mark:
    subprocess.Popen([sys.executable, "-c", sys.argv[2]], env={**os.environ, MARK: mark})
    time.sleep(600)
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in Linux's /proc")


def within(seconds: float, reached: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not (now := reached()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return now


@pytest.fixture
def foreign() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The same program, of another run, and its segment."""
    command = [sys.executable, "-c", WORKER]
    process = subprocess.Popen(command, env={**os.environ, MARK: "another"}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process, Path("/dev/shm", process.stdout.readline().strip())
    sweep("another")
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("sentry", ["alive", "killed"])
def test_what_a_killed_program_leaves_ends_and_nothing_else(
    sentry: str, foreign: tuple[subprocess.Popen[str], Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", DRIVER, str(tmp_path), WORKER]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert driver.stdout is not None
    segments = {driver.stdout.readline().strip() for _ in range(2)}
    mark = (tmp_path / UNDER_WAY).read_text()
    assert within(10, lambda: len(marked(mark)) == 3), "two workers and their resource tracker"
    if sentry == "killed":
        (watching,) = [folder for folder in Path("/proc").glob("[0-9]*") if arguments(folder)[-1:] == [mark]]
        os.kill(int(watching.name), signal.SIGKILL)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    if sentry == "killed":
        survivors = marked(mark)
        assert len(survivors) >= 1, "the worker's child has a session of its own"
        with watched(tmp_path) as new:  # the next start
            assert marked(mark) == []
            assert new != mark
        assert not (tmp_path / UNDER_WAY).exists()
    assert within(10, lambda: not marked(mark))
    assert within(10, lambda: not [name for name in segments if Path("/dev/shm", name).exists()])
    process, segment = foreign
    assert process.poll() is None
    assert len(marked("another")) == 3
    assert segment.exists()


def test_a_child_without_the_mark_ends_with_its_parent() -> None:
    # Ray's agents write their titles over a part of their environment.
    child = [sys.executable, "-c", "import time; time.sleep(600)"]
    script = f"import subprocess; print(subprocess.Popen({child}, env={{}}, stdout=-3).pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, MARK: "titled"}, stdin=-1, stdout=-1, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert within(10, lambda: arguments(Path(f"/proc/{pid}"))[1:] == child[1:])
        assert MARK not in Path(f"/proc/{pid}/environ").read_text()
        assert marked("titled") == sorted([parent.pid, pid])
        sweep("titled")
        assert arguments(Path(f"/proc/{pid}")) == [], "gone, or dead"
        assert parent.wait() == -signal.SIGKILL


def test_a_run_that_ends_by_itself_leaves_nothing(tmp_path: Path) -> None:
    with watched(tmp_path) as mark:
        worker = subprocess.Popen([sys.executable, "-c", "input()"], env={**os.environ, MARK: mark}, stdin=-1)
        assert within(10, lambda: marked(mark) == [worker.pid]), "it has its environment once it has begun"
    assert worker.wait(timeout=10) == -signal.SIGKILL
    assert worker.stdin is not None
    worker.stdin.close()
    assert list(tmp_path.iterdir()) == []


def arguments(folder: Path) -> list[str]:
    try:
        return (folder / "cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []
