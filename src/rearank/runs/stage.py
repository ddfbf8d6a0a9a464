"""A stage's folder: what its result depends on, so that the same command continues and another one loses nothing."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rearank.runs.declared import differences, mattering
from rearank.runs.environment import environment
from rearank.runs.identity import decides_nothing
from rearank.runs.layout import ENVIRONMENT, SETTINGS, free_name, read_json, write_json
from rearank.runs.seal import damaged

CODE, FILES = "code", "files"
_ACCEPTED, _CODE_OF = "code_accepted", "code of "
_DIGESTS = {CODE: _CODE_OF, FILES: "content of "}
_KINDS = {CODE: dict, FILES: dict, _ACCEPTED: list}
_SHOWN = 5
_log = logging.getLogger(__name__)


class StageError(ValueError):
    """A stage's folder of which nothing says what it was made with; the message names the file and the way out."""


class FolderInUseError(RuntimeError):
    """Another process is at work in the output folder."""


@dataclass(frozen=True)
class Stage:
    """One step of a run, before it is opened: where it works and what its result depends on.

    Args:
        folder: of the stage.
        settings: config values, by key.
        code: digests of the code that decides the result (``rearank.runs.code_of``).
        files: digests of the data and models that it is made from (``rearank.runs.files_of``).
        accept_changed_code: go on with what was made before the code alone changed; the former digests are kept.
        rerun: make the result again, whatever is there.
        cache: a folder in which digests of large files are kept.
    """

    folder: Path
    settings: Mapping[str, Any]
    code: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    accept_changed_code: bool = False
    rerun: bool = False
    cache: Path | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """All that the result depends on, as ``settings.json`` has it."""
        plain = {**mattering(self.settings, selects=False), CODE: dict(self.code), FILES: dict(self.files)}
        found: dict[str, Any] = json.loads(json.dumps(plain))
        return found

    def changed(self) -> str:
        """How this differs from what the folder was made with; empty if it doesn't, or nothing is there."""
        return _listed(_changed(self._read(), self.identity))

    def stored(self) -> dict[str, Any]:
        """The identity that the folder was made with; empty where nothing is there.

        Raises:
            StageError: where there are results, and no settings that say what they were made with.
        """
        found = self._read()
        if not found and self._holds_results():
            raise StageError(_unknown(self.folder, "is missing"))
        return found

    def open(self) -> Path:
        """The folder, holding what this identity made so far, or nothing.

        What others made there is moved aside (``<folder>.1``, ``.2``...), never overwritten. ``environment.json`` says
        with what versions and command the stage began; later commands don't change it.

        Raises:
            StageError: where there are results, and no settings that say what they were made with.
        """
        old, new = {}, self.identity
        if self.rerun and self._holds_results():
            self._move_aside("rerun=true")
        else:
            old = self.stored()
        changed = _changed(old, new)
        if changed and self.accept_changed_code and all(line.startswith(_CODE_OF) for line in changed):
            _log.warning("%s goes on although its code has changed (%s)", self.folder, _listed(changed))
            new[_ACCEPTED] = [*old.get(_ACCEPTED, []), old[CODE]]
        elif changed:
            self._move_aside(f"it was made with other settings or code ({_listed(changed)})")
        elif _ACCEPTED in old:
            new[_ACCEPTED] = old[_ACCEPTED]
        write_json(self.folder / SETTINGS, new)
        if not read_json(self.folder / ENVIRONMENT):
            write_json(self.folder / ENVIRONMENT, environment())
        return self.folder

    def part(self, name: str, settings: Mapping[str, Any], code: Mapping[str, str], files: Mapping[str, str]) -> Stage:
        """The stage of a folder inside this one, which depends on more."""
        return Stage(
            self.folder / name,
            {**self.settings, **settings},
            {**self.code, **code},
            {**self.files, **files},
            self.accept_changed_code,
            self.rerun,
            self.cache,
        )

    def damage(self) -> list[str]:
        """A line for each file of the finished result that is missing or has changed since."""
        return damaged(self.folder, self.cache)

    def _read(self) -> dict[str, Any]:
        """What ``settings.json`` says; empty where there is none."""
        path = self.folder / SETTINGS
        if not path.is_file():
            if os.path.lexists(path):
                raise StageError(_unknown(self.folder, "is no file"))
            return {}
        found = read_json(path)
        if not found or not all(isinstance(found.get(name, kind()), kind) for name, kind in _KINDS.items()):
            raise StageError(_unknown(self.folder, "can't be parsed"))
        return found

    def _holds_results(self) -> bool:
        """Whether anything was made here: scraps of a write that was cut off are no result."""
        return any(path.suffix != ".partial" and path.name != ENVIRONMENT for path in self.folder.glob("*"))

    def _move_aside(self, why: str) -> None:
        aside = free_name(self.folder)
        self.folder.rename(aside)
        _log.warning("%s: %s: kept as %s", self.folder, why, aside)


def warn_of_old_version(folder: Path) -> None:
    """One line for a run's folder in which some stage was made by a version that kept no digests.

    What such a stage holds goes on as if its code and data were the same.
    """
    found = sorted(folder.glob(f"*/{SETTINGS}")) + sorted(folder.glob(f"evaluation/*/*/{SETTINGS}"))
    old = [path.parent for path in found if (stored := read_json(path)) and not _DIGESTS.keys() <= stored.keys()]
    if old:
        names = ", ".join(str(path.relative_to(folder)) for path in old[:_SHOWN])
        more = f" and {len(old) - _SHOWN} more" if len(old) > _SHOWN else ""
        _log.warning(
            "%s: %s%s: made by a version of rearank that kept no digests of code and data: taken as unchanged "
            "(rerun=true makes them again)", folder, names, more,
        )  # fmt: skip


def _unknown(folder: Path, what: str) -> str:
    return (
        f"{folder / SETTINGS}: {what}, so nothing says what the results beside it were made with; put the file back, "
        f"or move {folder} away to have them made again"
    )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    if not old:
        return []
    settings = ({key: value for key, value in one.items() if key not in {*_DIGESTS, _ACCEPTED}} for one in (old, new))
    # A place whose content is the same is the same: its digest is under the same name, a list's with a number.
    kept = old.get(FILES, {})
    same = {re.sub(r"\.\d+$", "", name) for name, digest in new[FILES].items() if digest == kept.get(name)}
    before, now = (mattering(one, selects=False) for one in settings)
    found = [line for line in differences(before, now) if line.partition(": ")[0] not in same]
    for part, words in _DIGESTS.items():
        present = new[part]
        former = {name: digest for name, digest in old.get(part, present).items() if not decides_nothing(name)}
        # Data that are no longer here are no other data: what was made from them stays.
        names = sorted(present if part == FILES else {*former, *present})
        found += [f"{words}{name}" for name in names if former.get(name) != present.get(name)]
    return found


def _listed(lines: list[str]) -> str:
    return ", ".join(lines[:_SHOWN]) + (f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")


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
