"""What a run was: command, versions, machine, and every setting that isn't the default's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from rearank.choices import CONF, options
from rearank.runs.declared import TARGET
from rearank.runs.reader import RunFolder

# Shown by their names elsewhere on the page; a line for each field of a collection would say little.
_APART = {"benchmark", "dataset", "validation", "retriever", "version", "seed", "code", "code_accepted", "files"}
_LONGEST = 300  # characters of a value


def describe_run(run: RunFolder, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """For the page.

    Args:
        run: the folder.
        defaults: group -> the default config's node.
    """
    environment = run.environment
    settings = dict(run.training)
    for system in run.systems:
        if system.answers is not None or "prompt" not in settings:
            settings |= system.settings
            break
    return {
        "label": run.label,
        "folder": run.path.resolve().name,
        "command": [str(part) for part in environment.get("command", [])],
        "overrides": list(run.overrides),
        **{key: environment.get(key) for key in ("commit", "python", "platform", "cores", "time")},
        "packages": environment.get("packages", {}),
        "seed": settings.get("seed"),
        "names": dict(_names(settings)),
        "settings": _changed(settings, defaults),
        "result": {key: value for key, value in run.result.items() if key != "model"},
        "reranked": {k: v for k, v in run.reranked.items() if k not in ("calls", "digest")}
        | run.reranked.get("calls", {}),
    }


def _names(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was chosen, in words: the node's own name, else its option's."""
    for key in ("model", "dataset", "benchmark", "reward", "algorithm", "trainer", "engine", "prompt", "strategy"):
        node = settings.get(key)
        if isinstance(node, Mapping):
            yield key, str(node.get("name") or _option(key, node))


def _option(group: str, node: Mapping[str, Any]) -> str:
    """The option of ``group`` that ``node`` agrees with most, and whether it was changed; else the class's name."""
    best = closest_option(group, node)
    if best is None:
        return str(node.get(TARGET, "")).rpartition(".")[2]
    name, differing = best
    return f"{name}, changed" if differing else name


def closest_option(group: str, node: Mapping[str, Any]) -> tuple[str, int] | None:
    """The option of ``group`` that ``node`` agrees with most, and in how many keys it doesn't; ``None`` for a tie."""
    differing = {
        name: sum(node.get(key) != value for key, value in fields.items())
        for name, fields in _plain_options(group).items()
        if fields.get(TARGET) == str(node.get(TARGET, ""))
    }
    best = [name for name, count in differing.items() if count == min(differing.values())]
    return (best[0], differing[best[0]]) if len(best) == 1 else None


@cache
def _plain_options(group: str) -> Mapping[str, Mapping[str, Any]]:
    """Every option's own file, nothing composed."""
    found = {name: OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml")) for name in options(group)}
    return {name: {str(k): v for k, v in fields.items()} for name, fields in found.items() if isinstance(fields, dict)}


def _changed(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[list[str | None]]:
    """Key, default and value here; a default of ``None`` is a key that the default's node doesn't have."""
    rows: list[list[str | None]] = []
    for group, node in settings.items():
        if group in _APART or node is None:
            continue
        before, here = dict(_leaves(group, defaults.get(group))), dict(_leaves(group, node))
        rows += [[key, before.get(key), value] for key, value in here.items() if before.get(key) != value]
    return rows


def _leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}".removesuffix("._target_"), inner)
    elif value is not None or "." in key:
        shown = str(value)
        yield key, shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"
