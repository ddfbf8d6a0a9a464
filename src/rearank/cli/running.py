"""From the command line to a task, and from an exception to a few lines that help."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rearank.choices import CONF
from rearank.cli.errors import as_json, explain, kind_of
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
    with standard_output_kept() if _answers_there(run) else nullcontext():
        preflight(run)
        # Shared cores: idle OpenMP threads must sleep, not spin. Read when torch loads.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        with locked(run.folder):
            _write_down(config, run)
            warn_of_old_version(run.folder)
            run.experiment.task.run(run)
    return score_of(run.folder)


def _answers_there(run: Run) -> bool:
    """Whether standard output is for the task's results alone."""
    task, chosen = run.experiment.task, run.experiment
    if isinstance(task, RerankTask):
        return chosen.rerank.output == STANDARD
    return "serve" in task.needs and chosen.serve.over_stdio


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
    """Run ``main``; what goes wrong is printed in a few lines, and the exit status shows it (see ``rearank.cli``).

    A bug of ours, or of a library, keeps its traceback: set REARANK_TRACE=1 to see every error's. With
    REARANK_ERRORS=json the last line on standard error is JSON (``errors.as_json``). A sweep ends with its table and
    what failed in it, whatever became of its launcher.
    """
    try:
        status = _guarded(main, conf)
    except Exception as error:
        if sweep_under_way() is None and not _for_programs():
            raise
        traceback.print_exc()  # a launcher's, say: the jobs that it ran are there still
        status = _told("bug", f"{type(error).__name__}: {error}", 1, traceback.format_exc())
    except SystemExit as end:  # an option that isn't there, --help, a refusal in words
        if not _for_programs() or not end.code:
            raise
        words = str(end.code).removeprefix("rearank: ")
        if isinstance(end.code, int):
            return _told("usage", "there is no such option; rearank --help lists them", end.code)
        return _told("config", words, 1)
    sweep = sweep_under_way()
    if sweep is None or status == _INTERRUPTED:
        return status
    closed = close_sweep(sweep)
    return _told("sweep", f"{sweep}: jobs failed", closed) if closed > status else max(status, closed)


_INTERRUPTED = 130
_UNREAD = 141  # as a shell reports SIGPIPE


def _guarded(main: Callable[[], Any], conf: Path) -> int:
    logging.raiseExceptions = False  # a traceback for every line that goes to a closed pipe
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises instead of printing its own summary
    try:
        try:
            main()
        finally:
            sys.stdout.flush()  # while what it meets can be caught
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return _told("interrupted", "interrupted; the same command goes on from here", _INTERRUPTED)
    except (Exception, _StopError) as caught:
        error = caught.error if isinstance(caught, _StopError) else caught
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return _UNREAD
        message = explain(error, sys.argv[1:], conf)
        if message is None or os.environ.get("REARANK_TRACE"):
            raise error from error.__cause__
        if not _for_programs():
            print(f"rearank: {message}", file=sys.stderr)
        return _told(kind_of(error), message, 1)
    return 0


def _for_programs() -> bool:
    return os.environ.get("REARANK_ERRORS") == "json"


def _told(kind: str, message: str, status: int, trace: str = "") -> int:
    """``status``, once a program that reads our errors has it and what happened in a line."""
    if _for_programs():
        print(as_json(kind, message, status, trace), file=sys.stderr)
    return status


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
