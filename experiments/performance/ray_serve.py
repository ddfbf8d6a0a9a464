"""Two replicas behind Ray Serve against one: requests a second, and what a kill of a replica under load costs.

``examples/cluster/serve.yaml`` with other numbers, on a Ray of its own that ends with the script. Needs the extras
``cluster-cpu``, ``serve`` and ``ray-serve``. Two engines: the tiny model on CPUs, one core a replica (so two replicas
want two idle cores, and what else there is takes some of them), and a scripted one that takes 0.2 seconds a call and
four at a time, which shows what the front and Ray Serve let through.

    ray_serve.py [--requests 120] [--at-once 16] [--engine tiny]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
TINY: tuple[str, ...] = ("model=tiny", "engine=transformers", "strategy.size=5", "strategy.step=2")
SCRIPTED: tuple[str, ...] = (
    *("model=tiny", "engine=scripted", "engine.behaviour=reverse", "engine.seconds=0.2", "engine.sigma=0"),
    *("engine.slots=4", "strategy.size=5", "strategy.step=2"),
)
DOCUMENTS = 9  # three windows of 5, each after the one before
_READY = 240.0  # seconds


@dataclass(frozen=True)
class Served:
    """A deployment: its port, and the Ray under it."""

    port: int
    ray: int

    def replicas(self) -> list[int]:
        """Processes that hold a model, of this Ray alone."""
        parents: dict[int, int] = {}
        names: dict[int, str] = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(place.name)] = (place / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it ended
                continue
        found = [one for one, name in names.items() if name.startswith("ray::ServeReplica:rerank:Model")]
        return sorted(one for one in found if self.ray in _above(one, parents))


def _above(process: int, parents: dict[int, int]) -> Iterator[int]:
    while process in parents:
        process = parents[process]
        yield process


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def deployed(folder: Path, overrides: tuple[str, ...], replicas: int) -> Iterator[Served]:
    """The example's file with these keys and so many replicas, ready to answer.

    Raises ``RuntimeError`` with the end of the log where it isn't after four minutes.
    """
    config: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "cluster" / "serve.yaml").read_text())
    port, head = _free_port(), _free_port()
    config["http_options"]["port"] = port
    application = config["applications"][0]
    application["args"]["overrides"] = list(overrides)
    next(one for one in application["deployments"] if one["name"] == "Model")["num_replicas"] = replicas
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    added = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *([added] if added else [])]),
        "RAY_ADDRESS": f"127.0.0.1:{head}",  # this one, whatever else runs here
        **{"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    tools, log = Path(sys.executable).parent, (folder / "said.log").open("w")
    started = [str(tools / "ray"), "start", "--head", f"--port={head}", "--include-dashboard=false", "--num-cpus=8"]
    ray = subprocess.Popen([*started, "--block"], stdout=log, stderr=log, env=environment)
    serve = None
    try:
        _until(lambda: "Ray runtime started" in (folder / "said.log").read_text(), ray, folder)
        run = [str(tools / "serve"), "run", str(folder / "serve.yaml")]
        serve = subprocess.Popen(run, stdout=log, stderr=log, env=environment)
        served = Served(port, ray.pid)
        _until(lambda: _status(port) == 200 and len(served.replicas()) == replicas, serve, folder)
        yield served
    finally:
        for process in (serve, ray):
            if process is not None:
                process.terminate()
                process.wait(timeout=60)
        log.close()


def _until(holds: Callable[[], bool], process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + _READY
    while not holds():
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError(f"{process.args} isn't ready: {(folder / 'said.log').read_text()[-4000:]}")
        time.sleep(0.5)


def _status(port: int) -> int:
    """Of a small request: all of the way is there."""
    try:
        return ask(port, "warm", ["one", "two"])[0]
    except OSError:
        return 0


def ask(port: int, query: str, documents: list[str]) -> tuple[int, list[int]]:
    """(HTTP's status, the documents' places, best first)."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=180)
    try:
        body = json.dumps({"query": query, "documents": documents})
        line.request("POST", "/v1/rerank", body, {"Content-Type": "application/json"})
        reply = line.getresponse()
        said = json.loads(reply.read() or b"{}")
        return reply.status, [one["index"] for one in said.get("results", [])]
    except (http.client.HTTPException, ValueError) as error:
        raise ConnectionError(str(error)) from error
    finally:
        line.close()


def work(number: int) -> tuple[str, list[str]]:
    """Request ``number``: a query and documents of the same made-up words every time."""
    rng = Random(number)
    words = "water fire earth wind stone river cloud tree".split()
    return rng.choice(words), [" ".join(rng.choices(words, k=8)) + f" {number} {i}" for i in range(DOCUMENTS)]


@dataclass(frozen=True)
class Load:
    """What came of it: every request's status and order, in the order asked, and the seconds for all."""

    answers: list[tuple[int, list[int]]]
    seconds: float

    @property
    def failed(self) -> int:
        return sum(status != 200 for status, _ in self.answers)


def load(port: int, requests: int, at_once: int, meanwhile: Callable[[int], None] = lambda _: None) -> Load:
    """``meanwhile`` is called after each answer with their number."""
    done, lock = 0, threading.Lock()

    def one(number: int) -> tuple[int, list[int]]:
        nonlocal done
        answer = ask(port, *work(number))
        with lock:
            done += 1
            meanwhile(done)
        return answer

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(one, range(requests)))
    return Load(answers, time.perf_counter() - began)


def kill_one(served: Served, after: int) -> Callable[[int], None]:
    """For ``load``: one replica is killed once ``after`` answers are there."""

    def meanwhile(done: int) -> None:
        if done == after:
            os.kill(served.replicas()[0], signal.SIGKILL)

    return meanwhile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--engine", choices=("tiny", "scripted"), action="append", help="these alone")
    given = parser.parse_args()
    engines = {"tiny": TINY, "scripted": SCRIPTED}
    for name in given.engine or engines:
        overrides = engines[name]
        answers = None
        for replicas in (1, 2):
            with tempfile.TemporaryDirectory() as folder, deployed(Path(folder), overrides, replicas) as served:
                load(served.port, given.at_once * 2, given.at_once)  # every replica has worked before
                best = min(
                    (load(served.port, given.requests, given.at_once) for _ in range(3)), key=lambda x: x.seconds
                )
                per_second = given.requests / best.seconds
                same = answers is None or best.answers == answers
                answers = best.answers
                print(f"{name}: {replicas} replica(s): {per_second:.1f} requests/s, {best.failed} failed, same {same}")
                if replicas == 2:
                    killed = load(served.port, given.requests, given.at_once, kill_one(served, given.requests // 4))
                    print(
                        f"{name}: one of two killed under load: {given.requests / killed.seconds:.1f} requests/s, "
                        f"{killed.failed} failed, same {killed.answers == answers}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
