"""The model a run is about: where its weights are, what prompt it speaks and how its answers are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rearank.types import Sampling

_PACKAGE = "pkg://"


@dataclass(frozen=True)
class Model:
    """What a node of ``conf/model`` builds to; nothing is loaded.

    Args:
        name: short name, in tables and folder names.
        path: a folder, a hub id, or ``pkg://package/folder`` for weights that ship inside a package.
        revision: the hub's commit, tag or branch.
        prompt: the node of ``conf/prompt`` it was trained with, ``null`` for a model that follows any. Another one is
            refused: the wrong prompt costs points in silence.
        max_tokens: of an answer, reasoning included.
        temperature: 0 is greedy.
        top_p: nucleus of sampling.
    """

    name: str
    path: str
    revision: str | None = None
    prompt: str | None = None
    max_tokens: int = 2048
    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty: tables and output folders are named after it")
        if not self.path:
            raise ValueError("path must name a folder or a hub id")
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn; raises ``ValueError`` for a value out of range."""
        return Sampling(max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p)

    @property
    def location(self) -> str:
        """``path`` with ``pkg://`` resolved to a folder."""
        if not self.path.startswith(_PACKAGE):
            return self.path
        package, _, inside = self.path.removeprefix(_PACKAGE).partition("/")
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"model.path={self.path}: there is no package {package!r} here")
        return str(Path(spec.submodule_search_locations[0]) / inside)

    def preflight(self, prompt: str | None = None) -> list[str]:
        """A folder that isn't there, a prompt (the name of the chosen node) it wasn't trained with."""
        found = []
        place = Path(self.location)
        if not _is_hub_id(self.path) and not place.is_dir():
            found.append(f"model.path={self.path}: there is no such folder")
        elif place.is_dir() and not (place / "config.json").is_file():
            found.append(f"model.path={self.path}: no config.json in this folder, so it holds no model")
        if self.prompt is not None and prompt is not None and prompt != self.prompt:
            found.append(
                f"model {self.name} was trained with prompt={self.prompt} and prompt={prompt} is chosen; "
                f"set prompt={self.prompt}, or model.prompt=null to go ahead"
            )
        return found


def _is_hub_id(path: str) -> bool:
    """``owner/name`` or ``name``, and no folder of that name here."""
    return not path.startswith((_PACKAGE, "/", ".", "~")) and path.count("/") <= 1 and not Path(path).exists()
