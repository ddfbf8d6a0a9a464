"""``rerank.runner=ray`` on two Ray nodes of one machine: kill -9 of whatever works, and the same command again.

Nothing is lost, nothing is there twice, no recorded answer is asked again, and the bytes are those of one process.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.runs import ROOT, pids
from tests.end_to_end.pipeline import environment

from rearank.training.verl.leftovers import MARK, marked, sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

QUERIES, WINDOWS = 480, 2
SETTINGS = (
    *("task=rerank", "experiment=quickstart", "tracking=none", "strategy=sliding_window"),
    *("engine=scripted", "engine.behaviour=random"),
)
ON_RAY = ("rerank.runner=ray", "rerank.actors=2", "rerank.block=8", "rerank.max_concurrent_queries=16")


RAY = {
    "RAY_AUTH_MODE": "disabled",  # a token in the user's home is nothing for a test
    # A node's death is noticed in seconds; a busy machine may take its time to start one.
    **{"RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000"},
    "RAY_raylet_start_wait_time_s": "120",
}


@dataclass
class Nodes:
    """A Ray of two nodes: the head, where the driver works, and one that may be killed and started again."""

    port: int
    log: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    begun: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """What isn't running."""
        head = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        for role in [head, [f"--address={self.address}"]][len(self.running) :]:
            command = [str(Path(sys.executable).parent / "ray"), "start", *role, "--num-cpus=3", "--num-gpus=0"]
            with self.log.open("a") as said:
                memory = ["--object-store-memory=100000000", "--block"]
                mark = environment() | {MARK: f"{self.port}-{self.begun}"}
                self.running.append(subprocess.Popen([*command, *memory], stdout=said, stderr=said, env=mark))
            self.marks.append(mark[MARK])
            self.begun += 1
            self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 300
        while self.log.read_text().count("Ray runtime started") < self.begun:
            assert self.running[-1].poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def kill_second(self) -> None:
        """All of it at once, as a machine's end does."""
        sweep(self.marks.pop())
        self.running.pop().wait(timeout=60)

    def stop(self) -> None:
        while self.running:
            self.kill_second()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    patch = pytest.MonkeyPatch()
    for name, value in RAY.items():
        patch.setenv(name, value)
    found = Nodes(port, tmp_path_factory.mktemp("ray") / "said.log")
    try:
        found.start()
        yield found
    finally:
        found.stop()
        patch.undo()


@dataclass
class Command:
    """The command, as often as it is started; ``folder`` holds all that it makes."""

    folder: Path
    overrides: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        places = (f"paths.outputs={self.folder}", f"paths.cache={self.folder}/cache", f"hydra.run.dir={self.run}")
        words = [sys.executable, str(ROOT / "run.py"), *SETTINGS, "name=run", *places, *self.overrides]
        with (self.folder / "said.log").open("a") as said:
            self.process = subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=said, stderr=said)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def said(self) -> str:
        return (self.folder / "said.log").read_text()[-4000:]

    def shards(self) -> int:
        """How many are done."""
        return len(list((self.run / "rerank/shards").glob("*/??????.json")))

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait while it works."""
        assert self.process is not None
        deadline = time.monotonic() + 300
        while not reached():
            assert self.process.poll() is None, f"it ended by itself: {self.said}"
            assert time.monotonic() < deadline, f"the moment never came: {self.said}"
            time.sleep(0.05)

    def more(self, count: int) -> None:
        """Until so many more shards are done."""
        wanted = self.shards() + count
        self.until(lambda: self.shards() >= wanted)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        assert self.process is not None
        assert self.process.wait(timeout=400) == 0, self.said

    def answers(self) -> int:
        """Recorded so far."""
        total = 0
        for path in (self.run / "completions").rglob("*.sqlite"):
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
                total += store.execute("select count(*) from completions").fetchone()[0]
        return total


def actors() -> list[int]:
    """Processes that hold an engine and have begun."""
    return pids(r"^ray::MapWorker")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """An input, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("local")
    rows = (
        {"id": f"q{n}", "query": f"query {n}", "passages": [f"text {n} {p}" for p in range(25)]} for n in range(QUERIES)
    )
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    local = Command(folder, (f"rerank.input={folder}/in.jsonl", f"rerank.output={folder}/out.jsonl"))
    local.start()
    local.end()
    return folder / "in.jsonl", (folder / "out.jsonl").read_bytes()


def on_ray(nodes: Nodes, given: tuple[Path, bytes], folder: Path, seconds: float) -> Command:
    asked = (f"rerank.input={given[0]}", f"rerank.output={folder}/out.jsonl", f"engine.seconds={seconds}")
    return Command(folder, (*ON_RAY, *asked, f"cluster.address={nodes.address}"))


def check(command: Command, expected: bytes) -> None:
    written = (command.folder / "out.jsonl").read_bytes()
    assert sorted(json.loads(line)["id"] for line in written.splitlines()) == sorted(f"q{n}" for n in range(QUERIES))
    assert written == expected
    listed = [json.loads(line) for line in (command.run / "rerank/shards/manifest.jsonl").read_text().splitlines()]
    assert sum(one["queries"] for one in listed) == QUERIES
    assert len(listed) == command.shards() == QUERIES // 8


def last_cost(command: Command) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((command.run / "rerank/cost.jsonl").read_text().splitlines()[-1])
    return found


def test_a_stopped_actor_a_dead_node_and_a_dead_driver(nodes: Nodes, given: tuple[Path, bytes], tmp_path: Path) -> None:
    command = on_ray(nodes, given, tmp_path, 0.5)
    command.start()
    command.until(lambda: command.shards() >= 1 and len(actors()) == 2)
    second = set(marked(nodes.marks[1]))
    stopped = max(actors(), key=lambda pid: _parent(pid) in second)
    os.kill(stopped, signal.SIGSTOP)
    command.more(8)  # the other goes on, with more than the two could have had under way
    nodes.kill_second()
    os.kill(stopped, signal.SIGKILL)
    command.more(4)
    command.kill()
    deadline = time.monotonic() + 60
    while actors() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not actors(), "they end with the command"
    recorded, done = command.answers(), command.shards()
    assert done < QUERIES // 8
    command.start()  # on the node that is left
    command.end()
    check(command, given[1])
    assert last_cost(command)["calls_paid_now"] == QUERIES * WINDOWS - recorded, "no recorded answer is asked again"


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.full
def test_ten_kills(nodes: Nodes, given: tuple[Path, bytes], tmp_path: Path) -> None:
    """Driver, actor and raylet in an order by lot; the command is started again whenever it is gone."""
    command, rng = on_ray(nodes, given, tmp_path, 0.7), random.Random(7)
    kills: list[str] = []
    while len(kills) < 10:
        nodes.start()
        if command.process is None or command.process.poll() is not None:
            command.start()
        command.more(1)
        kind = rng.choice(("driver", "actor", "raylet"))
        if kind == "driver":
            command.kill()
        elif kind == "actor":
            command.until(lambda: bool(actors()))
            os.kill(rng.choice(actors()), signal.SIGKILL)
        else:
            nodes.kill_second()
        kills.append(kind)
    assert len(set(kills)) == 3
    nodes.start()
    if command.process is None or command.process.poll() is not None:
        command.start()
    command.end()
    check(command, given[1])
