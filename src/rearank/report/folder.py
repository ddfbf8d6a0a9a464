"""A run's folder, read: what was measured, how training went, what was analysed and with what settings.

The names of files are those that ``task=evaluate``, ``train`` and ``analyse`` write.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rearank.data.trec import read_run
from rearank.tracking import read_jsonl

FIRST, SYSTEM, IDEAL = "first stage", "system", "ideal"
UNTRAINED = ("base", "base_sampled", "scripted")
"""Names of systems that no training of the run's own has touched."""
STORE = "completions.sqlite"
_JOB = "job.json"
_NO_ARM = ("seed", "benchmark")  # swept, but no arm: seeds are put together, benchmarks have tables of their own
_ASIDE = re.compile(r"\.\d+$")  # what other settings made, moved aside
_STEP = re.compile(r"(.+)_step(\d+)")
_JOBS = {"training": "train", "sft": "sft"}


class ReportError(ValueError):
    """A report that can't be made; the message names the folder and the remedy."""


@dataclass(frozen=True)
class Evaluated:
    """One system on one benchmark, as its folder has it.

    ``values``: measure -> query id -> value, the main measure first. ``answers`` is how its answers are found in the
    completions store (``engine.json``), ``None`` for what asked no model; ``published`` the number printed for it.
    """

    name: str
    label: str
    role: str
    benchmark: str
    values: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, tuple[float, float]]
    calls: Mapping[str, float]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    answers: Mapping[str, Any] | None
    published: Mapping[str, Any] | None
    place: Path

    def rankings(self) -> list[dict[str, list[str]]]:
        """query id -> passage ids, best first; one for each sample."""
        files = [self.place / "run.trec"] if (self.place / "run.trec").is_file() else []
        files = files or sorted(self.place.glob("run-*.trec"), key=lambda path: int(path.stem.partition("-")[2]))
        return [{query: [passage for passage, _ in rows] for query, rows in read_run(file).items()} for file in files]


@dataclass(frozen=True)
class Arm:
    """What a job of a sweep tries, its seed left out: equal ones are seeds of one thing.

    ``changes`` are the overrides that it has beside the sweep's own.
    """

    sweep: str
    label: str
    changes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class RunFolder:
    """Everything of one run that a report shows. ``curves``: job (``train``, ``sft``) -> logged lines."""

    label: str
    path: Path
    systems: tuple[Evaluated, ...] = ()
    queries: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    curves: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings it was trained with."""
    result: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    analysis: Mapping[str, Any] = field(default_factory=dict)
    known: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """benchmark -> where it is from -> BM25's known nDCG@10."""
    arm: Arm | None = None
    """``None`` for what is no job of a sweep, or was given a label of its own."""
    seed: str = ""


def labelled(given: str) -> tuple[str | None, Path]:
    """``label=path``; labels and folders of a sweep may have ``=`` in them: what exists is the path."""
    parts = given.split("=")
    splits = [("=".join(parts[:n]), Path("=".join(parts[n:]))) for n in range(len(parts))]
    label, path = next((one for one in splits if one[1].exists()), splits[min(1, len(splits) - 1)])
    return label or None, path


def read_folder(path: Path, label: str | None = None) -> RunFolder:
    """The run in ``path``; a sweep's job is named after what it tries.

    Raises:
        ReportError: where nothing was trained, measured or analysed there.
    """
    if not path.is_dir():
        raise ReportError(f"report.runs: {path}: there is no such folder")
    places = sorted(
        file.parent for file in path.glob("evaluation/*/*/metrics.json") if not _ASIDE.search(file.parent.name)
    )
    parts = _parts(_json(path / "summary.json"), {place.parent.name for place in places})
    systems = [_read_system(place, parts) for place in places]
    systems.sort(key=lambda one: (one.benchmark, _ORDER.get(one.role, 1), one.role == SYSTEM and rank(one.name)))
    curves = {job: read_jsonl(path / folder / f"{job}.jsonl") for folder, job in _JOBS.items()}
    curves = {job: lines for job, lines in curves.items() if lines}
    analysis = _json(path / "analysis" / "analysis.json")
    if not systems and not curves and not analysis:
        raise ReportError(f"report.runs: {path}: nothing was trained, evaluated or analysed here")
    overrides = _overrides(path / ".hydra" / "overrides.yaml")
    job = _json(path / _JOB) if label is None else {}
    arm, name, seed = _arm(path, job, overrides)
    return RunFolder(
        label or name or path.resolve().name,
        path,
        tuple(systems),
        {file.parent.name: _json(file) for file in sorted(path.glob("evaluation/*/queries.json"))},
        curves,
        _json(path / "training" / "settings.json") or _json(path / "sft" / "settings.json"),
        _json(path / "training" / "result.json") or _json(path / "sft" / "result.json"),
        systems[0].environment if systems else _json(path / "environment.json"),
        overrides,
        analysis,
        {name: part.get("known", {}) for name, part in parts.items()},
        arm,
        seed,
    )


def _arm(path: Path, job: Mapping[str, Any], overrides: Sequence[str]) -> tuple[Arm | None, str, str]:
    """The arm of a sweep's ``job.json``, what to call the job, and its seed; a study's arms have names already."""
    choices = {str(key): str(value) for key, value in job.get("choices", {}).items()}
    seed, benchmark = choices.get("seed", ""), choices.get("benchmark", "")
    tried = [value if key == "arm" else f"{key}={value}" for key, value in choices.items() if key not in _NO_ARM]
    if not tried and not seed:
        return None, "", ""
    apart = {*map(str, job.get("fixed", ())), *(f"{key}={choices[key]}" for key in ("arm", *_NO_ARM) if key in choices)}
    changes = tuple(one for one in overrides if one not in apart)
    named = ", ".join([*tried, *([f"seed {seed}"] if seed else []), *([benchmark] if benchmark else [])])
    return Arm(str(path.resolve().parent), ", ".join(tried) or "all seeds", changes), named, seed


_ORDER = {FIRST: 0, SYSTEM: 1, IDEAL: 2}


def rank(name: str) -> tuple[int, str, float]:
    """The model as it was first, then its samples, then what was fine-tuned, then what was trained, step by step."""
    trained, step = on_its_way(name) or (name, math.inf)
    return {"base": 0, "base_sampled": 1, "sft": 2}.get(name, 3), trained, step


def on_its_way(name: str) -> tuple[str, int] | None:
    """System and step of a checkpoint that is not the training's result, ``grpo_step6``; ``None`` for any other."""
    found = _STEP.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def _read_system(place: Path, parts: Mapping[str, Mapping[str, Any]]) -> Evaluated:
    content = _json(place / "metrics.json")
    try:
        benchmark = str(content["benchmark"])
        return Evaluated(
            place.name,
            str(content["system"]),
            str(content.get("role", SYSTEM)),
            benchmark,
            content["per_query"],
            content["interval_95"],
            content.get("calls", {}),
            _json(place / "settings.json"),
            _json(place / "environment.json"),
            _json(place / "engine.json") or None,
            parts.get(benchmark, {}).get("published", {}).get(place.name),
            place,
        )
    except (KeyError, TypeError) as error:
        raise ReportError(
            f"{place / 'metrics.json'}: is not what task=evaluate writes ({error!r}); evaluate again"
        ) from error


def _parts(summary: Mapping[str, Any], benchmarks: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
    """benchmark -> its part of the summary. One benchmark's doesn't say its name, so it must be the only one."""
    if "benchmarks" in summary:
        found: Mapping[str, Mapping[str, Any]] = summary["benchmarks"]
        return found
    return dict.fromkeys(benchmarks, summary) if summary and len(benchmarks) == 1 else {}


def _json(path: Path) -> dict[str, Any]:
    """The file's object; empty where there is none, and for one cut short by a kill."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _overrides(path: Path) -> tuple[str, ...]:
    """Hydra's list of what was given on the command line: a YAML list of strings."""
    if not path.is_file():
        return ()
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(OmegaConf.load(path))
    return tuple(str(one) for one in found) if isinstance(found, list) else ()
