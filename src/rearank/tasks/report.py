"""``task=report``: what a run, or several, came to, as one HTML file to look at.

``<output_dir>/report.html`` holds everything it needs and opens from disk; ``<output_dir>/figures/`` has the same
figures as PNG and SVG. The same folders give the same bytes. No model is asked and none is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import OmegaConf

from rearank.choices import choose
from rearank.config import ConfigError, build
from rearank.data import DataError, JudgedCandidates
from rearank.engines import CompletionStore, StoreError
from rearank.evaluation import heading
from rearank.experiment import Run
from rearank.neutral import Reserving
from rearank.progress import progress
from rearank.report import Report, ReportError, render
from rearank.report.analyses import analyses
from rearank.report.curves import curves
from rearank.report.figures import draw_change, draw_curves, draw_statuses
from rearank.report.queries import Queries
from rearank.report.replay import RecordedAnswers, replay
from rearank.report.results import Side, arm_rows, comparisons, result_rows, seed_rows, sides, status_counts
from rearank.runs.layout import PAGE, STORE, SWEEP
from rearank.runs.reader import FIRST, IDEAL, Evaluated, FolderError, RunFolder, labelled, read_folder
from rearank.runs.sweeps import Sweep
from rearank.tasks.run_description import describe_run
from rearank.types import Sampling

_MEGABYTE = 1_000_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportTask:
    """Asks no model anything."""

    needs: ClassVar[tuple[str, ...]] = ()

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/report.html``."""
        print(f"\nthe report: {write_report(run.folder, run.experiment.report, run.cache)}", flush=True)


def report_at_end(folder: Path, settings: Report, cache: Path) -> Path | None:
    """The report of a run that has just done its work.

    One that fails is logged, and takes nothing of the run with it. ``None`` where none is written.
    """
    return _at_end(lambda: write_report(folder, settings, cache) if settings.write is True else None)


def report_of_sweep(folder: Path, jobs: Sequence[Path]) -> None:
    """As ``report_at_end``, of a sweep's finished jobs side by side; settings are the first job's."""

    def write() -> Path | None:
        config = OmegaConf.load(jobs[0] / ".hydra" / "config.yaml")
        settings: Report = build(OmegaConf.select(config, "report"), "report", stored=True)
        settings = replace(settings, title=settings.title or folder.name)
        cache = Path(str(OmegaConf.select(config, "paths.cache")))
        return make_report(folder, [(None, job) for job in jobs], settings, cache) if settings.write else None

    if jobs:
        _at_end(write)


def _at_end(write: Callable[[], Path | None]) -> Path | None:
    try:
        if (path := write()) is not None:
            print(f"the report: {path}", flush=True)
        return path
    except Exception as error:
        failed = "no report was written (%s: %s); the work itself is done, and task=report tries again"
        _log.error(failed, type(error).__name__, error)
        return None


def write_report(folder: Path, settings: Report, cache: Path) -> Path:
    """The page of ``settings.runs``, or of the run in ``folder``; written into ``folder``.

    Raises:
        ReportError: for a folder that holds no run.
    """
    given = [job for one in settings.runs for job in _jobs(*labelled(one))] or [(None, folder)]
    return make_report(folder, given, settings, cache)


def _jobs(label: str | None, path: Path) -> list[tuple[str | None, Path]]:
    """The finished jobs of a sweep's folder, whose labels are their own; any other folder is a run.

    Raises:
        ReportError: for a sweep without a finished job.
    """
    if not (path / SWEEP).is_file():
        return [(label, path)]
    jobs = [job.folder for job in Sweep.read(path).jobs() if job.status == "finished"]
    if not jobs:
        raise ReportError(f"report.runs: {path}: none of this sweep's jobs is finished")
    if label is not None:
        _log.warning("report.runs: %s is a sweep, whose jobs have names of their own: %s is left out", path, label)
    return [(None, job) for job in jobs]


def make_report(folder: Path, given: Sequence[tuple[str | None, Path]], settings: Report, cache: Path) -> Path:
    """The page of ``given``, (label, folder) each, and the figures, written into ``folder``.

    Args:
        folder: where ``report.html`` and ``figures/`` go.
        given: runs; a label of ``None`` is the folder's name.
        settings: of the report; its ``runs`` aren't looked at.
        cache: where BM25 indexes lie.

    Raises:
        ReportError: for a folder that holds no run.
    """
    runs = [read_run_folder(path, label) for label, path in given]
    groups = sides(runs)
    share = max(1, settings.full_text // max(len(groups), 1)) if settings.full_text else 0
    parts = [_queries(cache, settings, runs, name, group, share) for name, group in groups.items()]
    title = settings.title or _title(runs)
    data = _data(title, runs, groups, [note for part in parts for note in part.notes])
    page = _fitting(title, data, parts, settings, share)
    path = folder / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".partial")
    scratch.write_text(page, encoding="utf-8", newline="\n")
    scratch.replace(path)
    if settings.figures:
        _draw(data, groups, folder / "figures")
    return path


def read_run_folder(path: Path, label: str | None) -> RunFolder:
    """The run in ``path``; raises ``ReportError`` for a folder that holds none."""
    try:
        run = read_folder(path, label)
    except FolderError as error:
        raise ReportError(f"report.runs: {error}") from error
    if run.empty:
        raise ReportError(f"report.runs: {path}: nothing was trained, evaluated, reranked or analysed here")
    return run


def _title(runs: Sequence[RunFolder]) -> str:
    """The run's name, the sweep's, or how many there are."""
    if len(runs) == 1:
        return runs[0].label
    sweeps = {one.arm.sweep if one.arm else "" for one in runs}
    return Path(*sweeps).name if len(sweeps) == 1 and "" not in sweeps else f"{len(runs)} runs"


def _data(
    title: str, runs: Sequence[RunFolder], groups: Mapping[str, Sequence[Side]], notes: Sequence[str]
) -> dict[str, Any]:
    """What the page reads at once; the queries' own parts are read when they are looked at."""
    defaults, benchmarks = _defaults(), []
    for name, group in groups.items():
        measures = list(dict.fromkeys(measure for side in group for measure in side.system.values))
        known: dict[str, float] = {}
        for one in runs:
            known |= one.known.get(name, {})
        benchmarks.append(
            {
                "name": name,
                "measures": [{"key": measure, "label": heading(measure)} for measure in measures],
                "systems": result_rows(group),
                "tests": comparisons(name, group),
                "seeds": seed_rows(runs, name),
                "known": known,
            }
        )
    return {
        "title": title,
        "runs": [describe_run(one, defaults) for one in runs],
        "arms": arm_rows(runs),
        "benchmarks": benchmarks,
        "curves": curves(runs),
        "analyses": analyses(runs),
        "notes": list(notes),
    }


def _fitting(title: str, data: Mapping[str, Any], parts: Sequence[Queries], settings: Report, share: int) -> str:
    """The page within ``megabytes``: with fewer queries in full where it would be larger, then without figures."""
    while True:
        page = render(title, _blocks(data, parts))
        size = len(page.encode()) / _MEGABYTE
        if size <= settings.megabytes:
            return page
        if share == 0:
            note = f"figures of analyses are left out: with them the page would have {size:.1f} MB (report.megabytes)"
            small = {**data, "analyses": [{**one, "figures": []} for one in data["analyses"]]}
            return (
                render(title, _blocks({**small, "notes": [*data["notes"], note]}, parts)) if data["analyses"] else page
            )
        share = min(share - 1, int(share * 0.9 * settings.megabytes / size))
        _log.warning(
            "the report would be %.1f MB: %d queries of each benchmark are shown in full (report.megabytes, "
            "report.passage_characters)", size, share,
        )  # fmt: skip
        for part in parts:
            part.keep(part.changed_most(share))


def _blocks(data: Mapping[str, Any], parts: Sequence[Queries]) -> dict[str, Any]:
    blocks: dict[str, Any] = {"data": data}
    for number, part in enumerate(parts):
        blocks[f"queries-{number}"] = part.figures()
        blocks[f"passages-{number}"] = part.passages()
        blocks |= {f"query-{number}-{place}": detail for place, detail in part.details()}
    return blocks


def _queries(
    cache: Path,
    settings: Report,
    runs: Sequence[RunFolder],
    name: str,
    group: Sequence[Side],
    share: int,
) -> Queries:
    """One benchmark's queries, with what their windows were where that can be found again."""
    texts: dict[str, str] = {}
    for one in runs:
        texts |= one.queries.get(name, {})
    systems = [side.system for side in group]
    part = Queries(name, systems, texts, {}, settings.passage_characters)
    asked = [side for side in group if side.system.answers is not None]
    if not systems:
        return part
    try:
        part.judged = _judged(cache, (asked[0] if asked else group[0]).system)
    except (DataError, ConfigError, OSError) as error:
        part.notes.append(f"{name}: passages and windows aren't shown, the collection isn't at hand: {error}")
        return part
    full = frozenset(part.changed_most(share))
    for number, side in enumerate(group):
        if side.system.answers is not None:
            try:
                _replay(part, number, runs[side.runs[0]].path / STORE, full)
            except (StoreError, ConfigError, OSError, ValueError) as error:
                part.notes.append(f"{name}, {side.system.label}: its windows aren't shown: {error}")
        elif side.system.role not in (FIRST, IDEAL):
            part.notes.append(
                f"{name}, {side.system.label}: its windows aren't shown: evaluate again to record its engine"
            )
    return part


def _judged(cache: Path, system: Evaluated) -> dict[str, JudgedCandidates]:
    """The candidates that ``system`` was given, with their grades."""
    if "benchmark" not in system.settings:
        raise ConfigError(f"{system.place / 'settings.json'} doesn't say which; evaluate again")
    benchmark = build(system.settings["benchmark"], "benchmark", stored=True)
    if hasattr(benchmark.retriever, "cache_dir"):  # where an index lies is no setting of a result
        benchmark = replace(benchmark, retriever=replace(benchmark.retriever, cache_dir=str(cache)))
    with progress(f"report: {benchmark.name}, first stage"):
        return {item.candidates.query.id: item for item in benchmark.judged()}


def _replay(part: Queries, number: int, store_path: Path, full: frozenset[str]) -> None:
    system = part.systems[number]
    answers, settings = system.answers or {}, system.settings
    if not store_path.is_file():
        raise FileNotFoundError(f"{store_path} isn't there")
    prompt, strategy = (build(settings[key], key, stored=True) for key in ("prompt", "strategy"))
    depth = int(settings["benchmark"]["depth"])
    work = [item.candidates.top(depth) for item in part.judged.values() if item.candidates.passages]
    samplings = [Sampling(**one) for one in answers["samplings"]]
    store = CompletionStore(store_path)
    try:
        engine = RecordedAnswers(answers["identity"], store, _tokenizer(prompt, answers))
        on_done = part.collects(number, full, letters=prompt.labels == "letters")
        with progress(f"report: {part.benchmark}, {system.label}"):
            replay(work, strategy, prompt, engine, samplings, on_done)
    finally:
        store.close()


def _tokenizer(prompt: Any, answers: Mapping[str, Any]) -> Any:
    """A whole one only where a prompt needs it to cut or neutralise; else what it neutralises of the model's tokens."""
    reserved = answers.get("reserved")
    if getattr(prompt, "max_tokens", None) is None and not (reserved or {}).get("pieces"):
        return Reserving.of(reserved)
    from rearank.training.local import load_tokenizer

    return load_tokenizer(answers["model"], answers["revision"])


def _defaults() -> Mapping[str, Any]:
    """The default config's nodes, which settings are held against."""
    with suppress(ConfigError):
        return choose(_GROUPS, {}).nodes
    return {}


_GROUPS = (
    *("model", "augmentation", "reward", "prompt", "algorithm", "trainer", "engine", "strategy", "prepare"),
    *("evaluation", "sft", "rerank"),
)


def _draw(data: Mapping[str, Any], groups: Mapping[str, Sequence[Side]], folder: Path) -> None:
    """What a paper needs."""
    draw_curves(data["curves"], folder)
    for benchmark in data["benchmarks"]:
        draw_statuses(benchmark["name"], status_counts(benchmark["systems"]), folder)
        first, *others = [side.system for side in groups[benchmark["name"]] if side.system.role != IDEAL]
        measure, label = benchmark["measures"][0]["key"], benchmark["measures"][0]["label"]
        for other in others:
            a, b = (first.label, first.values[measure]), (other.label, other.values.get(measure, {}))
            draw_change(benchmark["name"], a, b, label, folder)
