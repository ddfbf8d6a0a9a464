"""What ``task=compare`` reads: output folders by their ``metrics.json``, and TREC runs scored by judgements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.data.trec import read_qrels, read_run
from rearank.evaluation import Scored, score
from rearank.runs.layout import EVALUATION, METRICS, QUERIES, RUN, read_json
from rearank.runs.reader import FIRST, IDEAL, SYSTEM, Evaluated, FolderError, read_systems
from rearank.sections import Compare


class CompareError(ValueError):
    """Runs that can't be compared; the message names them and the remedy."""


@dataclass(frozen=True)
class Entry:
    """A system with where it came from: its own folder, where it has one; ``several``: its run folder has others."""

    scored: Scored
    system: str = ""
    role: str = ""
    folder: Path | None = None
    several: bool = False


@dataclass
class Found:
    """Everything to compare, and the texts of queries: benchmark -> query id -> text."""

    entries: list[Entry] = field(default_factory=list)
    texts: dict[str, dict[str, str]] = field(default_factory=dict)

    def add_folder(self, label: str | None, path: Path, settings: Compare) -> None:
        """Every system of an output folder, or of a folder inside one."""
        try:
            systems = read_systems(path)
        except FolderError as error:
            raise CompareError(str(error)) from error
        if not systems:
            raise CompareError(f"compare.runs: {path}: no {METRICS} in it; give a folder that task=evaluate wrote")
        systems = [one for one in systems if settings.ideal or one.role != IDEAL]
        for one in systems:
            several = sum(other.benchmark == one.benchmark and other.role == SYSTEM for other in systems) > 1
            name = label or _run_name(path)
            plain = not several and one.role == SYSTEM
            scored = Scored(name if plain else f"{name}: {one.name}", one.benchmark, _values(one, settings.measures))
            self.entries.append(Entry(scored, one.name, one.role, one.place, several))
            if texts := read_json(one.place.parent / QUERIES):
                self.texts.setdefault(one.benchmark, {}).update(texts)

    def add_files(self, judge: _Judge, files: Sequence[tuple[str, Path]]) -> None:
        """Every TREC run, (label, path) each, scored by ``judge``."""
        if judge.benchmark is not None:
            texts = {query.id: query.text for query in judge.benchmark.collection.queries().values()}
            self.texts.setdefault(judge.benchmark.name, {}).update(texts)
        name = judge.benchmark.name if judge.benchmark is not None else _group(judge, self.entries)
        _check_agreement(judge, [entry for entry in self.entries if entry.scored.benchmark == name])
        self.entries += [Entry(Scored(label, name, judge.score(path))) for label, path in files]


def gather(settings: Compare, benchmark: Benchmark | BenchmarkList) -> Found:
    """Read ``compare.runs``; run files are judged by ``compare.qrels``, or else by ``benchmark``.

    Raises:
        CompareError: for a path that holds nothing, a measure that isn't there, or judgements that are missing.
    """
    if not settings.runs:
        raise CompareError("compare.runs is empty: compare.runs=[outputs/a,outputs/b] or [one.trec,other.trec]")
    found, files = Found(), []
    for given in settings.runs:
        label, path = _split(given)
        if path.is_dir():
            found.add_folder(label, path, settings)
        elif path.is_file():
            files.append((label or path.name.removesuffix(".gz").removesuffix(".trec").removesuffix(".txt"), path))
        else:
            raise CompareError(f"compare.runs: {path}: there is no such output folder or run file")
    found.entries = _merged(found.entries)
    if files:
        found.add_files(_judge(settings, benchmark), files)
    return found


def _split(given: str) -> tuple[str | None, Path]:
    """``label=path``; folders of a sweep have ``=`` in their names, so what exists as it stands is a path."""
    label, equals, path = given.partition("=")
    if not equals or Path(given).exists() or "/" in label:
        return None, Path(given)
    return label, Path(path)


def _run_name(path: Path) -> str:
    """Of the run's folder, also where one of its inner folders was given."""
    parts = path.resolve().parts
    return parts[parts.index(EVALUATION) - 1] if EVALUATION in parts[1:] else parts[-1]


def _values(one: Evaluated, measures: Sequence[str]) -> dict[str, Mapping[str, float]]:
    lacking = [measure for measure in measures if measure not in one.values]
    if lacking:
        raise CompareError(
            f"{one.place / METRICS}: no {', '.join(lacking)} in it, only {', '.join(one.values)}; set "
            f"compare.measures, or evaluate again with evaluation.measures=[{','.join(measures)}] (recorded answers "
            "are not paid for again)"
        )
    return {measure: one.values[measure] for measure in measures}


def _merged(entries: Sequence[Entry]) -> list[Entry]:
    """First stages before others; and what runs share is one system, once.

    A sweep's runs share their first stage and their untrained model, and comparing one with itself would only make
    Holm's correction harder on the rest.
    """
    merged: list[Entry] = []
    for entry in sorted(entries, key=lambda one: one.role != FIRST):
        twins = [one for one in entries if _same_system(one, entry)]
        equal = all(one.scored.values == entry.scored.values for one in twins)
        shared = equal and (entry.role in (FIRST, IDEAL) or (entry.several and len(twins) > 1))
        one = replace(entry, scored=replace(entry.scored, label=entry.system)) if shared else entry
        if not shared or all(kept.scored != one.scored for kept in merged):
            merged.append(one)
    return merged


def _same_system(a: Entry, b: Entry) -> bool:
    return (a.scored.benchmark, a.system) == (b.scored.benchmark, b.system)


@dataclass(frozen=True)
class _Judge:
    """Scores runs: by the judgements of a file, or by a benchmark."""

    source: str
    grades: Mapping[str, Mapping[str, int]]
    benchmark: Benchmark | None
    measures: tuple[str, ...]
    missing: Any
    relevant_from: int = 1

    def score(self, path: Path) -> dict[str, dict[str, float]]:
        """measure -> query -> value; only the order of the run counts, never its scores' type or size."""
        ranked = {query: [passage for passage, _ in rows] for query, rows in read_run(path).items()}
        if not ranked.keys() & self.grades.keys():
            raise CompareError(
                f"{path}: none of its {len(ranked)} queries is judged in {self.source}; give the judgements of the "
                "same queries (compare.qrels=... or benchmark=...)"
            )
        if self.benchmark is not None:
            return self.benchmark.score(ranked)
        return score(ranked, self.grades, self.measures, self.missing, self.relevant_from)


def _judge(settings: Compare, node: Benchmark | BenchmarkList) -> _Judge:
    if settings.qrels is not None:
        grades = read_qrels(settings.qrels)
        return _Judge(settings.qrels, grades, None, settings.measures, settings.missing, settings.relevant_from)
    benchmarks = node.benchmarks
    if len(benchmarks) != 1:
        raise CompareError(
            "run files need judgements: set compare.qrels=<file>, or choose one benchmark (benchmark=dl19); "
            f"benchmark={node.name} is a list"
        )
    benchmark = replace(benchmarks[0], measures=settings.measures, missing=settings.missing)
    source, grades = f"benchmark {benchmark.name}", benchmark.collection.qrels()
    return _Judge(source, grades, benchmark, settings.measures, settings.missing)


def _group(judge: _Judge, entries: Iterable[Entry]) -> str:
    """The folders' benchmark that shares most queries with the judgements, or a name of its own."""
    shared = {e.scored.benchmark: len(judge.grades.keys() & _queries(e.scored)) for e in entries}
    best = max(shared, key=lambda name: shared[name], default="")
    return best if best and shared[best] else Path(judge.source).name


def _queries(scored: Scored) -> set[str]:
    return set(next(iter(scored.values.values())))


def _check_agreement(judge: _Judge, entries: Iterable[Entry]) -> None:
    """Folders scored by other judgements than the run files would make differences that are none."""
    for place, measure, query, theirs, ours in _disagreements(judge, entries):
        raise CompareError(
            f"{place / RUN} scored by {judge.source} has {measure} {ours:.4f} for query {query}, and its {METRICS} "
            f"says {theirs:.4f}: the folder was evaluated by other judgements; give those "
            "(compare.qrels=..., and compare.relevant_from for measures without grades)"
        )


def _disagreements(judge: _Judge, entries: Iterable[Entry]) -> Iterator[tuple[Path, str, str, float, float]]:
    for entry in entries:
        if entry.folder is None or not (entry.folder / RUN).is_file():
            continue
        again = judge.score(entry.folder / RUN)
        for measure, values in again.items():
            for query in sorted(values.keys() & entry.scored.values[measure].keys()):
                theirs = entry.scored.values[measure][query]
                if abs(theirs - values[query]) > 1e-6:
                    yield entry.folder, measure, query, theirs, values[query]
