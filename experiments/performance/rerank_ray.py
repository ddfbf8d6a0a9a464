"""``rerank.runner=ray`` against one process, and the driver's memory as queries come by. Needs the cluster's packages.

    .venv-cluster/bin/python experiments/performance/rerank_ray.py overhead    # 10^4 queries of 9 windows, both runners
    .venv-cluster/bin/python experiments/performance/rerank_ray.py memory      # 10^5 queries, the driver's memory
    ... overhead --queries 1000 --seconds 1 --places 64                        # smaller

Each is a command as a user types it, in a folder of its own that is deleted at the end. ``overhead``: the scripted
engine takes so many seconds a window (that is the median; on average it is ``MEAN`` times as many), which is all that a
perfect runner would take; both have as many places, the actors of Ray an even share each. What is set against one
another is the work's own time (``cost.jsonl``: from the first list to the last, for Ray with the start of its actors)
and that of the whole command.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WINDOWS, SIZE, STEP, DEPTH = 9, 20, 10, 100
MEAN = math.exp(0.5**2 / 2)  # of the scripted engine's delays, over their median: log-normal, sigma 0.5
EVERY = 5.0  # seconds between two looks at the memory


def write_input(path: Path, queries: int, passages: int) -> None:
    """Rows whose prompts differ."""
    with path.open("w") as file:
        for n in range(queries):
            row = {"id": f"q{n}", "query": f"query {n}", "passages": [f"text {n} {p}" for p in range(passages)]}
            file.write(json.dumps(row) + "\n")


def command(folder: Path, name: str, *overrides: str) -> list[str]:
    """``python run.py task=rerank`` with the scripted engine."""
    settings = ("task=rerank", "experiment=quickstart", "tracking=none", "strategy=sliding_window", f"name={name}")
    engine = ("engine=scripted", "engine.behaviour=random", f"strategy.size={SIZE}", f"strategy.step={STEP}")
    places = (f"paths.outputs={folder}", f"paths.cache={folder}/cache", f"rerank.input={folder}/in.jsonl")
    words = [sys.executable, str(ROOT / "run.py"), *settings, *engine, *places]
    return [*words, f"rerank.output={folder}/{name}.jsonl", *overrides]


def carried_out(words: list[str], look: Callable[[int, float], None] = lambda pid, passed: None) -> float:
    """Seconds that a command took; ``look`` is called now and then with its process and the seconds so far."""
    began = looked = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            if time.monotonic() - looked >= EVERY:
                looked = time.monotonic()
                look(process.pid, looked - began)
            time.sleep(0.1)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(words)}\n{said.read()[-2000:]}")
    return time.monotonic() - began


def work_of(folder: Path, name: str) -> dict[str, float]:
    """The last line of its costs."""
    found: dict[str, float] = json.loads((folder / name / "rerank" / "cost.jsonl").read_text().splitlines()[-1])
    return found


def overhead(folder: Path, queries: int, seconds: float, places: int, actors: int) -> None:
    """Both runners, one after the other; a line each."""
    write_input(folder / "in.jsonl", queries, DEPTH)
    ideal = queries * WINDOWS * seconds * MEAN / places
    print(f"{queries} queries of {WINDOWS} windows of {seconds:g} s, {places} places: {ideal:.1f} s without overhead")
    print("| runner | seconds of the work | above the engine | the whole command, s |\n|---|---|---|---|")
    on_ray = ("rerank.runner=ray", f"rerank.actors={actors}", f"rerank.max_concurrent_queries={places // actors}")
    for name, more in (("local", (f"rerank.max_concurrent_queries={places}",)), ("ray", on_ray)):
        whole = carried_out(command(folder, name, f"engine.seconds={seconds}", *more))
        took = work_of(folder, name)["seconds"]
        print(f"| {name} | {took:.1f} | {took / ideal - 1:+.1%} | {whole:.1f} |", flush=True)
    same = (folder / "local.jsonl").read_bytes() == (folder / "ray.jsonl").read_bytes()
    print(f"the same bytes: {same}")


def memory(folder: Path, queries: int, actors: int) -> None:
    """The driver's resident memory, and how many shards were done then."""
    write_input(folder / "in.jsonl", queries, SIZE)
    print("| s | shards done | driver, MiB |\n|---|---|---|")

    def look(pid: int, passed: float) -> None:
        done = sum(1 for _ in (folder / "ray" / "rerank" / "shards").glob("*/??????.json"))
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        print(f"| {passed:.0f} | {done} | {pages * os.sysconf('SC_PAGE_SIZE') / (1 << 20):.0f} |", flush=True)

    carried_out(command(folder, "ray", "rerank.runner=ray", f"rerank.actors={actors}"), look)
    print(work_of(folder, "ray"))


def main() -> None:
    """The benchmark that is named."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("what", choices=("overhead", "memory"))
    words.add_argument("--queries", type=int)
    words.add_argument("--seconds", type=float, default=2.0, help="of a window")
    words.add_argument("--places", type=int, default=512)
    words.add_argument("--actors", type=int, default=2)
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if given.what == "overhead":
            overhead(Path(place), given.queries or 10_000, given.seconds, given.places, given.actors)
        else:
            memory(Path(place), given.queries or 100_000, given.actors)


if __name__ == "__main__":
    main()
