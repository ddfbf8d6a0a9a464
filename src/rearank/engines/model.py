"""The model a run is about: where its weights are, what prompt it speaks and how its answers are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from rearank.engines.architecture import Architecture
from rearank.engines.weights import hub_problems, names_apart, weight_problems
from rearank.runs import INCIDENTAL
from rearank.types import Sampling

__all__ = ["Architecture", "Model"]

_PACKAGE = "pkg://"
_NO_MODEL = ("none", "scripted")  # engines that ask no model, so that any may be named with them


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
        architecture: its sizes, to plan memory by where the weights are still on the hub; a folder's own
            ``config.json`` is believed first.
        strategy: the node of ``conf/strategy`` its protocol needs, ``null`` for a model that any can use.
        thinking: the switch of models that have one (Qwen3): reason before the answer, or not; ``null`` for a model
            without it.
        published: the row of the published tables (``rearank.evaluation.published``) its results are compared with.
        engine: the node of ``conf/engine`` that serves it, for a model whose weights are not to be had, and ``path`` is
            the name that the server knows it by; ``null`` for weights that any engine loads.
        adapter_of: the model whose LoRA adapter ``path`` is, for a checkpoint that is published as one; engines load
            whole models, so it is merged into its base before use (``rearank.engines.merge``).
        released: a reranker as somebody published it. Its answers can be read: where most can't, the setting is wrong
            and the evaluation stops (``evaluation.max_unread``).
    """

    name: str
    path: str = field(metadata={"content": "location"})
    revision: str | None = None
    prompt: str | None = None
    max_tokens: int = 2048
    temperature: float = 0.0
    top_p: float = 1.0
    architecture: Architecture | None = field(default=None, metadata=INCIDENTAL)
    strategy: str | None = None
    thinking: bool | None = None
    published: str | None = field(default=None, metadata=INCIDENTAL)
    engine: str | None = None
    adapter_of: str | None = None
    released: bool = field(default=False, metadata=INCIDENTAL)

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, Architecture | None):
            raise ValueError("architecture must be a node with _target_: rearank.engines.model.Architecture, or null")
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

    @property
    def sizes(self) -> Architecture | None:
        """The architecture: the folder's, else the node's; ``None`` where neither is there.

        Raises ``ValueError`` naming the file and the key for a ``config.json`` that doesn't say.
        """
        if (Path(self.location) / "config.json").is_file():
            return Architecture.from_folder(self.location)
        return self.architecture

    def preflight(
        self,
        prompt: str | None = None,
        strategy: str | None = None,
        engine: str | None = None,
        *,
        served: bool = False,
        trained: bool = False,
    ) -> list[str]:
        """A folder that isn't there; a prompt, a strategy or an engine that isn't its own.

        Args:
            prompt: the name of the chosen node, ``null`` where it doesn't matter; so are ``strategy`` and ``engine``.
            served: a server answers, so that ``path`` is the name it knows the model by.
            trained: the task trains the model.
        """
        needed = not served and (trained or engine not in _NO_MODEL)
        found = self._missing_weights() if needed else []
        if self.prompt is not None and prompt is not None and prompt != self.prompt:
            found.append(
                f"model {self.name} was trained with prompt={self.prompt} and prompt={prompt} is chosen; "
                f"set prompt={self.prompt}, or model.prompt=null to go ahead"
            )
        if self.strategy is not None and strategy is not None and strategy != self.strategy:
            found.append(
                f"model {self.name} is used with strategy={self.strategy} and strategy={strategy} is chosen; "
                f"set strategy={self.strategy}, or model.strategy=null to go ahead"
            )
        if self.engine is not None and engine not in (None, self.engine, *_NO_MODEL):
            found.append(
                f"model {self.name} is served by engine={self.engine} and engine={engine} is chosen; "
                f"set engine={self.engine}, or model.engine=null to go ahead"
            )
        if self.engine is not None and trained:
            found.append(
                f"model {self.name} can't be trained: its weights are not to be had, engine={self.engine} serves it; "
                "set task=evaluate, or choose another model"
            )
        if self.thinking is False and trained:
            found.append(
                f"model {self.name} has its thinking switched off, and trainers leave that to its chat template, which "
                "switches it on; set model.thinking=null to train it thinking"
            )
        return found

    def _missing_weights(self) -> list[str]:
        found = []
        place = Path(self.location)
        if self.adapter_of is not None:
            target = f"models/{self.name}"
            found.append(
                f"model {self.name} is published as a LoRA adapter, and engines load whole models; run "
                f"`python -m rearank.engines.merge {self.adapter_of} {self.path} {target}` once, then set "
                f"model.path={target} model.adapter_of=null"
            )
        elif self.engine is None and not _is_hub_id(self.path) and not place.is_dir():
            found.append(f"model.path={self.path}: there is no such folder")
        elif place.is_dir() and not (place / "config.json").is_file():
            kind = "a LoRA adapter alone" if (place / "adapter_config.json").is_file() else "no model"
            found.append(f"model.path={self.path}: no config.json in this folder, so it holds {kind}")
        elif place.is_dir():
            found += weight_problems(place) + names_apart(place, self.name)
        elif self.engine is None:
            found += hub_problems(self.path, self.revision)
        return found


def _is_hub_id(path: str) -> bool:
    """``owner/name`` or ``name``, and no folder of that name here."""
    return not path.startswith((_PACKAGE, "/", ".", "~")) and path.count("/") <= 1 and not Path(path).exists()
