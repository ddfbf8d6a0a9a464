"""JSONL files, which are always written, and several trackers as one."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rearank.tracking.base import Artefact, Tracker
from rearank.tracking.names import RENAMED, undocumented

ARTEFACTS = "artefacts.jsonl"
_log = logging.getLogger(__name__)
_HASHED = 64 * 2**20  # bytes of a file that is hashed: a checkpoint's weights would take minutes


class JsonlTracker:
    """Appends one JSON object a step to ``<folder>/<job>.jsonl``; tables go to ``<folder>/<job>-<table>.jsonl``.

    Each line is on disk when ``log`` returns. ``<folder>/artefacts.jsonl`` names what the job read and made.
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

    def artefact(self, artefact: Artefact) -> None:
        """A line: name, kind, whether it was an input, its files with sizes and SHA-256 sums. The same once only."""
        line = {
            "job": self.path.stem,
            "name": artefact.name,
            "kind": artefact.kind,
            "used": artefact.used,
            "files": {name: _sums(path) for name, path in artefact.every_file().items()},
            "metadata": dict(artefact.metadata),
        }
        path = self.path.with_name(ARTEFACTS)
        if json.loads(json.dumps(line)) not in read_jsonl(path):
            _append(path, [line])

    def rewind(self, step: int) -> None:
        """Remove what was logged after ``step``: a resumed run logs it again."""
        for path in self.path.parent.glob(f"{self.path.stem}*.jsonl"):
            kept = [line for line in read_jsonl(path) if isinstance(line.get("step"), int) and line["step"] <= step]
            scratch = path.with_suffix(".partial")
            scratch.write_text("".join(json.dumps(line) + "\n" for line in kept))
            scratch.replace(path)

    def close(self) -> None:
        """Nothing is open between calls."""


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Every line, names of earlier versions as they are now.

    A last line cut short by a kill is left out, and so, with a warning that names it, is any other damaged one.
    """
    lines = []
    *whole, last = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    for number, line in enumerate([*whole, last] if last else whole, 1):
        try:
            lines.append({RENAMED.get(name, name): value for name, value in json.loads(line).items()})
        except (ValueError, AttributeError):
            if number <= len(whole):
                _log.warning("%s, line %d: can't be parsed and is left out", path, number)
    return lines


class Trackers:
    """Several as one; the first is always the JSONL file."""

    def __init__(self, jsonl: JsonlTracker, *others: Tracker) -> None:
        self.jsonl, self._others = jsonl, others

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logged by every one; a name that ``rearank.tracking.names`` lacks is warned of."""
        if unknown := undocumented(metrics):
            warnings.warn(f"logged without a line in rearank.tracking.names: {', '.join(unknown)}", stacklevel=2)
        for tracker in (self.jsonl, *self._others):
            tracker.log(metrics, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Logged by every one."""
        for tracker in (self.jsonl, *self._others):
            tracker.table(name, columns, rows, step)

    def artefact(self, artefact: Artefact) -> None:
        """Logged by every one."""
        for tracker in (self.jsonl, *self._others):
            tracker.artefact(artefact)

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

    def open(self, folder: Path, name: str, config: Mapping[str, Any], job: str, group: str | None = None) -> Trackers:
        """``<folder>/<job>.jsonl``."""
        return Trackers(JsonlTracker(folder, job))


def _append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def _sums(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"bytes": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest() if size <= _HASHED else None}
