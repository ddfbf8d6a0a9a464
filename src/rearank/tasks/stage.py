"""A stage's folder: what it was made with, so that the same command continues and another one loses nothing."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rearank.config import is_default
from rearank.runs.layout import write_json
from rearank.tasks.sharing import without_places

CODE, FILES = "code", "files"
_SETTINGS, _ACCEPTED, _CODE_OF = "settings.json", "code_accepted", "code of "
_APART = {CODE: _CODE_OF, FILES: "content of "}
"""Digests by name; a folder of a version that kept none goes on."""
_SHOWN = 5
_log = logging.getLogger(__name__)


class FolderInUseError(RuntimeError):
    """Another process is at work in the output folder."""


def open_stage(folder: Path, settings: Mapping[str, Any], *, accept_changed_code: bool = False) -> Path:
    """``folder``, holding what these settings and this code made so far, or nothing.

    What others made there is moved aside (``<folder>.1``, ``.2``...), never overwritten. A folder of a version that
    kept no code goes on with a warning.

    Args:
        folder: of the stage.
        settings: what the result follows from; ``code`` and ``files`` are digests (``rearank.runs``).
        accept_changed_code: go on where the code alone has changed; the settings then keep what it was before.
    """
    old, new = _stored(folder), json.loads(json.dumps(settings))
    changed = _changed(old, new)
    if old and not changed and (missing := [part for part in _APART if part in new and part not in old]):
        _log.warning(
            "%s was made by a version that kept no digests of %s: taken as unchanged", folder, " and ".join(missing)
        )
    if changed and accept_changed_code and all(line.startswith(_CODE_OF) for line in changed):
        _log.warning("%s goes on although its code has changed (%s)", folder, _listed(changed))
        new[_ACCEPTED] = [*old.get(_ACCEPTED, []), old[CODE]]
    elif changed:
        aside = _free_name(folder)
        folder.rename(aside)
        _log.warning("%s was made with other settings or code (%s): kept as %s", folder, _listed(changed), aside)
    elif _ACCEPTED in old:
        new[_ACCEPTED] = old[_ACCEPTED]
    write_json(folder / _SETTINGS, new)
    return folder


def changed_settings(folder: Path, settings: Mapping[str, Any]) -> str:
    """How these differ from what ``folder`` was made with; empty if they don't, or nothing is there."""
    return _listed(_changed(_stored(folder), json.loads(json.dumps(settings))))


def _stored(folder: Path) -> dict[str, Any]:
    path = folder / _SETTINGS
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    if not old:
        return []
    plain = ({key: value for key, value in one.items() if key not in {*_APART, _ACCEPTED}} for one in (old, new))
    # A place whose content is the same is the same: its digest is under the same name, a list's with a number.
    kept = old.get(FILES, {})
    same = {re.sub(r"\.\d+$", "", name) for name, digest in new.get(FILES, {}).items() if digest == kept.get(name)}
    found = [line for line in differences(*map(without_places, plain)) if line.partition(": ")[0] not in same]
    for part, words in _APART.items():
        now = new.get(part, {})
        before = old.get(part, now)
        # Data that are no longer here are no other data: what was made from them stays.
        names = sorted(now if part == FILES else {*before, *now})
        found += [f"{words}{name}" for name in names if before.get(name) != now.get(name)]
    return found


def _listed(lines: list[str]) -> str:
    return ", ".join(lines[:_SHOWN]) + (f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """``key: old -> new`` of every place where two configs differ.

    A field that a class has gained since, with its default, is no difference.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = (name for name in dict.fromkeys((*old, *new)) if name in old or not is_default(new, str(name)))
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
