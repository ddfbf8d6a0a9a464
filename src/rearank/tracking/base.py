"""What a tracker is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from rearank.moved import attributes_of

__getattr__ = attributes_of(__name__)  # old names of what has moved

Kind = Literal["dataset", "model", "run", "report"]


@dataclass(frozen=True)
class Artefact:
    """Files that a run made, or was made of.

    Args:
        kind: ``dataset`` (prepared rows), ``model`` (a checkpoint), ``run`` (rankings and their scores), ``report``.
        name: the same for the same thing, whichever run names it: that is how lineage is drawn.
        files: by their names in the artefact; a folder stands for all its files.
        metadata: plain values.
        used: an input of the run, not its result.
    """

    kind: Kind
    name: str
    files: Mapping[str, Path]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    used: bool = False

    def every_file(self) -> dict[str, Path]:
        """Folders opened; names with slashes inside them."""
        found: dict[str, Path] = {}
        for name, path in self.files.items():
            inner = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            found |= {f"{name}/{p.relative_to(path)}" if path.is_dir() else name: p for p in inner}
        return found


class Tracker(Protocol):
    """Takes figures of a step; ``close`` before the program ends."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None: ...

    def artefact(self, artefact: Artefact) -> None: ...

    def close(self) -> None: ...
