"""From an exception to a few lines that help, or to one line of JSON for programs."""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rearank.arguments import written
from rearank.choices import CONF
from rearank.config import ConfigError
from rearank.experiment import Experiment

_OVERRIDE = re.compile(r"^[+~]{0,2}([\w/@.]+)=(.*)$")


def explain(error: BaseException, overrides: Iterable[str], conf: Path = CONF) -> str | None:
    """A few lines that say what is wrong and what to write instead; ``None`` for what looks like a bug."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException

    if isinstance(error, OverrideParseException):
        return f"{error.override}: this is no argument; write key=value"
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, wanted = str(error.missing_cfg_file).rpartition("/")
        if wanted in _PLUGINS:
            return f"{group}={wanted}: Hydra's plugin for it is missing; {_PLUGINS[wanted]}"
        return f"{group}={wanted}: there is no such {group}; {_closest(wanted, error.options)}"
    if isinstance(error, HydraException) and (found := _AMBIGUOUS.match(str(error))):
        return _explain_comma(*found.groups())
    if isinstance(error, ValueError) and "Config group override must be" in str(error):
        return _explain_null(overrides, conf)
    if isinstance(error, HydraException):
        return _explain_override(error, overrides, conf)
    if isinstance(error, OmegaConfBaseException):
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        return f"{key}{str(error).splitlines()[0]}"
    if _is_ours(error):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return _explain_name(str(error.filename or ""), overrides)
    if isinstance(error, ValueError) and isinstance(error.__cause__, OSError):  # logging's, of a file of its own
        return explain(error.__cause__, overrides, conf)
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        named = error.filename2 or error.filename  # the second is the file that was to appear
        place = f"{named}: " if named else ""
        return f"{place}{os.strerror(error.errno)}; {_REMEDIES[error.errno]}"
    # Libraries that write weights and parquet pass the system's words on in errors of their own.
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if os.strerror(number) in str(error):
            return f"{str(error).splitlines()[0]}; {_REMEDIES[number]}"
    return None


_PLUGINS = {
    **dict.fromkeys(
        ("joblib", "submitit_local", "submitit_slurm"), "pip install 'rearank[sweeps]', or set launcher=basic"
    ),
    "optuna": "pip install hydra-optuna-sweeper",
}
_REMEDIES = {
    errno.ENOSPC: "free some disk space and run the same command again: it goes on from here",
    errno.EDQUOT: "free some disk space and run the same command again: it goes on from here",
    errno.EFBIG: "the limit on file sizes (ulimit -f) is too low; raise it and run the same command again",
    errno.EACCES: "choose a folder you may write to (paths.outputs=...)",
    errno.EPERM: "choose a folder you may write to (paths.outputs=...)",
    errno.EROFS: "choose a folder you may write to (paths.outputs=...)",
    errno.EISDIR: "this is a folder, and a file is needed there; move it away and run the same command again",
    errno.ELOOP: "this is a link that leads to itself; move it away and run the same command again",
    errno.EMFILE: "this process may open too few files; raise the limit (ulimit -n) and run the same command again",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another name=... or paths.outputs=...",
    errno.EEXIST: "a file stands where a folder is needed; choose another name=... or paths.outputs=...",
}


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.startswith("rearank.") or isinstance(error, (ConfigError, FileNotFoundError))


_AMBIGUOUS = re.compile(r"\s*Ambiguous value for argument '([^=]+)=(.*?)'\n")


def _explain_comma(key: str, value: str) -> str:
    """Hydra reads a comma as a sweep's, and this command is none."""
    return (
        f"{key}: {value!r} has a comma; to sweep over its parts add -m; as one text write {written(key, value)}, as a "
        f"list {shlex.quote(f'{key}=[{value}]')}"
    )


def _explain_null(overrides: Iterable[str], conf: Path) -> str | None:
    """Hydra takes null for a group in its own files alone, and doesn't say which of the arguments it means."""
    given = [match.groups() for one in overrides if (match := _OVERRIDE.match(one))]
    keys = [key for key, value in given if value == "null" and (conf / key.partition("@")[0]).is_dir()]
    return f"{keys[0]}=null: a group is left out by its name; write '~{keys[0]}'" if keys else None


_ENDS = re.compile(r"[/,'\"\[\]]")
_NAME_MAX, _PATH_MAX = 255, 4096  # bytes


def _explain_name(path: str, overrides: Iterable[str]) -> str:
    """The key is the one whose value the too long part of ``path`` is made of, or the most of it."""
    part = max(path.split("/"), key=lambda one: len(os.fsencode(one)))
    given = [match.groups() for one in overrides if (match := _OVERRIDE.match(one))]
    if len(os.fsencode(part)) > _NAME_MAX or len(os.fsencode(path)) < _PATH_MAX:  # some file systems take less
        keys = [key for key, value in given if any(len(one) > 20 and one in part for one in _ENDS.split(value))]
        what, shown, most = "the name of a file or folder", part, _NAME_MAX
    else:
        inside = [(len(text), key) for key, value in given if (text := value.strip("'\"/")) and text in path]
        keys = [key for _, key in [max(inside, default=(0, ""))] if key]
        what, shown, most = "a path", path, _PATH_MAX
    size = len(os.fsencode(shown))
    return (
        f"{' and '.join(keys) or 'name'}: {shown[:40]}... is too long for {what} ({size} bytes; {most} are usual); "
        f"choose a shorter {'=..., '.join(keys) or 'name'}=..."
    )


def _explain_override(error: Exception, overrides: Iterable[str], conf: Path) -> str:
    """Hydra names one override that has no place in the config: say what comes closest."""
    message = str(error.__cause__ or error) if "Could not override" not in str(error) else str(error)
    found = re.search(r"Could not override '([^']+)'", message)
    if found is None:
        return str(error).splitlines()[0]
    key = found.group(1)
    groups = sorted(path.name for path in conf.iterdir() if path.is_dir())
    if "." not in key:
        return f"{key}: there is no such group or key; {_closest(key, [*groups, *(_keys(conf, '', overrides) or ())])}"
    parent, _, name = key.rpartition(".")
    siblings = _keys(conf, parent, overrides)
    if siblings is None:
        known = [*groups, *(_keys(conf, "", overrides) or ())]
        return f"{key}: there is no such key; {_closest(key.split('.')[0], known)}"
    if not siblings:  # cluster.env, trainer.verl: whatever is put there
        return f"{key}: {parent} has no key yet; write +{key}=... to add one"
    return f"{key}: {parent} has no such key; {_closest(name, siblings)}"


def _keys(conf: Path, parent: str, overrides: Iterable[str]) -> list[str] | None:
    """The keys under ``parent`` in the config composed of the groups alone that ``overrides`` choose; ``None`` where
    there is no such mapping.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    overrides = list(overrides)
    choices = [o for o in overrides if (m := _OVERRIDE.match(o)) and (conf / m.group(1)).is_dir() and "," not in o]
    choices += _own_places(overrides)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            node = OmegaConf.select(compose("config", choices), parent) if parent else compose("config", choices)
    except Exception:  # another error in the same command line: it will be named next
        return None
    return [str(key) for key in node] if isinstance(node, DictConfig) else None


def _own_places(overrides: Sequence[str]) -> list[str]:
    """Where options of one's own are looked for, as an override, for a config composed as the command's is."""
    for option, value in pairwise(overrides):
        if option in ("--config-dir", "-cd"):
            return [f"hydra.searchpath=['file://{Path(value).absolute()}']"]
    return [one for one in overrides if one.startswith("hydra.searchpath=")]


def _closest(wanted: str, options: Iterable[str]) -> str:
    known = sorted({option for option in options if not option.startswith("_")})
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there {'is' if len(known) == 1 else 'are'} {', '.join(known)}"


def as_json(kind: str, message: str, status: int, trace: str = "") -> str:
    """One line for programs.

    ``{kind, status, message, key, remedy}``; ``key`` of the config and ``remedy`` are what the message says before its
    first colon and after its first semicolon, ``null`` where it says none. ``problems`` is a list of
    ``{message, key, remedy}`` where a message lists several, and ``trace`` is a bug's.
    """
    lines = [line.removeprefix("  - ") for line in message.splitlines() if line.startswith("  - ")]
    found: dict[str, Any] = {"kind": kind, "status": status, **_parts(message)}
    found |= {"problems": [_parts(line) for line in lines]} if lines else {}
    found |= {"trace": trace} if trace else {}
    return json.dumps(found, ensure_ascii=False)


def kind_of(error: BaseException) -> str:
    """A word for programs: ``config``; of another error of ours its class's (``data``, ``engine``...); ``file``.

    ``bug`` for what ``explain`` has no words for.
    """
    if isinstance(error, (*_hydras(), OmegaConfBaseException, ConfigError)):
        return "config"
    if type(error).__module__.startswith("rearank."):
        return type(error).__name__.removesuffix("Error").lower()
    return "file" if isinstance(error, OSError | ValueError) else "bug"


def _hydras() -> tuple[type[Exception], ...]:
    from hydra.errors import HydraException

    return (HydraException,)


def _parts(message: str) -> dict[str, str | None]:
    key = _KEY.match(message)
    known = key is not None and key.group(1).split(".")[0].split("@")[0] in {*_SECTIONS, "hydra", "launcher"}
    _, _, remedy = message.partition("; ")
    return {"message": message, "key": key.group(1) if known and key is not None else None, "remedy": remedy or None}


_KEY = re.compile(r"([a-z_][\w@/.]*?)(?:=[^\s:]*)?(?::| )")
_SECTIONS = frozenset(field.name for field in fields(Experiment)) | {"experiment"}
