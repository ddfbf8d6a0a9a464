"""A sweep as tasks of Ray."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.cluster.runs import cluster_processes, run

SMALL = (
    *("-m", "experiment=quickstart", "task=evaluate", "engine=scripted", "tracking=none", "name=run", "launcher=ray"),
    *("hydra.launcher.total_cpus=2", "benchmark.collection.query_count=6", "benchmark.collection.passage_count=1000"),
)


def test_a_sweep_on_ray(tmp_path: Path) -> None:
    before = set(cluster_processes())
    said = run(tmp_path, SMALL, "engine.behaviour=reverse,oracle", "engine.failing=0,1", expect=1)
    assert "run-sweep: 2 of 4 jobs finished" in said, said[-4000:]
    assert "2 of 4 jobs failed" in said
    summary = json.loads((tmp_path / "run-sweep" / "summary.json").read_text())
    means = {arm["arm"]: arm["mean"] for arm in summary["arms"]}
    name = "engine.behaviour={}, engine.failing=0"
    assert means[name.format("reverse")] < means[name.format("oracle")]
    deadline = time.monotonic() + 40
    while (left := set(cluster_processes()) - before) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left, "the sweep's own Ray goes with it"
