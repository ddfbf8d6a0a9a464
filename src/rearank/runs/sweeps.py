"""A sweep's folder: what is swept there, and how each of its jobs ended."""

from __future__ import annotations

import fcntl
import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rearank.runs.environment import program
from rearank.runs.layout import JOB, SWEEP

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder and what is swept there: key -> values, in the order of the command line."""

    folder: Path
    swept: Mapping[str, Sequence[str]] = field(default_factory=dict)
    overrides: Sequence[str] = ()

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """What ``sweep.json`` says; an empty one where there is none, and, with a warning, for a damaged one."""
        path = folder / SWEEP
        if not path.is_file():
            return cls(folder)
        try:
            stored = json.loads(path.read_bytes())
            swept = {str(key): list(map(str, values)) for key, values in stored["swept"].items()}
            return cls(folder, swept, list(stored["overrides"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s: is not what a sweep writes (%r); the sweep's command writes it again", path, error)
            return cls(folder)

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
        """A damaged file counts as a job that was stopped."""
        try:
            stored = json.loads((folder / JOB).read_bytes())
            status, cause = stored["status"], stored.get("cause", "")
            choices, fixed = dict(stored["choices"]), list(stored["fixed"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return cls(folder, "stopped", {}, (), f"{folder / JOB}: is not what a job writes ({error!r})")
        if status == "running":
            with at_work(folder) as free:
                if free:
                    status, cause = "stopped", "it ended without a word: killed, out of memory, or interrupted"
        return cls(folder, status, choices, fixed, cause, stored.get("seconds", 0.0))

    @property
    def failed(self) -> bool:
        return self.status in ("failed", "stopped")

    @property
    def command(self) -> str:
        """What runs this job alone, in its place."""
        if not self.fixed and not self.choices:
            return "the sweep's own command does it again"
        words = [*self.fixed, *(f"{key}={value}" for key, value in self.choices.items())]
        return " ".join([program(), "-m", *map(shlex.quote, words)])


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
