"""What the quickstart made when its figures were written down, and what a folder of it holds now.

With each prompt computed once, as it comes (``trainer.shared_prompt=auto``), and once for each answer (``false``):
their figures differ by rounding. ``python -m tests.golden.quickstart shared outputs/quickstart`` writes the first down
again, ``plain`` the other, of a run with ``OMP_NUM_THREADS=1``: only where a figure is meant to change.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CLOCKS = {"train/seconds", "rollout/reward_seconds"}
NEAR = 0.01
"""How far a mean of nDCG@10 may lie from the recorded one on another kind of processor."""
Facts = dict[str, Any]


def recorded(path: str) -> Facts:
    """What was written down of the ``shared`` or the ``plain`` path."""
    found: Facts = json.loads(_file(path).read_text())
    return found


def _file(path: str) -> Path:
    return HERE / f"quickstart_{path}.json"


def facts(folder: Path) -> Facts:
    """Every figure, every ranking and row by its digest, and where each file lies."""
    systems = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("evaluation/*/*/metrics.json")}
    return {
        "made_on": made_on(),
        "summary": json.loads((folder / "summary.json").read_text()),
        "metrics": {
            name: {key: one[key] for key in ("system", "mean", "interval_95", "queries", "calls") if key in one}
            for name, one in sorted(systems.items())
        },
        "curves": curves(folder / "training" / "train.jsonl"),
        "digests": digests(folder),
        "files": layout(folder),
    }


def made_on() -> str:
    """The kind of processor and torch's build: others may add up in another order, and a sampled word then differs."""
    wanted = ("vendor_id", "cpu family", "model", "model name")
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    found = {key.strip(): value.strip() for key, _, value in pairs}
    return ", ".join([*(found.get(key, "?") for key in wanted), f"torch {version('torch')}"])


def curves(path: Path) -> list[dict[str, float]]:
    """The training's figures without its clocks."""
    lines = (json.loads(line) for line in path.read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def digests(folder: Path) -> dict[str, str]:
    """Of rows and rankings, whatever their files say beside."""
    import pyarrow.parquet as pq

    found = {}
    for path in sorted(folder.glob("prepared/*.parquet")):
        found[f"prepared/{path.name}"] = digest(pq.read_table(path).to_pylist())
    for path in sorted(folder.glob("evaluation/*/*/*.trec")):
        found[str(path.relative_to(folder))] = digest([line.split()[:5] for line in path.read_text().splitlines()])
    return found


def digest(value: Any) -> str:
    """Of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def layout(folder: Path) -> list[str]:
    """Where each file lies; names that W&B draws and numbers of steps are left out."""
    places = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    varying = re.compile(r"(?<=wandb/)offline-run-.*|(?<=step_)\d+|(?<=checkpoint-)\d+")
    return sorted({varying.sub("N", place) for place in places})


if __name__ == "__main__":
    _file(sys.argv[1]).write_text(json.dumps(facts(Path(sys.argv[2])), indent=1) + "\n")
