"""Files as they were left: damage is found before what they hold is believed.

A file that a command goes on from is written with a digest of its own (``write_checked``); the files of a finished
stage are listed in ``sealed.json`` beside them (``seal``). A folder of an earlier version has no such list and is taken
as it is.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rearank.runs.content import digests_of
from rearank.runs.layout import SEAL, write_json

_FILES, _DIGEST = "files", "digest"


class DamagedFileError(ValueError):
    """A file that can't be parsed, or isn't as it was written; the message names it."""


def write_checked(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object and its own digest; the file appears whole or not at all."""
    write_json(path, {**value, _DIGEST: _digest(value)})


def read_checked(path: Path) -> dict[str, Any] | None:
    """The object without its digest; ``None`` where there is no file.

    Raises:
        DamagedFileError: naming the file.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ELOOP):
            raise
        raise DamagedFileError(f"{path}: is no file") from error
    except ValueError as error:
        raise DamagedFileError(f"{path}: can't be parsed ({error})") from error
    if not isinstance(found, dict) or found.pop(_DIGEST, None) != _digest(found):
        raise DamagedFileError(f"{path}: was changed after it was written")
    return found


def state_of(folder: Path, cache: Path | None = None) -> dict[str, str]:
    """Name -> digest of every file below ``folder``."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return dict(zip(names, digests_of([folder / name for name in names], cache), strict=True))


def seal(folder: Path, names: Iterable[str], **about: Any) -> None:
    """List these files, and all below these folders, as they are now, in ``sealed.json``; ``about`` is kept beside."""
    found: dict[str, str] = {}
    for name in names:
        path = folder / name
        inside = state_of(path) if path.is_dir() else {"": digests_of([path])[0]}
        found |= {str(Path(name) / one): digest for one, digest in inside.items()}
    write_checked(folder / SEAL, {**about, _FILES: found})


def damaged(folder: Path, cache: Path | None = None) -> list[str]:
    """A line for each sealed file that is missing or has changed; none where nothing was sealed."""
    try:
        sealed = read_checked(folder / SEAL)
    except DamagedFileError as error:
        return [str(error)]
    return [] if sealed is None else differing(folder, sealed.get(_FILES, {}), cache)


def differing(folder: Path, state: Mapping[str, str], cache: Path | None = None) -> list[str]:
    """A line for each file of ``state`` that is missing in ``folder`` or has changed."""
    there = [name for name in state if (folder / name).is_file()]
    found = dict(zip(there, digests_of([folder / name for name in there], cache), strict=True))
    return [
        f"{folder / name}: {'was changed after it was written' if name in found else 'is missing'}"
        for name, digest in state.items()
        if found.get(name) != digest
    ]


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
