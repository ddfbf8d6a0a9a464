"""Where figures go while a run is under way: always a JSONL file, and W&B beside it where ``tracking=wandb``.

Names are the same for both trainers: ``train/...`` the optimiser's, ``rollout/...`` the sampled answers', ``val/...``
the held-out windows', ``test/...`` the benchmarks'.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from rearank.types import Message


class Tracker(Protocol):
    """Takes figures of a step; ``close`` before the program ends."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class TrackingNode(Protocol):
    """What a node of ``conf/tracking`` builds to."""

    def preflight(self) -> list[str]: ...

    def open(self, folder: Path, name: str, config: Mapping[str, Any], job: str) -> Tracker: ...


class JsonlTracker:
    """Appends one JSON object a step to ``<folder>/<job>.jsonl``; tables go to ``<folder>/<job>-<table>.jsonl``.

    Each line is on disk when ``log`` returns.
    """

    def __init__(self, folder: Path, job: str) -> None:
        self.path = folder / f"{job}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One line: ``step`` and the figures."""
        _append(self.path, [{"step": step, **metrics}])

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """A line a row."""
        lines = [{"step": step, **dict(zip(columns, row, strict=True))} for row in rows]
        _append(self.path.with_name(f"{self.path.stem}-{name}.jsonl"), lines)

    def rewind(self, step: int) -> None:
        """Forget what was said after ``step``: a resumed run says it again."""
        for path in self.path.parent.glob(f"{self.path.stem}*.jsonl"):
            kept = [line for line in read_jsonl(path) if line["step"] <= step]
            scratch = path.with_suffix(".partial")
            scratch.write_text("".join(json.dumps(line) + "\n" for line in kept))
            scratch.replace(path)

    def close(self) -> None:
        """Nothing is open between calls."""


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Every line; a last line cut short by a kill is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


class _WandbTracker:
    def __init__(self, run: Any, module: Any) -> None:
        self._run, self._module = run, module

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        table = self._module.Table(columns=list(columns), data=[list(row) for row in rows])
        self._run.log({name: table}, step=step)

    def close(self) -> None:
        self._run.finish()


class Trackers:
    """Several as one; the first is always the JSONL file."""

    def __init__(self, jsonl: JsonlTracker, *others: Tracker) -> None:
        self.jsonl, self._others = jsonl, others

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Tell every one."""
        for tracker in (self.jsonl, *self._others):
            tracker.log(metrics, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Tell every one."""
        for tracker in (self.jsonl, *self._others):
            tracker.table(name, columns, rows, step)

    def close(self) -> None:
        """Close every one."""
        for tracker in self._others:
            tracker.close()


@dataclass(frozen=True)
class NoTracking:
    """The JSONL files alone; works without wandb."""

    def preflight(self) -> list[str]:
        """Nothing is ever missing."""
        return []

    def open(self, folder: Path, name: str, config: Mapping[str, Any], job: str) -> Trackers:
        """``<folder>/<job>.jsonl``."""
        return Trackers(JsonlTracker(folder, job))


@dataclass(frozen=True)
class WandbTracking:
    """Weights & Biases beside the JSONL files.

    Args:
        project: where the runs are listed.
        entity: team or user; ``null`` for the key's own.
        mode: ``auto`` is online where a key is set (WANDB_API_KEY or `wandb login`), offline otherwise; offline runs
            are sent later with `wandb sync`.
        group: keeps the runs of a sweep together; ``null`` for the run's name.
        tags: for filtering.
    """

    project: str = "rearank"
    entity: str | None = None
    mode: Literal["auto", "offline", "online"] = "auto"
    group: str | None = None
    tags: tuple[str, ...] = ()

    def preflight(self) -> list[str]:
        """The package; a key where ``mode`` is online."""
        if find_spec("wandb") is None:
            return ["tracking=wandb: the package wandb is missing; pip install -e '.[wandb]', or set tracking=none"]
        if self.mode == "online" and not _has_key():
            return ["tracking.mode=online needs a key: set WANDB_API_KEY or run `wandb login`, or set mode=offline"]
        return []

    def open(self, folder: Path, name: str, config: Mapping[str, Any], job: str) -> Trackers:
        """Start the run; W&B's own files go to ``<folder>/wandb``."""
        import wandb

        mode: Literal["online", "offline"] = "online" if self.mode == "online" else "offline"
        if self.mode == "auto" and _has_key():
            mode = "online"
        folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            id=_run_id(folder / "wandb-id.txt"),
            resume="allow" if mode == "online" else None,
            project=self.project,
            entity=self.entity,
            group=self.group or name,
            job_type=job,
            name=f"{name}/{job}",
            tags=list(self.tags),
            mode=mode,
            dir=str(folder),
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True),
        )
        return Trackers(JsonlTracker(folder, job), _WandbTracker(run, wandb))


def _run_id(path: Path) -> str:
    """The same run again after a stop: what a continued run logs belongs to the first one."""
    if not path.is_file():
        path.write_text(secrets.token_hex(4))
    return path.read_text()


def _append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def _has_key() -> bool:
    """As wandb looks for it, without importing wandb."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return "api.wandb.ai" in netrc.read_text()
    except OSError:
        return False


def transcript(messages: Sequence[Message]) -> str:
    """A prompt as one text, for tables of rollouts."""
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)
