"""Reads what W&B wrote offline: a file of LevelDB's log format whose records are protocol buffers."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK, _HEADER, _INTRODUCTION = 32768, 7, 7
_LAST = (1, 4)  # a record that is whole, or the last part of one


@dataclass
class OfflineRun:
    """A run read back; ``history``: W&B's step -> name -> value."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    artefacts: list[Any] = field(default_factory=list)
    ended: bool = False

    def tables(self) -> dict[str, int]:
        """Name -> rows of the last one logged."""
        rows = ((name, value) for values in self.history.values() for name, value in values.items())
        return {name.removesuffix("/nrows"): value for name, value in rows if name.endswith("/nrows")}

    def figures(self) -> dict[int, dict[str, float]]:
        """The history's numbers, without W&B's own and what it says of tables."""
        others = ("_", *(f"{name}/" for name in self.tables()))
        found = {
            step: {k: v for k, v in values.items() if isinstance(v, (int, float)) and not k.startswith(others)}
            for step, values in self.history.items()
        }
        return {step: numbers for step, numbers in found.items() if numbers}


def read_offline(folder: Path, home: Path | None = None, patience: float = 60.0) -> OfflineRun:
    """The run of the job in ``folder``, once it is whole: W&B's own process may write on after ``finish``.

    ``home``: in its ``wandb`` lie W&B's files; the job's own folder where it isn't given.
    """
    name = (folder / "wandb-id.txt").read_text()
    (path,) = ((home or folder) / "wandb").glob(f"offline-run-*/run-{name}.wandb")
    deadline = time.monotonic() + patience
    while not (found := _read(path)).ended:
        assert time.monotonic() < deadline, f"{path} never came to its end"
        time.sleep(0.05)
    return found


def _read(path: Path) -> OfflineRun:
    from wandb.proto import wandb_internal_pb2

    found = OfflineRun()
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            found.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found.history.setdefault(record.history.step.num, {}).update(items)
        elif kind == "artifact":
            found.artefacts.append(record.artifact)
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            found.artefacts.append(record.request.log_artifact.artifact)
        found.ended |= kind == "exit"
    return found


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] in (b":W&B", b"")
    place, parts = _INTRODUCTION, b""
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + _HEADER])
        if place + _HEADER + length > len(data):  # being written
            return
        parts += data[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind in _LAST:
            yield parts
            parts = b""
