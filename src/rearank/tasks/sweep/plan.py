"""What a sweep's command asks for: its folder, what is swept there, and each job's folder.

Hydra's callback gives the jobs their places; the rest is done by the job itself (``jobs``), so that every launcher will
do.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from rearank.runs.environment import program
from rearank.runs.layout import SWEEP, write_json
from rearank.runs.sweeps import Sweep

LONGEST = 200
"""Bytes of a job's folder name; file systems end at 255, and W&B at 128 characters of a label that is cut anyway."""
ARM, SEED = "arm", "seed"
_WORKS = {"prepare", "train", "sft", "evaluate", "pipeline", "analyse"}  # tasks that do a job's work


class StudyError(ValueError):
    """A study that is no sweep, or whose arms are no lists of overrides; the message says what to write."""


def job_folder(overrides: str) -> str:
    """A folder's name for ``reward=ndcg,seed=1``: no slash, not too long; a hash tells changed ones apart."""
    name = overrides.replace("/", "_") or "job"
    if name == overrides and len(name.encode()) <= LONGEST:
        return name
    if not overrides:
        return name
    mark = hashlib.sha256(overrides.encode()).hexdigest()[:8]
    return name.encode()[: LONGEST - 9].decode(errors="ignore") + f"-{mark}"


def file_name(path: str | None) -> str:
    """The last part of ``path``, as a part of a folder's name."""
    return job_folder(Path(path or "out").name.strip("-") or "out")


OmegaConf.register_new_resolver("rearank.job_folder", job_folder, replace=True)
OmegaConf.register_new_resolver("rearank.file_name", file_name, replace=True)


class SweepCallback(Callback):
    """Gives a sweep its folder and its jobs' folders their names. In ``conf/config.yaml`` as ``hydra.callbacks``."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Before any job: what is swept goes to ``sweep.json`` and, through Hydra's own keys, to every job."""
        sweep = _planned(config)
        arms = arms_of(config.hydra)
        lines = [*config.hydra.overrides.task, *(line for arm in arms.values() for line in arm)]
        keys = {key for key, _ in parsed(lines)}
        fixed = sorted((keys | set(config.hydra.job.config.override_dirname.exclude_keys)) - set(sweep.swept))
        listed = ",".join(_in_quotes(key) for key in fixed)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.sweep.dir = str(sweep.folder)
            config.hydra.overrides.hydra.extend(
                [
                    f"hydra.sweep.dir={_in_quotes(str(sweep.folder))}",
                    f"hydra.job.config.override_dirname.exclude_keys=[{listed}]",
                ]
            )
        tracking = OmegaConf.to_container(config.tracking, resolve=True)  # this command's, whatever the jobs' were
        described = {"swept": sweep.swept, "overrides": list(sweep.overrides), "tracking": tracking}
        write_json(sweep.folder / SWEEP, described)
        HydraConfig.instance().set_config(deepcopy(config))  # jobs may run in other processes, and set it there alone


def sweep_under_way() -> Path | None:
    """The folder of the sweep that this process launched, as Hydra knows it; ``None`` where the command is no sweep."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    return Path(str(hydra.sweep.dir)) if hydra is not None and hydra.mode == RunMode.MULTIRUN else None


def _planned(config: DictConfig) -> Sweep:
    """The folder and what is swept; keys that an earlier command swept there stay swept, were it over one value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    task = list(config.hydra.overrides.task)
    swept: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(task):
        if override.is_sweep_override():
            discrete = override.is_discrete_sweep()
            swept[override.key_or_group] = list(override.sweep_string_iterator()) if discrete else []
    for key, values in (OmegaConf.select(config, "hydra.sweeper.params") or {}).items():
        swept.setdefault(str(key), [value.strip() for value in str(values).split(",")])
    single = dict(parsed(task))
    if arms := arms_of(config.hydra):
        swept[ARM] = list(arms)
        swept.setdefault(SEED, [single[SEED]] if SEED in single else [str(s) for s in config.hydra.sweeper.seeds])
    folder = _folder(config, swept)
    earlier = Sweep.read(folder)
    known = {key: list(values) for key, values in earlier.swept.items() if key in swept or key in single}
    for key in known:
        known[key] += [value for value in swept.get(key, [single.get(key, "")]) if value not in known[key]]
    if ARM in known:  # in the study's order, whichever were chosen first: all are compared with the first of them
        known[ARM] = [*arms, *(name for name in known[ARM] if name not in arms)]
    return Sweep(folder, {**known, **{key: values for key, values in swept.items() if key not in known}}, task)


def arms_of(hydra: Any) -> dict[str, list[str]]:
    """name -> overrides, of a study's sweeper; empty for any other."""
    arms = as_written(hydra, "sweeper.arms") or {}
    for name, lines in arms.items():
        if isinstance(lines, str):
            raise StudyError(f"hydra.sweeper.arms.{name} is a list of overrides: write [{lines}]")
    return {str(name): [str(line) for line in lines or ()] for name, lines in arms.items()}


def as_written(hydra: Any, key: str) -> Any:
    """Plain, with its interpolations as they are: ``${seed}`` in an arm means each job's own."""
    node = OmegaConf.select(hydra, key)
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def refuse_study() -> None:
    """A study whose sweeper isn't at work would be one run of its baseline, and look as if it were done.

    Raises:
        StudyError: where the command names a study without ``-m``, or several, and its task would do a job's work.
    """
    hydra = HydraConfig.get()
    arms, name = arms_of(hydra), hydra.runtime.choices.get("experiment")
    if not arms or hydra.runtime.choices.get("task") not in _WORKS:
        return
    if hydra.mode != RunMode.MULTIRUN:
        words = " ".join([program(), "-m", *map(shlex.quote, hydra.overrides.task)])
        raise StudyError(
            f"{name} is a study, and a study is a sweep: add -m ({words}); "
            f"arm=... ({', '.join(arms)}) and seed=... choose some of its jobs"
        )
    if ARM not in dict(parsed(hydra.overrides.task)):
        raise StudyError(f"{name} is a study with arms of its own: name one study a command, not experiment=a,b")


def _folder(config: DictConfig, swept: Mapping[str, Sequence[str]]) -> Path:
    """``<outputs>/<name>-sweep``; a swept choice has no place in the name, which is the same for all jobs."""
    given = [str(line) for line in config.hydra.overrides.hydra]
    if any(line.startswith("hydra.sweep.dir=") for line in given):
        return Path(str(config.hydra.sweep.dir))
    template = str(OmegaConf.to_container(config, resolve=False)["name"])  # type: ignore[call-overload,index]
    parts = [part for part in template.split("-") if not any(_mentions(part, key) for key in swept)]
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.cfg = config  # type: ignore[assignment]  # for ${hydra:...} in a name; Hydra itself sets it in jobs alone
    try:
        with read_write(config), open_dict(config):
            config.name = "-".join(parts) or "all"
            folder = Path(str(config.hydra.sweep.dir))
            config.name = template
    finally:
        hydra.cfg = before
    return folder


def _mentions(part: str, key: str) -> bool:
    return f"choices.{key}}}" in part or f"${{{key}}}" in part


def parsed(overrides: Iterable[str]) -> list[tuple[str, str]]:
    """(key, value as written) of each."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    found = OverridesParser.create().parse_overrides(list(overrides))
    return [(one.key_or_group, one.input_line.partition("=")[2] if one.input_line else "") for one in found]


def _in_quotes(text: str) -> str:
    """For Hydra's grammar of overrides."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
