"""The values of ``cluster.env``, ``cluster.runtime_env`` and ``hydra.launcher.runtime_env``, which may hold keys: their
names are kept, no value is.

Hydra, W&B and our own files write a run's config and command line down. So before anything is written each value moves
to this process's environment, under a name of ours, and ``null`` stands in its place (``HideValues``); what starts the
cluster takes it from there. A sweep's jobs in other processes inherit it. ``--cfg job`` runs nothing and prints what it
was given. A key in place of the name of its variable (``key_variable``) ends the command before it is repeated.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from rearank.checks import shown_variable

_KEPT = "REARANK_ENV_"  # and the variable's name: where its value is meanwhile
_ROOTS = ("cluster", "trainer.cluster")
_LAUNCHER = "hydra.launcher"
_BEFORE = {**dict.fromkeys(_ROOTS, ()), _LAUNCHER: ("launcher",)}
_PLACES = (("env",), ("runtime_env", "env_vars"))  # below these
_RUNTIME = ("runtime_env",)  # and below this, whatever it is: addresses and options hold passwords, too
_LAUNCHED = ("launcher", *_RUNTIME)  # the launcher's, with its variables: no process of ours reads these by name
_HIDDEN = (*_PLACES, _LAUNCHED)
_REST = "REARANK_RUNTIME_ENV_"  # and the field's name: its value as JSON
_REST_LAUNCHED = "REARANK_LAUNCHER_ENV_"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWN = re.compile(r"REARANK_|(WORLD_SIZE|RANK|LOCAL_RANK|MASTER_ADDR|MASTER_PORT|CUDA_VISIBLE_DEVICES)$")
_SHORT = 6  # characters: a shorter value ("1", "eth0") may be anything in a text, and is left there


def check_variables(env: Mapping[str, Any], runtime_env: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` for what is no environment variable; it names the key and never the value."""
    more = runtime_env.get("env_vars") or {}
    for place, variables in (("env", env), ("runtime_env.env_vars", more)):
        if not isinstance(variables, Mapping):
            raise ValueError(f"{place} must be a mapping of environment variables to values: {{NAME: value}}")
        for name, value in variables.items():
            if not _NAME.fullmatch(str(name)):
                raise ValueError(f"{place}: {name!r} is no name of an environment variable")
            if _OWN.match(str(name)):
                raise ValueError(f"{place}.{name}: Ray, verl and rearank set it themselves; leave it out")
            if isinstance(value, bool) or not isinstance(value, (str, int, float, type(None))):
                raise ValueError(
                    f"{place}.{name} must be a text, a number or null (NCCL's yes is 1; quote other words)"
                )
    if twice := sorted(env.keys() & more.keys()):
        raise ValueError(f"env.{twice[0]}: runtime_env.env_vars has it, too; set it once, in env")


def values_of(env: Mapping[str, Any], runtime_env: Mapping[str, Any]) -> dict[str, str | None]:
    """Each variable's value; ``None`` where this process's own is asked for and there is none."""
    both = {**(runtime_env.get("env_vars") or {}), **env}
    return {name: os.environ.get(_KEPT + name, os.environ.get(name)) if value is None else str(value)
            for name, value in both.items()}  # fmt: skip


def runtime_of(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """``runtime_env`` without its variables; what was moved away is back."""
    return {name: value for name, value in _back(runtime_env, _REST).items() if name != "env_vars"}


def launcher_runtime_of(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """``hydra.launcher.runtime_env``; what was moved away is back."""
    return _back(runtime_env, _REST_LAUNCHED)


def _back(fields: Mapping[str, Any], kept: str) -> dict[str, Any]:
    moved = {name: os.environ.get(kept + str(name)) for name, value in fields.items() if value is None}
    return {**fields, **{name: json.loads(value) for name, value in moved.items() if value is not None}}


def without_values(text: str, values: Iterable[str]) -> str:
    """``text`` with ``***`` for each of ``values``, as a library's error may repeat one; not for those of 5 characters
    or fewer, which may be anything.
    """
    for value in sorted((value for value in values if len(value) >= _SHORT), key=len, reverse=True):
        text = text.replace(value, "***")
    return text


class HideValues(Callback):
    """Before Hydra writes its files; in ``conf/config.yaml`` as ``hydra.callbacks.hidden``, the first of them."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """A run: its config, overrides and command line."""
        _hide(config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """A sweep: every job is composed of these overrides again, with the values of config files among them."""
        _hide(config, files=True)


def _hide(config: DictConfig, files: bool = False) -> None:
    """Hydra makes a warning of what is raised here and goes on to write everything down: so it ends the process."""
    try:
        with read_write(config), open_dict(config):
            _move(config, files)
    except Exception as error:
        raise SystemExit(
            f"rearank: cluster.env: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        ) from error


def _move(config: DictConfig, files: bool) -> None:
    task, own, job = config.hydra.overrides.task, config.hydra.overrides.hydra, config.hydra.job
    given = _parsed([*task, *own])
    _refuse_keys(given)
    hidden = {str(override.input_line): _line(override) for override in given}
    arms = OmegaConf.select(config, "hydra.sweeper.arms") or {}
    swept = [
        *(OmegaConf.select(config, "hydra.sweeper.params") or {}),
        *(line for arm in arms.values() for line in arm),
    ]
    for line in swept:
        if _place(key := str(line).lstrip("+~").partition("=")[0]) is not None:
            raise SystemExit(f"rearank: {key} can't be swept: a study's files keep its values; set one for all")
    keys = [key for place in _PLACES for root in _ROOTS for key in _moved(config, ".".join((root, *place)))]
    keys += [key for root in _ROOTS for key in _rest_moved(config, ".".join((root, *_RUNTIME)), _REST, "env_vars")]
    keys += _rest_moved(config, ".".join((_LAUNCHER, *_RUNTIME)), _REST_LAUNCHED)
    known = {override.key_or_group for override in given}
    more = [f"++{key}=null" for key in keys if key not in known] if files else []
    config.hydra.overrides.task = [hidden[line] for line in task] + [one for one in more if _LAUNCHER not in one]
    config.hydra.overrides.hydra = [hidden[line] for line in own] + [one for one in more if _LAUNCHER in one]
    for line in hidden:
        job.override_dirname = job.override_dirname.replace(line, hidden[line])
    sys.argv[1:] = [hidden.get(word, word) for word in sys.argv[1:]]


def _moved(config: DictConfig, place: str) -> list[str]:
    """The keys at ``place`` whose values went to this process's environment."""
    variables, keys = OmegaConf.select(config, place), []
    for name in list(variables) if isinstance(variables, DictConfig) else ():
        value = variables[name]
        if value is None or isinstance(value, bool):
            continue  # a bool is refused when the cluster is built, and no secret
        if not _NAME.fullmatch(str(name)) or not isinstance(value, (str, int, float)):
            raise SystemExit(f"rearank: {place}: {name} is no environment variable with a text or a number")
        os.environ[_KEPT + str(name)] = str(value)
        variables[name] = None
        keys.append(f"{place}.{name}")
    return keys


def _rest_moved(config: DictConfig, place: str, kept: str, but: str | None = None) -> list[str]:
    """As ``_moved``, for the fields of ``runtime_env`` but one."""
    fields, keys = OmegaConf.select(config, place), []
    for name in list(fields) if isinstance(fields, DictConfig) else ():
        if name == but or fields[name] is None:
            continue
        value = fields[name]
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        os.environ[kept + str(name)] = json.dumps(plain)
        fields[name] = None
        keys.append(f"{place}.{name}")
    return keys


def _refuse_keys(given: Iterable[Override]) -> None:
    """Ends the command where a key stands for the name of its variable: Hydra repeats the overrides of what fails."""
    for override in given:
        key, value = override.key_or_group, str(override.input_line).partition("=")[2].strip("'\"")
        if key.rpartition(".")[2] != "key_variable" or value in ("", "null") or value in os.environ:
            continue
        if shown_variable(value) != value:
            raise SystemExit(
                f"rearank: {key} must be the name of an environment variable that is set, and this one is not (it may "
                "be a key, and is not repeated here): export the key under a name like MY_KEY, and give that name"
            )


def _parsed(lines: Iterable[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(lines))


def _place(key: str) -> tuple[str, ...] | None:
    """Below the cluster or as the launcher's, where it may hold such values; ``None`` elsewhere."""
    root = next((root for root in _BEFORE if f"{key}.".startswith(f"{root}.")), None)
    if root is None:
        return None
    below = (*_BEFORE[root], *(key[len(root) + 1 :].split(".") if key != root else ()))
    return below if any(below[: len(place)] == place[: len(below)] for place in (*_HIDDEN, _RUNTIME)) else None


def _line(override: Override) -> str:
    """The override with ``null`` for values that are hidden."""
    line, key = str(override.input_line), override.key_or_group
    if (place := _place(key)) is None or override.is_delete():
        return line
    if override.is_sweep_override():
        raise SystemExit(f"rearank: {key} can't be swept: jobs would be named after its values; set one for all")
    blank = dataclasses.replace(override, _value=_blanked(override.value(), place))
    return f"{line.partition('=')[0]}={blank.get_value_element_as_str()}"


def _blanked(value: Any, place: tuple[str, ...]) -> Any:
    """``value`` at a place that ``_place`` gave, with ``None`` where a variable's value is."""
    if any(place[: len(hidden)] == hidden and len(place) > len(hidden) for hidden in _HIDDEN):
        return None
    if place[:1] == _RUNTIME and len(place) > 1 and place[1] != "env_vars":
        return None
    if isinstance(value, Mapping):
        return {key: _blanked(item, (*place, *_text(key).split("."))) for key, item in value.items()}
    return value


def _text(key: Any) -> str:
    return key.text if isinstance(key, QuotedString) else str(key)
