"""Start: `python run.py --cfg job` prints the composed config and imports nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from common import Result, seconds

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "trl", "vllm", "verl", "ray", "wandb", "matplotlib", "ir_datasets", "bm25s")


def start(*options: str) -> subprocess.CompletedProcess[str]:
    """``run.py --cfg job`` in a fresh interpreter; raises with its own words if it fails."""
    command = [sys.executable, *options, str(ROOT / "run.py"), "--cfg", "job"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"run.py --cfg job failed ({done.returncode}): {done.stderr.strip().splitlines()[-1:]}")
    return done


def run() -> list[Result]:
    # Python itself reports each import, so nothing that run.py does can hide one.
    report = start("-X", "importtime").stderr
    imported = {line.rsplit("|", 1)[1].strip() for line in report.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported, "the import report couldn't be read"
    heavy = sorted(set(HEAVY) & imported)
    elapsed, _ = seconds(start)
    what = "heavy packages imported" + (f": {', '.join(heavy)}" if heavy else "")
    return [
        Result("startup", "run.py --cfg job", elapsed, "s"),
        Result("startup", what, len(heavy), "", "none, torch among them", not heavy),
    ]
