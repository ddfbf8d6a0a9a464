"""A run's folder, read: what was measured, how training went, what was analysed and with what settings.

The only reader of output folders: report, compare, collect, sweeps' scores and the studies all go through it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from rearank.evaluation import JUDGED
from rearank.runs.layout import (
    ANALYSED,
    ANALYSIS,
    ENGINE,
    ENVIRONMENT,
    EVALUATION,
    JOB,
    METRICS,
    QUERIES,
    RERANKED,
    RESULT,
    RUN,
    SETTINGS,
    SFT,
    SHORT_ANALYSIS,
    SUMMARY,
    TRAINING,
    read_json,
    set_aside,
)
from rearank.runs.seal import damaged
from rearank.tracking import read_jsonl

FIRST, SYSTEM, IDEAL = "first stage", "system", "ideal"
"""Roles: what was retrieved, what reranked it, and the best order of its candidates."""
UNTRAINED = ("base", "base_sampled", "scripted")
"""Names of systems that no training of the run's own has touched."""
TUNED, ON_ITS_WAY = "sft", "_step"
"""The fine-tuned model; in the name of a checkpoint that isn't the training's result: ``grpo_step10``."""
_NO_ARM = ("seed", "benchmark")  # swept, but no arm: seeds are pooled, benchmarks have tables of their own
_STEP = re.compile(rf"(.+){ON_ITS_WAY}(\d+)")
_JOBS = {TRAINING: "train", SFT: "sft"}
_ORDER = {FIRST: 0, SYSTEM: 1, IDEAL: 2}


class FolderError(ValueError):
    """A folder, or a file in it, that isn't what a run writes; the message names it."""


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
    place: Path
    published: Mapping[str, Any] | None = None
    judged: Mapping[str, float] = field(default_factory=dict)
    """query id -> share of its first 10 that is judged; empty where an earlier version measured."""
    note: str = ""
    """What is to be known before its numbers are believed: most of its answers were unread."""

    @property
    def failed(self) -> int:
        """Queries without a ranking."""
        return int(self.calls.get("failed", 0))

    @property
    def measure(self) -> str:
        """The main one."""
        return next(iter(self.values), "")

    @property
    def main(self) -> Mapping[str, float]:
        """query id -> value of the main measure."""
        return self.values.get(self.measure, {})

    @property
    def mean(self) -> float:
        """Of the main measure."""
        return fmean(self.main.values()) if self.main else math.nan

    @property
    def run_files(self) -> list[Path]:
        """TREC runs; one for each sample."""
        samples = sorted(self.place.glob("run-*.trec"), key=lambda path: int(path.stem.partition("-")[2]))
        return [self.place / RUN] if (self.place / RUN).is_file() else samples


@dataclass(frozen=True)
class Arm:
    """What a job of a sweep tries, its seed left out: equal ones are seeds of one thing.

    ``changes`` are the overrides that it has besides the sweep's own.
    """

    sweep: str
    label: str
    changes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class RunFolder:
    """Everything of one run. ``curves``: job (``train``, ``sft``) -> logged lines."""

    label: str
    path: Path
    systems: tuple[Evaluated, ...] = ()
    queries: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """benchmark -> query id -> text."""
    curves: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings it was trained with."""
    result: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    analysis: Mapping[str, Any] = field(default_factory=dict)
    reranked: Mapping[str, Any] = field(default_factory=dict)
    """Summary of what ``task=rerank`` wrote."""
    known: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """benchmark -> where it is from -> BM25's known nDCG@10."""
    arm: Arm | None = None
    """``None`` for what is no job of a sweep, or was given a label of its own."""
    seed: str = ""

    @property
    def empty(self) -> bool:
        """Nothing was trained, evaluated, reranked or analysed here."""
        return not (self.systems or self.curves or self.analysis or self.reranked)


def marked(label: str, failed: int) -> str:
    """A system's label in a table: it says where queries failed."""
    return f"{label} ({failed} failed)" if failed else label


def labelled(given: str) -> tuple[str | None, Path]:
    """``label=path``; labels and folders of a sweep may have ``=`` in them: what exists is the path."""
    parts = given.split("=")
    splits = [("=".join(parts[:n]), Path("=".join(parts[n:]))) for n in range(len(parts))]
    label, path = next((one for one in splits if one[1].exists()), splits[min(1, len(splits) - 1)])
    return label or None, path


def read_folder(path: Path, label: str | None = None) -> RunFolder:
    """The run in ``path``; a sweep's job is named after what it tries.

    Raises:
        FolderError: where there is no such folder, or a file in it isn't ours.
    """
    if not path.is_dir():
        raise FolderError(f"{path}: there is no such folder")
    systems = read_systems(path)
    try:
        parts = _parts(read_json(path / SUMMARY), {one.benchmark for one in systems})
        known = {name: {**part.get("known", {})} for name, part in parts.items()}
        systems = [
            replace(one, published=parts.get(one.benchmark, {}).get("published", {}).get(one.name)) for one in systems
        ]
    except (AttributeError, TypeError) as error:
        raise FolderError(
            f"{path / SUMMARY}: is not what task=evaluate writes ({error!r}); evaluate again, or move it away"
        ) from error
    curves = {job: read_jsonl(path / folder / f"{job}.jsonl") for folder, job in _JOBS.items()}
    overrides = _overrides(path / ".hydra" / "overrides.yaml")
    arm, name, seed = _arm(path, read_json(path / JOB) if label is None else {}, overrides)
    return RunFolder(
        label or name or path.resolve().name,
        path,
        tuple(systems),
        {file.parent.name: read_json(file) for file in sorted(path.glob(f"{EVALUATION}/*/{QUERIES}"))},
        {job: lines for job, lines in curves.items() if lines},
        next((one for name in (TRAINING, SFT, RERANKED) if (one := read_json(path / name / SETTINGS))), {}),
        read_json(path / TRAINING / RESULT) or read_json(path / SFT / RESULT),
        systems[0].environment
        if systems
        else read_json(path / ENVIRONMENT) or read_json(path / RERANKED / ENVIRONMENT),
        overrides,
        analysis_since(path, max(_began(path / SFT), _began(path / TRAINING))),
        read_json(path / RERANKED / SUMMARY),
        known,
        arm,
        seed,
    )


def analysis_since(path: Path, began: str) -> dict[str, Any]:
    """A run's fullest analysis that was begun at ``began`` (ISO 8601) or later; empty where there is none.

    One from before a training is of other weights.
    """
    for name in (ANALYSIS, SHORT_ANALYSIS):
        folder = path / name
        if _began(folder) >= began and (found := read_json(folder / ANALYSED)):
            return found
    return {}


def _began(stage: Path) -> str:
    """When it was opened first; empty where nothing says so."""
    return str(read_json(stage / ENVIRONMENT).get("time", ""))


def read_systems(path: Path) -> list[Evaluated]:
    """Every system that was measured in a run's folder, or in a folder inside its ``evaluation``; in table order.

    What was moved aside is left out. Raises ``FolderError`` for a file that ``task=evaluate`` doesn't write.
    """
    patterns = (METRICS, f"*/{METRICS}", f"*/*/{METRICS}", f"{EVALUATION}/*/*/{METRICS}")
    files = {file for pattern in patterns for file in path.glob(pattern)}
    places = sorted(file.parent for file in files if not set_aside(file.parent))
    systems = [_read_system(place) for place in places]
    return sorted(systems, key=lambda one: (one.benchmark, _ORDER.get(one.role, 1), rank(one.name)))


def rank(name: str) -> tuple[int, str, float]:
    """The model as it was first, then its samples, then what was fine-tuned, then what was trained, step by step."""
    trained, step = on_its_way(name) or (name, math.inf)
    return {"base": 0, "base_sampled": 1, TUNED: 2}.get(name, 3), trained, step


def on_its_way(name: str) -> tuple[str, int] | None:
    """System and step of a checkpoint that isn't the training's result, ``grpo_step6``; ``None`` for any other."""
    found = _STEP.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def stands_for(systems: Sequence[Evaluated]) -> Evaluated | None:
    """The system a run stands for on a benchmark: the checkpoint trained last (RL after SFT), or the model as it is.

    Args:
        systems: of one benchmark.
    """
    named = {one.name: one for one in systems if one.role == SYSTEM}
    trained = [name for name in named if name not in UNTRAINED and on_its_way(name) is None]
    trained.sort(key=lambda name: name == TUNED)
    untrained = (name for name in UNTRAINED if name in named and name != "base_sampled")
    return next((named[name] for name in (*trained, *untrained)), None)


def score_of(path: Path) -> float | None:
    """What a job came to, the larger the better: the average of its benchmarks, or its training's validation nDCG.

    On a benchmark it is the main measure of the system that the run stands for.
    """
    scores = [one.mean for group in by_benchmark(read_systems(path)).values() if (one := stands_for(group)) is not None]
    if scores:
        return fmean(scores)
    best = read_json(path / TRAINING / RESULT).get("best_ndcg")
    return None if best is None else float(best)


def by_benchmark(systems: Sequence[Evaluated]) -> dict[str, list[Evaluated]]:
    """Benchmark -> its systems, in their order."""
    found: dict[str, list[Evaluated]] = {}
    for one in systems:
        found.setdefault(one.benchmark, []).append(one)
    return found


def _read_system(place: Path) -> Evaluated:
    again = f"evaluate again, or move {place} away"
    if found := damaged(place):
        raise FolderError(f"{found[0]}; {again}")
    content = read_json(place / METRICS)
    try:
        measures = content.get("measures", list(content["per_query"]))
        return Evaluated(
            place.name,
            str(content.get("system", place.name)),
            str(content.get("role", IDEAL if place.name == IDEAL else SYSTEM)),
            str(content["benchmark"]),
            {measure: _finite(content["per_query"][measure]) for measure in measures},
            {**content.get("interval_95", {})},
            {**content.get("calls", {})},
            read_json(place / SETTINGS),
            read_json(place / ENVIRONMENT),
            read_json(place / ENGINE) or None,
            place,
            judged=_finite(content.get("judged_per_query", {}).get(JUDGED, {})),
            note=str(content.get("note", "")),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FolderError(f"{place / METRICS}: is not what task=evaluate writes ({error!r}); {again}") from error


def _finite(values: Mapping[str, float]) -> Mapping[str, float]:
    """JSON files may hold NaN, which would pass into every mean."""
    if odd := [query for query, value in values.items() if not math.isfinite(value)]:
        raise ValueError(f"query {odd[0]!r}: {values[odd[0]]}")
    return values


def _parts(summary: Mapping[str, Any], benchmarks: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
    """benchmark -> its part of the summary. One benchmark's doesn't say its name, so it must be the only one."""
    if "benchmarks" in summary:
        found: Mapping[str, Mapping[str, Any]] = summary["benchmarks"]
        return found
    return dict.fromkeys(benchmarks, summary) if summary and len(benchmarks) == 1 else {}


def _overrides(path: Path) -> tuple[str, ...]:
    """Hydra's list of what was given on the command line."""
    try:
        found = yaml.safe_load(path.read_bytes()) if path.is_file() else None
    except yaml.YAMLError as error:
        cause = str(error).partition("\n")[0]
        raise FolderError(
            f"{path}: can't be parsed ({cause}); run the folder's command again, which writes it"
        ) from error
    return tuple(str(one) for one in found) if isinstance(found, list) else ()


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
