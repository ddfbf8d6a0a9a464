"""A sweep's folder: what is swept there, and how each of its jobs ended."""

from __future__ import annotations

import fcntl
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rearank.runs.layout import JOB, SWEEP


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder and what is swept there: key -> values, in the order of the command line."""

    folder: Path
    swept: Mapping[str, Sequence[str]] = field(default_factory=dict)
    overrides: Sequence[str] = ()

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """What ``sweep.json`` says; an empty one where there is none."""
        try:
            stored = json.loads((folder / SWEEP).read_text())
        except (OSError, ValueError):
            return cls(folder)
        return cls(folder, stored["swept"], stored["overrides"])

    def jobs(self) -> list[Job]:
        """Every job that was ever started here, in the order of the command line."""
        found = [Job.read(path.parent) for path in sorted(self.folder.glob(f"*/{JOB}"))]
        return sorted(found, key=self._place)

    def _place(self, job: Job) -> list[int]:
        """By the values' places on the command line; the seed last."""
        keys = [*(key for key in self.swept if key != "seed"), *(key for key in self.swept if key == "seed")]
        orders = ((list(self.swept[key]), job.choices.get(key, "")) for key in keys)
        return [values.index(value) if value in values else len(values) for values, value in orders]


@dataclass(frozen=True)
class Job:
    """One job's ``job.json``. ``status``: running, finished, failed; or stopped, for one that ended without a word."""

    folder: Path
    status: str
    choices: Mapping[str, str]
    fixed: Sequence[str]
    cause: str = ""
    seconds: float = 0.0

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Raises ``ValueError`` for a file that isn't ours."""
        stored = json.loads((folder / JOB).read_text())
        status, cause = stored["status"], stored.get("cause", "")
        if status == "running":
            with at_work(folder) as free:
                if free:
                    status, cause = "stopped", "it ended without a word: killed, out of memory, or interrupted"
        return cls(folder, status, stored["choices"], stored["fixed"], cause, stored.get("seconds", 0.0))

    @property
    def failed(self) -> bool:
        return self.status in ("failed", "stopped")

    @property
    def command(self) -> str:
        """What runs this job alone, in its place."""
        words = [*self.fixed, *(f"{key}={value}" for key, value in self.choices.items())]
        return " ".join(["python run.py -m", *map(shlex.quote, words)])


@contextmanager
def at_work(folder: Path) -> Iterator[bool]:
    """Hold ``<folder>/.job``, by which others see that the job is at work; ``False`` where somebody else holds it."""
    with (folder / ".job").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
