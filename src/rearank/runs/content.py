"""What local data and models are: digests of their content, wherever they lie.

A field that names a file or a folder whose content decides results says so where it is declared:
``path: str = field(metadata=CONTENT)``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from rearank.progress import progress

CONTENT: Mapping[str, str] = MappingProxyType({"content": ""})
"""Metadata of a field that names a file or a folder, or several; a value names the attribute that has the place."""
REMEMBERED = "fingerprints.json"
_WORTH_REMEMBERING = 1 << 20
_TAKES_A_WHILE, _BLOCK = 1 << 30, 1 << 20


def files_of(cache: Path | None = None, **used: object) -> dict[str, str]:
    """``dataset.collection.path`` -> 16 hexadecimal digits, for every declared field whose place exists here.

    Args:
        cache: a folder in which digests of large files are kept, by path, size and time of change.
        used: objects by the name that their keys begin with; parts of a dataclass, a list or a mapping count, too.
    """
    remembered = _Remembered(cache)
    found = {key: _digest(path, remembered) for name, one in used.items() for key, path in _places(one, name)}
    remembered.keep()
    return dict(sorted(found.items()))


def _places(one: object, key: str) -> Iterator[tuple[str, Path]]:
    if isinstance(one, Mapping):
        for name, part in one.items():
            yield from _places(part, f"{key}.{name}")
    elif isinstance(one, list | tuple):
        for number, part in enumerate(one):
            yield from _places(part, f"{key}.{number}")
    elif dataclasses.is_dataclass(one) and not isinstance(one, type):
        for field in dataclasses.fields(one):
            here = f"{key}.{field.name}"
            if "content" not in field.metadata:
                yield from _places(getattr(one, field.name), here)
                continue
            named = getattr(one, field.metadata["content"] or field.name)
            for number, place in enumerate((named,) if isinstance(named, str) else named or ()):
                path = Path(place).expanduser()
                if place and path.exists():
                    yield (here if isinstance(named, str) else f"{here}.{number}"), path


def _digest(path: Path, remembered: _Remembered) -> str:
    """Of a file; of a folder by the names and contents of all that is in it, hidden files left out."""
    if path.is_file():
        return remembered.digest(path)
    inside = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    shown = sorted(file for file in inside if not any(part.startswith(".") for part in file.parts))
    whole = [[str(file), remembered.digest(path / file)] for file in shown]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]


def sha256_of(path: Path) -> bytes:
    """Of a file's content; with a bar of progress where that takes a while."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < _TAKES_A_WHILE:
            return hashlib.file_digest(file, "sha256").digest()
        digest = hashlib.sha256()
        with progress(f"reading {path.name} to know it again", -(-size // _BLOCK), "MiB") as bar:
            while block := file.read(_BLOCK):
                digest.update(block)
                bar.advance()
        return digest.digest()


class _Remembered:
    """Digests of large files: 15 GB of weights are read once."""

    def __init__(self, cache: Path | None) -> None:
        self._path = None if cache is None else cache / REMEMBERED
        self._known: dict[str, list[int | str]] = {}
        self._new = False
        if self._path is not None:
            with suppress(OSError, ValueError):
                self._known = json.loads(self._path.read_text())

    def digest(self, path: Path) -> str:
        state, name = path.stat(), str(path.resolve())
        mark = [state.st_size, state.st_mtime_ns]
        if self._known.get(name, [])[:2] == mark:
            return str(self._known[name][2])
        found = sha256_of(path).hex()[:16]
        if state.st_size >= _WORTH_REMEMBERING:
            self._known[name] = [*mark, found]
            self._new = True
        return found

    def keep(self) -> None:
        """For the next command; where it can't be kept, it is read again."""
        if self._path is None or not self._new:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_name(f"{REMEMBERED}.partial")
            scratch.write_text(json.dumps(self._known))
            scratch.replace(self._path)
