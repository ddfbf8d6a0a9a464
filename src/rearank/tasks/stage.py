"""A stage's folder: what it was made with, so that the same command continues and another one loses nothing."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rearank.tasks.sharing import without_places
from rearank.training.base import write_json

_SETTINGS = "settings.json"
_SHOWN = 5
_log = logging.getLogger(__name__)


class FolderInUseError(RuntimeError):
    """Another process is at work in the output folder."""


def open_stage(folder: Path, settings: Mapping[str, Any]) -> Path:
    """``folder``, holding what these settings made so far, or nothing.

    What other settings made there is moved aside (``<folder>.1``, ``.2``...), never overwritten.
    """
    if changed := changed_settings(folder, settings):
        aside = _free_name(folder)
        folder.rename(aside)
        _log.warning("%s was made with other settings (%s): kept as %s", folder, changed, aside)
    write_json(folder / _SETTINGS, settings)
    return folder


def changed_settings(folder: Path, settings: Mapping[str, Any]) -> str:
    """How ``settings`` differ from those that ``folder`` was made with; empty if they don't, or nothing is there."""
    path = folder / _SETTINGS
    if not path.is_file():
        return ""
    lines = differences(*map(without_places, (json.loads(path.read_text()), json.loads(json.dumps(settings)))))
    return ", ".join(lines[:_SHOWN]) + (f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """``key: old -> new`` of every place where two configs differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = dict.fromkeys((*old, *new))
        return [
            line
            for name in names
            for line in differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
        ]
    return [] if old == new else [f"{key}: {json.dumps(old)} -> {json.dumps(new)}"]


def _free_name(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return aside


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of ``folder``; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise FolderInUseError(
                f"{folder}: another run (process {owner}) is at work here; wait for it, or choose another name=..."
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
