"""A job of a sweep, from inside: done before, taken over from an equal one, done now, or failed and written down.

``<sweep>/<job>/job.json`` says how a job ended. A finished one returns at once when the command is given again, and a
failed one leaves ``failure.txt`` and stops no other.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from rearank.runs.layout import (
    DISTILLED,
    FAILURE,
    GATE,
    JOB,
    PREPARED,
    RESULT,
    SFT,
    SUMMARY,
    TRAINING,
    read_json,
    write_json,
)
from rearank.runs.sharing import fingerprint, made, take_over
from rearank.runs.sweeps import at_work
from rearank.tasks.sweep.plan import ARM, arms_of, as_written, parsed

_RESULTS = (
    *(SUMMARY, GATE, f"{TRAINING}/{RESULT}", f"{SFT}/{RESULT}", f"{DISTILLED}/{SUMMARY}", f"{PREPARED}/{SUMMARY}"),
)
_log = logging.getLogger(__name__)


def settings_of(config: Mapping[str, Any], digests: Mapping[str, str] | None = None) -> str:
    """By which equal jobs are known: a fingerprint of what their results depend on: settings, code, files."""
    return fingerprint({**config, **({"behind": dict(digests)} if digests else {})})


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
        lines = list(as_written(hydra, "overrides.task"))
        arms = arms_of(hydra)
        given = dict(parsed(lines)).get(ARM, "")
        lines = [line for line in lines if line not in arms.get(given, ())]  # the arm's name says them
        pairs = list(zip(lines, parsed(lines), strict=True))
        choices = {key: value for _, (key, value) in pairs if key not in excluded}
        fixed = [line for line, (key, _) in pairs if key in excluded]
        return cls(Path(hydra.sweep.dir), Path(hydra.runtime.output_dir), choices, fixed)

    def carry_out(
        self,
        config: Mapping[str, Any],
        work: Callable[[], float | None],
        explain: Callable[[BaseException], str | None],
        digests: Mapping[str, str] | None = None,
    ) -> float | None:
        """Do ``work`` unless it was done with these settings; its failure is written down, and ``None`` returned.

        Args:
            config: of the job, plain.
            work: returns the job's score.
            explain: an error in a few lines, ``None`` for one that its traceback explains best.
            digests: of code and files that it uses: once one has changed, the job is no longer finished.
        """
        settings = settings_of(config, digests)
        done, score = self._done(settings)
        if done and not config.get("rerun"):
            _log.info("%s: finished before", self.folder.name)
            return score
        if not config.get("rerun") and (twin := self._twin(config.get("paths"), settings)) is not None:
            _log.info("%s: the same job is finished in %s; what it made is taken over", self.folder.name, twin)
            return self._take_over(twin, explain)
        began = time.time()
        common = {"choices": dict(self.choices), "fixed": list(self.fixed), "settings": settings, "started": began}
        with at_work(self.folder) as free:
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
        cause = explain(error) or f"{type(error).__name__}: {error}"
        (self.folder / FAILURE).write_text(traceback.format_exc(), encoding="utf-8")
        _log.error("%s failed: %s", self.folder.name, cause)
        return {"status": "failed", "cause": cause}

    def _take_over(self, twin: Path, explain: Callable[[BaseException], str | None]) -> float | None:
        """The results of a job that was the same but for its name: linked where nothing is ever written again."""
        stored = read_json(twin / JOB)
        with at_work(self.folder) as free:
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
        stored = read_json(self.folder / JOB)
        cut_off = "taken_from" in stored and stored.get("settings") == settings
        return cut_off or not any(made(self.folder))

    def _done(self, settings: str) -> tuple[bool, float | None]:
        """Whether the job is finished with these settings and its results are there still; its score."""
        stored = read_json(self.folder / JOB)
        done = stored.get("status") == "finished" and stored["settings"] == settings
        there = all((self.folder / name).is_file() for name in stored.get("results", ()))
        return done and there, stored.get("score")


def _finished_elsewhere(outputs: Path, settings: str, own: Path) -> Path | None:
    """A finished job of any sweep there with these settings: studies have arms in common, the baseline above all."""
    for path in sorted(outputs.glob(f"*-sweep/*/{JOB}")):
        stored = read_json(path)
        if path.parent.resolve() == own.resolve() or stored.get("status") != "finished":
            continue
        there = all((path.parent / name).is_file() for name in stored.get("results", ()))
        if stored.get("settings") == settings and there:
            return path.parent
    return None
