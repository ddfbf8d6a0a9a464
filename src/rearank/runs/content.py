"""What local data and models are: digests of their content, wherever they lie.

A field that names a file or a folder whose content decides results says so where it is declared:
``path: str = field(metadata=CONTENT)``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rearank.progress import progress

CONTENT: Mapping[str, str] = MappingProxyType({"content": ""})
"""Metadata of a field that names a file or a folder, or several; a value names the attribute that has the place."""
REMEMBERED = "fingerprints.json"
_WORTH_REMEMBERING = 1 << 20
_BLOCK = 1 << 20
_LARGE = 1 << 30  # bytes from which a bar is shown


def files_of(cache: Path | None = None, **used: object) -> dict[str, str]:
    """``dataset.collection.path`` -> 16 hexadecimal digits, for every declared field whose place exists here.

    Args:
        cache: a folder in which digests of large files are kept, by path, size and time of change.
        used: objects by the name that their keys begin with; parts of a dataclass, a list or a mapping count, too.
    """
    remembered = _Remembered(cache)
    found = {key: _digest(path, remembered) for name, one in used.items() for key, path in places_in(one, name)}
    remembered.keep()
    return dict(sorted(found.items()))


def digests_of(paths: Sequence[Path], cache: Path | None = None) -> list[str]:
    """16 hexadecimal digits for each file; ``cache`` as for ``files_of``."""
    remembered = _Remembered(cache)
    found = remembered.digests(paths)
    remembered.keep()
    return found


def sha256_of(*paths: Path) -> list[str]:
    """64 hexadecimal digits for each file."""
    with reading(*paths) as blocks:
        digests = []
        for path in paths:
            digest = hashlib.sha256()
            for block in blocks(path):
                digest.update(block)
            digests.append(digest.hexdigest())
        return digests


@contextmanager
def reading(*paths: Path) -> Iterator[Callable[[Path], Iterator[bytes]]]:
    """A function that reads a file block by block; a bar shows how far it is where the files are large in all."""
    sizes = [path.stat().st_size for path in paths]
    total = sum(-(-size // _BLOCK) for size in sizes)
    bar = progress("reading files", total, "MiB") if sum(sizes) > _LARGE else nullcontext()
    with bar as shown:

        def blocks(path: Path) -> Iterator[bytes]:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    yield block
                    if shown is not None:
                        shown.advance()

        yield blocks


def places_in(one: object, key: str = "") -> Iterator[tuple[str, Path]]:
    """(key, place) of every declared field whose place exists here."""
    if isinstance(one, Mapping):
        for name, part in one.items():
            yield from places_in(part, f"{key}.{name}")
    elif isinstance(one, list | tuple):
        for number, part in enumerate(one):
            yield from places_in(part, f"{key}.{number}")
    elif dataclasses.is_dataclass(one) and not isinstance(one, type):
        for field in dataclasses.fields(one):
            here = f"{key}.{field.name}"
            if "content" not in field.metadata:
                yield from places_in(getattr(one, field.name), here)
                continue
            named = getattr(one, field.metadata["content"] or field.name)
            for number, place in enumerate((named,) if isinstance(named, str) else named or ()):
                path = Path(place).expanduser()
                if place and path.exists():
                    yield (here if isinstance(named, str) else f"{here}.{number}"), path


def _digest(path: Path, remembered: _Remembered) -> str:
    """Of a file; of a folder by the names and contents of all that is in it, hidden files left out."""
    if path.is_file():
        return remembered.digests([path])[0]
    inside = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    shown = sorted(file for file in inside if not any(part.startswith(".") for part in file.parts))
    digests = remembered.digests([path / file for file in shown])
    whole = [[str(file), digest] for file, digest in zip(shown, digests, strict=True)]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]


def _is_mark(known: Any) -> bool:
    """Size, time of change, digest; the file may hold anything, and is then read as if it held less."""
    return isinstance(known, list) and [type(one) for one in known] == [int, int, str]


class _Remembered:
    """Digests of large files: 15 GB of weights are read once."""

    def __init__(self, cache: Path | None) -> None:
        self._path = None if cache is None else cache / REMEMBERED
        self._known: dict[str, list[int | str]] = {}
        self._new = False
        if self._path is not None:
            with suppress(OSError, ValueError):
                found = json.loads(self._path.read_text())
                whole = found.items() if isinstance(found, dict) else ()
                self._known = {name: known for name, known in whole if _is_mark(known)}

    def digests(self, paths: Sequence[Path]) -> list[str]:
        """16 digits each; only files that aren't known are read."""
        marks = [[state.st_size, state.st_mtime_ns] for state in map(Path.stat, paths)]
        names = [str(path.resolve()) for path in paths]
        found = {name: str(known[2]) for name in names if (known := self._known.get(name, []))}
        unknown = [n for n, name in enumerate(names) if self._known.get(name, [])[:2] != marks[n]]
        for n, digest in zip(unknown, sha256_of(*(paths[n] for n in unknown)), strict=True):
            found[names[n]] = digest[:16]
            if marks[n][0] >= _WORTH_REMEMBERING:
                self._known[names[n]] = [*marks[n], digest[:16]]
                self._new = True
        return [found[name] for name in names]

    def keep(self) -> None:
        """For the next command; where it can't be kept, it is read again."""
        if self._path is None or not self._new:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_name(f"{REMEMBERED}.partial")
            scratch.write_text(json.dumps(self._known))
            scratch.replace(self._path)
