"""An engine's processes are gone when it is closed, when it died, and when the program was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rearank.engines.vllm.processes import ProcessGuard, _runs

# An engine that, like vLLM's, starts a worker of its own and does not notice that its program is gone.
PROGRAM = """
import multiprocessing, subprocess, sys, time
from rearank.engines.vllm.processes import ProcessGuard

def engine(started):
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started.put(worker.pid)
    time.sleep(60)

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    guard = ProcessGuard()
    started = spawn.Queue()
    with guard.watching():
        process = spawn.Process(target=engine, args=(started,))
        process.start()
        worker = started.get()
    print(process.pid, worker, flush=True)
    COMMAND
    print("closed", flush=True)
"""


def program(folder: Path, command: str) -> tuple[subprocess.Popen[str], int, int]:
    """The program, its engine's pid and its worker's."""
    file = folder / "program.py"
    file.write_text(PROGRAM.replace("COMMAND", command))
    running = subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    engine, worker = map(int, running.stdout.readline().split())
    return running, engine, worker


def gone(pid: int, within: float) -> bool:
    deadline = time.monotonic() + within
    while _runs(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_killed_program_takes_its_engine_along(tmp_path: Path) -> None:
    running, engine, worker = program(tmp_path, "time.sleep(60)")
    try:
        assert _runs(engine)
        running.kill()
        running.wait()  # not communicate(): the worker holds the pipe open until its sleep is over
        assert gone(engine, 5.0)
    finally:
        os.kill(worker, signal.SIGKILL)  # vLLM's workers end with their engine; this one knows nothing of that
        assert running.stdout is not None
        running.stdout.close()


def test_a_dead_engines_worker_is_not_left_behind(tmp_path: Path) -> None:
    command = "from rearank.engines.vllm import processes; processes.PATIENCE = 0.5; process.kill(); guard.dismiss()"
    running, engine, worker = program(tmp_path, command)
    assert running.communicate(timeout=20)[0] == "closed\n"
    assert running.returncode == 0
    assert not _runs(engine)
    assert gone(worker, 2.0)


def test_an_engine_that_does_not_end_is_killed(tmp_path: Path) -> None:
    command = "from rearank.engines.vllm import processes; processes.PATIENCE = 0.5; guard.dismiss()"
    running, engine, worker = program(tmp_path, command)
    assert running.communicate(timeout=20)[0] == "closed\n"
    assert not _runs(engine)
    assert gone(worker, 2.0)


def test_the_exit_code_is_told() -> None:
    guard = ProcessGuard()
    try:
        with guard.watching():
            process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
            process.start()
        process.kill()
        assert guard.ended() == " (exit code -9: killed, often for want of memory)"
    finally:
        guard.dismiss()
