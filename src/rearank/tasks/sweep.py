"""A sweep: one command, a job for every combination, each in a folder named after what is swept.

``<sweep>/<job>/job.json`` says how a job ended. A finished one returns at once when the command is given again, a
failed one leaves ``failure.txt`` and stops no other, and the sweep ends with a table (``collect``). Hydra's callback
gives the jobs their places; the rest is done by the job itself, so that every launcher will do.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from rearank.runs.layout import write_json
from rearank.tasks.sharing import fingerprint, made, take_over

JOB, SWEEP, FAILURE = "job.json", "sweep.json", "failure.txt"
LONGEST = 200
"""Bytes of a job's folder name; file systems end at 255, and W&B at 128 characters of a label that is cut anyway."""

ARM, SEED = "arm", "seed"
# Change no result.
_INCIDENTAL = {
    *("name", "arm", "output_dir", "paths", "tracking", "compare", "serve", "report", "accept_changed_code"),
}
_RESULTS = ("summary.json", "training/result.json", "sft/result.json", "prepared/summary.json")
_WORKS = {"prepare", "train", "sft", "evaluate", "pipeline", "analyse"}  # tasks that do a job's work
_log = logging.getLogger(__name__)


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


OmegaConf.register_new_resolver("rearank.job_folder", job_folder, replace=True)


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder and what is swept there: key -> values, in the order of the command line."""

    folder: Path
    swept: Mapping[str, Sequence[str]] = field(default_factory=dict)
    overrides: Sequence[str] = ()

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """What ``sweep.json`` says; an empty one where there is none."""
        try:
            stored = json.loads((folder / SWEEP).read_text())
        except (OSError, ValueError):
            return cls(folder)
        return cls(folder, stored["swept"], stored["overrides"])

    def jobs(self) -> list[Job]:
        """Every job that was ever started here, in the order of the command line."""
        found = [Job.read(path.parent) for path in sorted(self.folder.glob(f"*/{JOB}"))]
        return sorted(found, key=self._place)

    def _place(self, job: Job) -> list[int]:
        """By the values' places on the command line; the seed last."""
        keys = [*(key for key in self.swept if key != "seed"), *(key for key in self.swept if key == "seed")]
        orders = ((list(self.swept[key]), job.choices.get(key, "")) for key in keys)
        return [values.index(value) if value in values else len(values) for values, value in orders]


@dataclass(frozen=True)
class Job:
    """One job's ``job.json``. ``status``: running, finished, failed; or stopped, for one that ended without a word."""

    folder: Path
    status: str
    choices: Mapping[str, str]
    fixed: Sequence[str]
    cause: str = ""
    seconds: float = 0.0

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Raises ``ValueError`` for a file that isn't ours."""
        stored = json.loads((folder / JOB).read_text())
        status, cause = stored["status"], stored.get("cause", "")
        if status == "running" and _free(folder):
            status, cause = "stopped", "it ended without a word: killed, out of memory, or interrupted"
        return cls(folder, status, stored["choices"], stored["fixed"], cause, stored.get("seconds", 0.0))

    @property
    def failed(self) -> bool:
        return self.status in ("failed", "stopped")

    @property
    def command(self) -> str:
        """What runs this job alone, in its place."""
        words = [*self.fixed, *(f"{key}={value}" for key, value in self.choices.items())]
        return " ".join(["python run.py -m", *map(quoted, words)])


class SweepCallback(Callback):
    """Gives a sweep its folder and its jobs' folders their names. In ``conf/config.yaml`` as ``hydra.callbacks``."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Before any job: what is swept goes to ``sweep.json`` and, through Hydra's own keys, to every job."""
        global _under_way
        sweep = _planned(config)
        arms = _arms_of(config.hydra)
        lines = [*config.hydra.overrides.task, *(line for arm in arms.values() for line in arm)]
        keys = {key for key, _ in _parsed(lines)}
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
        write_json(sweep.folder / SWEEP, {"swept": sweep.swept, "overrides": list(sweep.overrides)})
        tracking = OmegaConf.to_container(config.tracking, resolve=True)
        _under_way = Launched(sweep, {str(key): value for key, value in dict(tracking).items()})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Launched:
    """The sweep that this process launched, and its tracking, plain."""

    sweep: Sweep
    tracking: Mapping[str, Any]


_under_way: Launched | None = None


def sweep_under_way() -> Launched | None:
    """``None`` where the command is no sweep."""
    return _under_way


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
    single = dict(_parsed(task))
    if arms := _arms_of(config.hydra):
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


def _arms_of(hydra: Any) -> dict[str, list[str]]:
    """name -> overrides, of a study's sweeper; empty for any other."""
    arms = _as_written(hydra, "sweeper.arms") or {}
    for name, lines in arms.items():
        if isinstance(lines, str):
            raise StudyError(f"hydra.sweeper.arms.{name} is a list of overrides: write [{lines}]")
    return {str(name): [str(line) for line in lines or ()] for name, lines in arms.items()}


def _as_written(hydra: Any, key: str) -> Any:
    """Plain, with its interpolations as they are: ``${seed}`` in an arm means each job's own."""
    node = OmegaConf.select(hydra, key)
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def refuse_study() -> None:
    """A study whose sweeper isn't at work would be one run of its baseline, and look as if it were done.

    Raises:
        StudyError: where the command names a study without ``-m``, or several, and its task would do a job's work.
    """
    hydra = HydraConfig.get()
    arms, name = _arms_of(hydra), hydra.runtime.choices.get("experiment")
    if not arms or hydra.runtime.choices.get("task") not in _WORKS:
        return
    if hydra.mode != RunMode.MULTIRUN:
        words = " ".join(["python run.py -m", *map(quoted, hydra.overrides.task)])
        raise StudyError(
            f"{name} is a study, and a study is a sweep: add -m ({words}); "
            f"arm=... ({', '.join(arms)}) and seed=... choose some of its jobs"
        )
    if ARM not in dict(_parsed(hydra.overrides.task)):
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


def _parsed(overrides: Iterable[str]) -> list[tuple[str, str]]:
    """(key, value as written) of each."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    found = OverridesParser.create().parse_overrides(list(overrides))
    return [(one.key_or_group, one.input_line.partition("=")[2] if one.input_line else "") for one in found]


def settings_of(config: Mapping[str, Any], behind: Mapping[str, str] | None = None) -> str:
    """By which equal jobs are known: a fingerprint of what their results follow from: settings, code, files."""
    settings = {key: value for key, value in config.items() if key not in _INCIDENTAL}
    return fingerprint(settings | ({"behind": dict(behind)} if behind else {}))


@dataclass(frozen=True)
class JobUnderWay:
    """The job that this process works on, as Hydra describes it."""

    sweep: Path
    folder: Path
    choices: Mapping[str, str]
    fixed: Sequence[str]

    @classmethod
    def current(cls) -> JobUnderWay | None:
        """``None`` where the command is no sweep."""
        hydra = HydraConfig.get()
        if hydra.mode != RunMode.MULTIRUN:
            return None
        excluded = set(hydra.job.config.override_dirname.exclude_keys)
        lines = list(_as_written(hydra, "overrides.task"))
        arms = _arms_of(hydra)
        given = dict(_parsed(lines)).get(ARM, "")
        lines = [line for line in lines if line not in arms.get(given, ())]  # the arm's name says them
        parsed = list(zip(lines, _parsed(lines), strict=True))
        choices = {key: value for _, (key, value) in parsed if key not in excluded}
        fixed = [line for line, (key, _) in parsed if key in excluded]
        return cls(Path(hydra.sweep.dir), Path(hydra.runtime.output_dir), choices, fixed)

    def carry_out(
        self,
        config: Mapping[str, Any],
        work: Callable[[], float | None],
        explain: Callable[[BaseException], str | None],
        behind: Mapping[str, str] | None = None,
    ) -> float | None:
        """Do ``work`` unless it was done with these settings; its failure is written down, and ``None`` returned.

        Args:
            config: of the job, plain.
            work: returns the job's score.
            explain: an error in a few lines, ``None`` for one that its traceback explains best.
            behind: digests of code and files that it uses: once one has changed, the job is no longer finished.
        """
        settings = settings_of(config, behind)
        done, score = self._done(settings)
        if done:
            _log.info("%s: finished before", self.folder.name)
            return score
        if (twin := self._twin(config.get("paths"), settings)) is not None:
            _log.info("%s: the same job is finished in %s; what it made is taken over", self.folder.name, twin)
            return self._take_over(twin, explain)
        began = time.time()
        common = {"choices": dict(self.choices), "fixed": list(self.fixed), "settings": settings, "started": began}
        with _at_work(self.folder) as free:
            if not free:
                _log.error("%s: another command works on this job; it is left alone", self.folder.name)
                return None
            (self.folder / FAILURE).unlink(missing_ok=True)
            write_json(self.folder / JOB, {"status": "running", **common})
            try:
                score = work()
            except Exception as error:
                ended = self._failure(error, explain) | {"seconds": round(time.time() - began, 1)}
                write_json(self.folder / JOB, {**ended, **common})
                return None
            results = [name for name in _RESULTS if (self.folder / name).is_file()]
            ended = {"status": "finished", "score": score, "seconds": round(time.time() - began, 1), "results": results}
            write_json(self.folder / JOB, {**ended, **common})
        return score

    def _twin(self, paths: Mapping[str, str] | None, settings: str) -> Path | None:
        """The job to take over from, if there is one and nothing was made here yet."""
        if not paths or not self._untouched(settings):
            return None
        return _finished_elsewhere(Path(paths["outputs"]), settings, self.folder)

    def _failure(self, error: Exception, explain: Callable[[BaseException], str | None]) -> dict[str, Any]:
        """Status and cause; the traceback goes to ``failure.txt``."""
        said = explain(error) or f"{type(error).__name__}: {error}"
        (self.folder / FAILURE).write_text(traceback.format_exc(), encoding="utf-8")
        _log.error("%s failed: %s", self.folder.name, said)
        return {"status": "failed", "cause": said}

    def _take_over(self, twin: Path, explain: Callable[[BaseException], str | None]) -> float | None:
        """The results of a job that was the same but for its name: linked where nothing is ever written again."""
        stored: dict[str, Any] = json.loads((twin / JOB).read_text())
        with _at_work(self.folder) as free:
            if not free:
                _log.error("%s: another command works on this job; it is left alone", self.folder.name)
                return None
            (self.folder / FAILURE).unlink(missing_ok=True)
            own = {"choices": dict(self.choices), "fixed": list(self.fixed), "taken_from": str(twin)}
            write_json(self.folder / JOB, {**stored, **own, "status": "running"})
            try:
                take_over(twin, self.folder)
            except OSError as error:
                write_json(self.folder / JOB, {**stored, **own, **self._failure(error, explain)})
                return None
            write_json(self.folder / JOB, {**stored, **own})
        score: float | None = stored.get("score")
        return score

    def _untouched(self, settings: str) -> bool:
        """Whether nothing was made here, but by a transfer of the same settings' results that was cut off.

        A job that has work of its own goes on with it: a twin's files among its own would be of two runs, or, where
        the settings were others, of two experiments.
        """
        try:
            stored = json.loads((self.folder / JOB).read_text())
        except (OSError, ValueError):
            stored = {}
        cut_off = "taken_from" in stored and stored.get("settings") == settings
        return cut_off or not any(made(self.folder))

    def _done(self, settings: str) -> tuple[bool, float | None]:
        """Whether the job is finished with these settings and its results are there still; its score."""
        try:
            stored = json.loads((self.folder / JOB).read_text())
        except (OSError, ValueError):
            return False, None
        done = stored["status"] == "finished" and stored["settings"] == settings
        there = all((self.folder / name).is_file() for name in stored.get("results", ()))
        return done and there, stored.get("score")


def _finished_elsewhere(outputs: Path, settings: str, own: Path) -> Path | None:
    """A finished job of any sweep there with these settings: studies have arms in common, the baseline above all."""
    for path in sorted(outputs.glob(f"*-sweep/*/{JOB}")):
        try:
            stored = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if path.parent.resolve() == own.resolve() or stored.get("status") != "finished":
            continue
        there = all((path.parent / name).is_file() for name in stored.get("results", ()))
        if stored.get("settings") == settings and there:
            return path.parent
    return None


@contextmanager
def _at_work(folder: Path) -> Iterator[bool]:
    """Hold ``<folder>/.job``, by which others see that the job is at work; ``False`` where somebody else holds it."""
    with (folder / ".job").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _free(folder: Path) -> bool:
    with _at_work(folder) as free:
        return free


def close_sweep(launched: Launched) -> int:
    """The table of all jobs and what failed, on screen and in the sweep's folder; the exit status of the command."""
    from rearank.tasks.collect import CollectError, collect, track_sweep
    from rearank.tasks.report import report_of_sweep

    sweep = Sweep.read(launched.sweep.folder)
    jobs = sweep.jobs()
    try:
        summary = collect(sweep)
        if summary["arms"]:
            track_sweep(sweep, summary, launched.tracking)
    except CollectError as error:
        print(f"no table: {error}", file=sys.stderr)
    report_of_sweep(sweep.folder, [job.folder for job in jobs if job.status == "finished"])
    failed = [job for job in jobs if job.failed]
    for line in failure_lines(jobs):
        print(line, file=sys.stderr)
    return 1 if failed else 0


def failure_lines(jobs: Sequence[Job]) -> list[str]:
    """What failed, why, and the command that runs it again alone."""
    failed = [job for job in jobs if job.failed]
    if not failed:
        return []
    lines = [f"\n{len(failed)} of {len(jobs)} jobs failed; the same command runs them again, and only them. One alone:"]
    alike: dict[str, list[Job]] = {}
    for job in failed:  # what a machine lacks, every job says: once is enough
        alike.setdefault(job.cause.replace(str(job.folder), "its folder"), []).append(job)
    for job, *others in alike.values():
        trace = f" ({path})" if (path := job.folder / FAILURE).is_file() else ""
        lines += [f"  {job.folder.name}: {job.cause}{trace}", f"    {job.command}"]
        if others:
            names = ", ".join(other.folder.name for other in others)
            lines.append(f"  and for the same reason: {names}")
    return lines


def quoted(word: str) -> str:
    """For a shell."""
    import shlex

    return shlex.quote(word)


def _in_quotes(text: str) -> str:
    """For Hydra's grammar of overrides."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def score_of(folder: Path) -> float | None:
    """What a job came to, the larger the better: the average of its benchmarks, or its training's validation nDCG.

    On a benchmark it is the main measure of the trained system, or of the model where nothing was trained.
    """
    scores = []
    for place in sorted(folder.glob("evaluation/*/")):
        found = {path.parent.name: json.loads(path.read_text()) for path in place.glob("*/metrics.json")}
        if (name := measured_by(found)) is not None:
            scores.append(found[name]["mean"][found[name]["measures"][0]])
    if scores:
        return float(sum(scores) / len(scores))
    path = folder / "training" / "result.json"
    best = json.loads(path.read_text())["best_ndcg"] if path.is_file() else None
    return None if best is None else float(best)


UNTRAINED, SAMPLED, TUNED = ("base", "scripted"), "base_sampled", "sft"
ON_ITS_WAY = "_step"
"""In the name of a checkpoint that is not the training's result: ``grpo_step10``."""
_ASIDE = re.compile(r"\.\d+$")  # what other settings made, moved aside


def measured_by(systems: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The system that a job stands for: the checkpoint trained last (RL after SFT), or the model as it is.

    ``systems`` maps names to the content of their ``metrics.json``.
    """
    names = [name for name, found in systems.items() if found.get("role") == "system" and not _ASIDE.search(name)]
    trained = [name for name in names if name not in (*UNTRAINED, SAMPLED) and ON_ITS_WAY not in name]
    trained.sort(key=lambda name: name == TUNED)
    return next(iter([*trained, *(name for name in UNTRAINED if name in names)]), None)
