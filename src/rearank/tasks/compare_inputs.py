"""What ``task=compare`` reads: output folders by their ``metrics.json``, and TREC runs scored by judgements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.data.trec import read_qrels, read_run
from rearank.evaluation import JUDGED, Scored, score, trec_order
from rearank.runs.layout import EVALUATION, METRICS, QUERIES, RUN, read_json
from rearank.runs.reader import FIRST, IDEAL, SYSTEM, Evaluated, FolderError, marked, read_systems
from rearank.sections import Compare
from rearank.tasks.rerank.reading import holds_output, read_output


class CompareError(ValueError):
    """Runs that can't be compared; the message names them and the remedy."""


@dataclass(frozen=True)
class Entry:
    """A system with where it came from: its own folder, where it has one; ``several``: its run folder has others.

    ``judged``: of each query with a ranking, the share of its first 10 that is judged. ``failed``: queries that failed,
    as its folder has it; ``lacking``: judged queries that a run file has no line of.
    """

    scored: Scored
    system: str = ""
    role: str = ""
    folder: Path | None = None
    several: bool = False
    judged: Mapping[str, float] = field(default_factory=dict)
    failed: int = 0
    lacking: int = 0

    @property
    def marked(self) -> str:
        """The label as tables show it."""
        label = marked(self.scored.label, self.failed)
        return f"{label} ({self.lacking} missing)" if self.lacking else label


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
            self.entries.append(
                Entry(scored, one.name, one.role, one.place, several, judged=one.judged, failed=one.failed)
            )
            if texts := read_json(one.place.parent / QUERIES):
                self.texts.setdefault(one.benchmark, {}).update(texts)

    def add_files(self, judge: _Judge, files: Sequence[tuple[str, Path]]) -> None:
        """Every TREC run, (label, path) each, scored by ``judge``."""
        if judge.benchmark is not None:
            texts = {query.id: query.text for query in judge.benchmark.collection.queries().values()}
            self.texts.setdefault(judge.benchmark.name, {}).update(texts)
        name = judge.benchmark.name if judge.benchmark is not None else _group(judge, self.entries)
        _check_agreement(judge, [entry for entry in self.entries if entry.scored.benchmark == name])
        self.entries += [judge.entry(label, name, path) for label, path in files]


def gather(settings: Compare, benchmark: Benchmark | BenchmarkList) -> Found:
    """Read ``compare.runs``; run files are judged by ``compare.qrels``, or else by ``benchmark``.

    Raises:
        CompareError: for a path that holds nothing, a measure that isn't there, or judgements that are missing.
    """
    if not settings.runs:
        raise CompareError("compare.runs is empty: compare.runs=[outputs/a,outputs/b] or [one.trec,other.trec]")
    found = Found()
    files: list[tuple[str | None, Path]] = []
    for given in settings.runs:
        label, path = _split(given)
        if path.is_dir() and holds_output(path):
            files.append((label, path))
        elif path.is_dir():
            found.add_folder(label, path, settings)
        elif path.is_file():
            files.append((label, path))
        else:
            raise CompareError(f"compare.runs: {path}: there is no such output folder or run file")
    found.entries = _merged(found.entries)
    if files:
        found.add_files(_judge(settings, benchmark), _named(files))
    return found


def _split(given: str) -> tuple[str | None, Path]:
    """``label=path``; folders of a sweep have ``=`` in their names, so what exists as it stands is a path."""
    label, equals, path = given.partition("=")
    if not equals or Path(given).exists() or "/" in label:
        return None, Path(given)
    return label, Path(path)


def _named(files: Sequence[tuple[str | None, Path]]) -> list[tuple[str, Path]]:
    """A file without a label is called after itself; those of one name after the folders in which they differ."""
    given = [label or path.name.removesuffix(".gz").removesuffix(".trec").removesuffix(".txt") for label, path in files]
    named = []
    for label, (own, path) in zip(given, files, strict=True):
        twins = [other.resolve().parent.parts for (_, other), name in zip(files, given, strict=True) if name == label]
        apart = _apart(path.resolve().parent.parts, twins) if own is None and len(twins) > 1 else ""
        named.append((f"{apart}/{label}" if apart else label, path))
    return named


def _apart(parts: Sequence[str], all_parts: Sequence[Sequence[str]]) -> str:
    """The folders that differ, without those that all begin or end with."""
    shortest = min(map(len, all_parts))
    start = next((n for n in range(shortest) if len({one[n] for one in all_parts}) > 1), shortest)
    end = next((n for n in range(shortest - start) if len({one[-1 - n] for one in all_parts}) > 1), shortest - start)
    return "/".join(parts[start : len(parts) - end])


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
    ties: str = "rank"

    def entry(self, label: str, benchmark: str, path: Path) -> Entry:
        """A run file's system."""
        values = self.score(path, (*self.measures, JUDGED))
        kept = {measure: values[measure] for measure in self.measures}
        judged = values[JUDGED]
        lacking = sum(query not in judged for query in next(iter(kept.values())))
        return Entry(Scored(label, benchmark, kept), judged=judged, lacking=lacking)

    def score(self, path: Path, measures: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
        """measure -> query -> value; only the order of the run counts, never its scores' type or size."""
        run = read_output(path) if path.is_dir() else read_run(path)
        in_order = trec_order if self.ties == "trec_eval" else _as_read
        ranked = {query: in_order(rows) for query, rows in run.items()}
        if not ranked.keys() & self.grades.keys():
            raise CompareError(
                f"{path}: none of its {len(ranked)} queries is judged in {self.source}; give the judgements of the "
                "same queries (compare.qrels=... or benchmark=...)"
            )
        if not any(passage in self.grades.get(query, ()) for query, found in ranked.items() for passage in found):
            raise CompareError(
                f"{path}: none of the passages that it ranks is judged in {self.source}, so that every measure would "
                "be 0; are they ids of another collection?"
            )
        if self.benchmark is not None:
            return self.benchmark.score(ranked, measures)
        return score(ranked, self.grades, measures or self.measures, self.missing, self.relevant_from)


def _as_read(rows: Sequence[tuple[str, float]]) -> list[str]:
    return [passage for passage, _ in rows]


def _judge(settings: Compare, node: Benchmark | BenchmarkList) -> _Judge:
    if settings.qrels is not None:
        grades = read_qrels(settings.qrels)
        of_file = (settings.measures, settings.missing, settings.relevant_from, settings.ties)
        return _Judge(settings.qrels, grades, None, *of_file)
    benchmarks = node.benchmarks
    if len(benchmarks) != 1:
        raise CompareError(
            "run files need judgements: set compare.qrels=<file>, or choose one benchmark (benchmark=dl19); "
            f"benchmark={node.name} is a list"
        )
    benchmark = replace(benchmarks[0], measures=settings.measures, missing=settings.missing)
    source, grades = f"benchmark {benchmark.name}", benchmark.collection.qrels()
    return _Judge(source, grades, benchmark, settings.measures, settings.missing, ties=settings.ties)


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
