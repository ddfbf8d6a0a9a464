"""From the command line to a task, and from an exception to a few lines that help."""

from __future__ import annotations

import difflib
import errno
import json
import logging
import os
import re
import select
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rearank.arguments import accepted, written
from rearank.choices import CONF
from rearank.config import ConfigError
from rearank.experiment import DECIDED_BY, Run, make_run
from rearank.runs.environment import environment
from rearank.runs.layout import COMMANDS, ENVIRONMENT, read_json, write_json, write_text
from rearank.runs.reader import score_of
from rearank.runs.stage import locked, warn_of_old_version
from rearank.sections import STANDARD
from rearank.tasks.preflight import preflight
from rearank.tasks.rerank import RerankTask
from rearank.tasks.rerank.outputs import standard_output_kept
from rearank.tasks.sweep.closing import close_sweep
from rearank.tasks.sweep.jobs import JobUnderWay
from rearank.tasks.sweep.plan import refuse_study, sweep_under_way

_OVERRIDE = re.compile(r"^[+~]{0,2}([\w/@.]+)=(.*)$")


def run_task(config: DictConfig) -> float | None:
    """Run the task that ``config`` describes; returns its score, for sweepers that look for the best one.

    A job of a sweep that was finished before does nothing, and one that fails says so in its folder and raises nothing.
    """
    composed = OmegaConf.to_container(config, resolve=True)
    assert isinstance(composed, dict)
    plain = {str(key): value for key, value in composed.items()}
    refuse_study()
    job = JobUnderWay.current()
    if job is None:
        try:
            return _run(config, plain, None)
        except Exception as error:
            raise _StopError(error) from error
    return job.carry_out(
        plain, lambda: _run(config, plain, job.sweep), lambda error: explain(error, sys.argv[1:]), _digests(plain)
    )


class _StopError(BaseException):
    """What a task raised, carried past Hydra, which would print every override (a key pasted into one, too)."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Of all code and files that a job uses; empty where the config can't be built: the job will say so."""
    try:
        run = make_run(config, {})
        return run.code(*DECIDED_BY) | run.files(*DECIDED_BY, "model", "sft", "own")
    except (ConfigError, OSError):
        return {}


def _run(config: DictConfig, plain: Mapping[str, Any], sweep: Path | None) -> float | None:
    """Build the experiment, check the machine, run the task; the folder is locked meanwhile."""
    run = make_run(plain, HydraConfig.get().runtime.choices, sweep)
    to_standard_output = isinstance(run.experiment.task, RerankTask) and run.experiment.rerank.output == STANDARD
    with standard_output_kept() if to_standard_output else nullcontext():
        preflight(run)
        # Shared cores: idle OpenMP threads must sleep, not spin. Read when torch loads.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        with locked(run.folder):
            _write_down(config, run)
            warn_of_old_version(run.folder)
            run.experiment.task.run(run)
    return score_of(run.folder)


def _write_down(config: DictConfig, run: Run) -> None:
    """What Hydra would write before the folder is locked: the config and the overrides; and a line about the command.

    ``environment.json`` is the first command's, ``commands.jsonl`` has all of them.
    """
    hydra: Any = HydraConfig.instance().cfg
    folder = run.folder / ".hydra"
    folder.mkdir(exist_ok=True)
    for name, node in (("config", config), ("hydra", hydra), ("overrides", hydra.hydra.overrides.task)):
        write_text(folder / f"{name}.yaml", OmegaConf.to_yaml(node))
    here = {**environment(), "seed": run.experiment.seed}
    if not read_json(run.folder / ENVIRONMENT):
        write_json(run.folder / ENVIRONMENT, here)
    line = {key: here[key] for key in ("time", "command", "commit")} | {"task": run.choices.get("task")}
    with (run.folder / COMMANDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def guarded(main: Callable[[], Any], conf: Path = CONF) -> int:
    """Run ``main``; what goes wrong is printed in a few lines, and the exit status shows it.

    A bug of ours, or of a library, keeps its traceback: set REARANK_TRACE=1 to see every error's. A sweep ends with its
    table and what failed in it, whatever became of its launcher.
    """
    try:
        status = _guarded(main, conf)
    except Exception:
        if sweep_under_way() is None:
            raise
        traceback.print_exc()  # a launcher's, say: the jobs that it ran are there still
        status = 1
    sweep = sweep_under_way()
    return status if sweep is None or status == _INTERRUPTED else max(status, close_sweep(sweep))


_INTERRUPTED = 130
_UNREAD = 141  # as a shell reports SIGPIPE


def _guarded(main: Callable[[], Any], conf: Path) -> int:
    logging.raiseExceptions = False  # a traceback for every line that goes to a closed pipe
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises instead of printing its own summary
    try:
        try:
            sys.argv[1:] = accepted(sys.argv[1:])
            main()
        finally:
            sys.stdout.flush()  # while what it meets can be caught
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return _INTERRUPTED
    except (Exception, _StopError) as caught:
        error = caught.error if isinstance(caught, _StopError) else caught
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return _UNREAD
        message = explain(error, sys.argv[1:], conf)
        if message is None or os.environ.get("REARANK_TRACE"):
            raise error from error.__cause__
        print(f"rearank: {message}", file=sys.stderr)
        return 1
    return 0


def _nobody_reads() -> bool:
    """Whether the program that read our output has ended (``| head``); if so, what is left of it is dropped."""
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # it is no file
        return False
    pipe = select.poll()
    pipe.register(output, 0)
    if not any(events & select.POLLERR for _, events in pipe.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)
    return True


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
        ("joblib", "submitit_local", "submitit_slurm"), "pip install -e '.[sweeps]', or set launcher=basic"
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

    choices = [o for o in overrides if (m := _OVERRIDE.match(o)) and (conf / m.group(1)).is_dir() and "," not in o]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            node = OmegaConf.select(compose("config", choices), parent) if parent else compose("config", choices)
    except Exception:  # another error in the same command line: it will be named next
        return None
    return [str(key) for key in node] if isinstance(node, DictConfig) else None


def _closest(wanted: str, options: Iterable[str]) -> str:
    known = sorted({option for option in options if not option.startswith("_")})
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there {'is' if len(known) == 1 else 'are'} {', '.join(known)}"
