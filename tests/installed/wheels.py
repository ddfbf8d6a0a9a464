"""Wheels of this project and of packages beside it, and environments to install them in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.conftest import ROOT

PARTS = ("src", "conf", "constraints", "pyproject.toml", "README.md", "LICENSE")


def done(*command: str | Path, at: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run to the end, without this process's own paths; skips where no package index can be reached."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        list(map(str, command)), cwd=at, env={**inherited, **variables}, capture_output=True, text=True, timeout=500
    )
    if ended.returncode and "error sending request" in ended.stderr:
        pytest.skip(f"no package index can be reached: {ended.stderr.strip().splitlines()[0]}")
    return ended


def must(*command: str | Path, at: Path | None = None, **variables: str) -> str:
    """Its standard output."""
    ended = done(*command, at=at, **variables)
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


def wheel_of(source: Path, into: Path) -> Path:
    """Built from a copy: setuptools leaves a build folder where it works."""
    copy = into / f"source-of-{source.name}"
    copy.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS if source == ROOT else sorted(path.name for path in source.iterdir()):
        if (source / part).is_dir():
            shutil.copytree(source / part, copy / part, symlinks=True, ignore=ignore)
        else:
            shutil.copy(source / part, copy / part)
    made = into / f"wheel-of-{source.name}"
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    must(sys.executable, "-m", "pip", "wheel", *options, "-w", made, copy)
    (wheel,) = made.glob("*.whl")
    return wheel


class Environment:
    """A fresh virtual environment; ``borrowed``: with the packages of this one, rearank itself aside.

    A folder that a ``.pth`` file names is searched, but its own ``.pth`` files aren't read: so an editable install here
    is none there.
    """

    def __init__(self, folder: Path, *, borrowed: bool) -> None:
        self.folder = folder
        must(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, folder)
        if borrowed:
            (own,) = folder.glob("lib/python*/site-packages")
            (own / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def install(self, *what: str | Path) -> None:
        python = self.folder / "bin" / "python"
        must(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, *what)

    def run(self, at: Path, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """``rearank ...`` in the folder ``at``."""
        return done(self.folder / "bin" / "rearank", *words, at=at, **OFFLINE, **variables)

    def must(self, at: Path, *words: str | Path) -> str:
        """Its standard output."""
        return must(self.folder / "bin" / "rearank", *words, at=at, **OFFLINE)


OFFLINE: Mapping[str, str] = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
