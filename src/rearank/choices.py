"""Names of nodes -> objects, as the command line would make them: what ``Reranker`` is given.

The nodes ship inside the package (``rearank/conf`` is the checkout's ``conf/``), so that a name means the same thing
wherever the package is installed.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rearank.arguments import accepted
from rearank.config import ConfigError, build

CONF = (Path(__file__).resolve().parent / "conf").resolve()
_composing = threading.Lock()  # Hydra's state is the process's


@dataclass(frozen=True)
class Chosen:
    """A composed config: plain nodes by group, and which option of each group they are."""

    nodes: Mapping[str, Any]
    options: Mapping[str, str]

    def build(self, group: str) -> Any:
        """The object of ``group``; raises ``ConfigError`` naming the key."""
        return build(self.nodes[group], group)


def options(group: str) -> list[str]:
    """The names that ``group`` has, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


def choose(groups: Sequence[str], named: Mapping[str, str], overrides: Sequence[str] = ()) -> Chosen:
    """Compose the defaults with ``named`` options, a model's own choices among them, and ``overrides`` on top.

    Args:
        groups: the groups wanted.
        named: option by group, ``{"model": "tiny"}``.
        overrides: keys to set, as on the command line: ``("strategy.size=5",)``.

    Raises:
        ConfigError: for a name or a key that isn't there.
    """
    for group, name in named.items():
        check_option(group, name)
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    chosen = [f"{group}={name}" for group, name in named.items()]
    try:
        with _hydra():
            config = compose("config", [*chosen, *accepted(overrides)], return_hydra_config=True)
        nodes = {group: OmegaConf.to_container(config[group], resolve=True) for group in groups}
        return Chosen(nodes, {str(key): str(value) for key, value in config.hydra.runtime.choices.items()})
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{' '.join([*chosen, *overrides])}: {reason}") from error


def check_option(group: str, name: str) -> None:
    """Raise ``ConfigError`` unless ``group`` has a node of this name."""
    known = options(group)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
        raise ConfigError(f"{group}={name}: there is no such {group}; {hint}")


def as_trained(prompt: str | None, own: str | None) -> str | None:
    """``own`` where the node ``prompt`` is that one and a prefill, and ``prompt`` itself otherwise.

    A model reads the same request with and without a prefill, so that ``compact_direct`` counts as ``compact``.
    """
    from omegaconf import OmegaConf

    file = CONF / "prompt" / f"{prompt}.yaml"
    if prompt in (None, own) or not file.is_file():
        return prompt
    node = OmegaConf.to_container(OmegaConf.load(file))
    if not isinstance(node, dict):
        return prompt
    inherited = [name for name in node.pop("defaults", []) if name != "_self_"]
    return own if inherited == [own] and set(node) == {"prefill"} else prompt


def models_at(path: str) -> dict[str, dict[str, Any]]:
    """The model nodes of a hub id, by name: empty for a checkpoint that no node describes."""
    from omegaconf import OmegaConf

    found = {}
    for name in options("model"):
        node = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"))
        if isinstance(node, dict) and node.get("path") == path:
            found[name] = {str(key): value for key, value in node.items()}
    return found


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra over ``CONF``; a Hydra application that is under way in this process is itself again afterwards."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with _composing:
        around = GlobalHydra.instance()
        outer = around.hydra
        around.hydra = None
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                yield
        finally:
            around.hydra = outer
            GlobalHydra.set_instance(around)
