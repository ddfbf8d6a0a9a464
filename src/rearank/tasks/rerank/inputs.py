"""What ``rerank.input`` is, told by its first line, and the lists in it; what to know of it before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from rearank.data import Collection, DataError
from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.data.files import read_lines, require_file
from rearank.data.topics import read_topics
from rearank.sections import STANDARD, Rerank
from rearank.tasks.rerank.lists import FoundLists, RunLists
from rearank.tasks.rerank.rows import BadRow, TextRows, name_of, standard
from rearank.types import Candidates, Query

InputFormat: TypeAlias = Literal["trec", "jsonl", "parquet", "topics"]
OutputFormat: TypeAlias = Literal["trec", "jsonl", "parquet"]
_SUFFIXES: Mapping[str, OutputFormat] = {
    **{".trec": "trec", ".run": "trec", ".jsonl": "jsonl", ".parquet": "parquet"},
}
_PARQUET = b"PAR1"


class HoldsLists(Protocol):
    """An input; each method but ``asked`` reads it from its beginning."""

    def asked(self) -> int | None:
        """How many queries there are, where they come apart from their lists."""
        ...

    def lengths(self) -> Iterator[int | BadRow]:
        """Of every list, at little cost."""
        ...

    def lists(self) -> Iterator[Candidates | BadRow]:
        """Every list, each query once."""
        ...


@dataclass(frozen=True)
class Formats:
    """What the formats of a command come to, where they are ``auto``."""

    input: InputFormat
    output: OutputFormat

    @property
    def uses_collection(self) -> bool:
        """Whether texts come from the benchmark's collection."""
        return self.input in ("trec", "topics")


def formats_of(settings: Rerank) -> Formats:
    """Raises ``DataError`` where the input or its format isn't said, or there is nothing like it."""
    if settings.output is None:
        raise DataError("rerank.output: a value is missing; set rerank.output=out.jsonl, or - for standard output")
    found = _input_format(settings)
    if settings.output_format != "auto":
        return Formats(found, settings.output_format)
    if settings.output == STANDARD:
        return Formats(found, "trec" if found in ("trec", "topics") else "jsonl")
    suffix = Path(settings.output).suffix.lower()
    if suffix not in _SUFFIXES:
        raise DataError(
            f"rerank.output={settings.output}: its name says no format; end it with {', '.join(_SUFFIXES)}, or set "
            "rerank.output_format=trec, jsonl or parquet"
        )
    return Formats(found, _SUFFIXES[suffix])


def _input_format(settings: Rerank) -> InputFormat:
    path, chosen = settings.input, settings.format
    if path is None and chosen != "topics":
        raise DataError(
            "rerank.input: a value is missing; set rerank.input=... to a TREC run, topics, JSONL or parquet, or "
            "rerank.format=topics for the queries of the benchmark's own collection"
        )
    if path == STANDARD and chosen in ("topics", "parquet"):
        raise DataError(f"rerank.input=-: {chosen} can't be read from standard input; give a file")
    if path is not None and path != STANDARD:
        require_file(path, "input (rerank.input)")
    if chosen != "auto" or path is None:
        return "topics" if chosen == "auto" else chosen
    return _told_by_content(path)


def _told_by_content(path: str) -> InputFormat:
    stream = standard(path)
    if stream is not None:  # a line of it would be gone
        first = stream.peek(1)[:1]
        return "jsonl" if first in (b"{", b"[") else "trec"
    with Path(path).open("rb") as file:
        if file.read(len(_PARQUET)) == _PARQUET:
            return "parquet"
    line = next((line.strip() for _, line in read_lines(path) if line.strip()), "")
    if line.startswith(("{", "[")):
        return "jsonl"
    if Path(path.removesuffix(".gz")).suffix in (".trec", ".run"):
        return "trec"
    return "trec" if len(line.split()) >= 6 and not line.startswith("<") and line.count("\t") != 1 else "topics"


def collection_of(node: Benchmark | BenchmarkList) -> Benchmark:
    """The benchmark whose collection has the texts; raises ``DataError`` for a list of several."""
    if len(node.benchmarks) > 1:
        raise DataError(
            f"benchmark={node.name}: several collections; choose the one that has the passages of rerank.input "
            f"(benchmark={node.benchmarks[0].name}; benchmark=local for files of your own)"
        )
    return node.benchmarks[0]


def make_input(settings: Rerank, formats: Formats, node: Benchmark | BenchmarkList) -> HoldsLists:
    """The input as lists; nothing is read yet.

    Args:
        settings: the section ``rerank``.
        formats: what they come to.
        node: has the collection and the first stage, for inputs that need one.

    Raises:
        DataError: where they need one and ``node`` is several.
    """
    path = settings.input or ""
    if not formats.uses_collection:
        return TextRows(path, settings.columns, formats.input == "parquet", formats.output == "trec")
    benchmark = collection_of(node)
    if formats.input == "trec":
        return RunLists(path, _topics(settings.queries, benchmark.collection), benchmark.collection)
    topics = _topics(settings.input, benchmark.collection)
    return FoundLists(topics, benchmark.collection, benchmark.first_stage, settings.depth, benchmark.own_passage)


def _topics(path: str | None, collection: Collection) -> Callable[[], Mapping[str, Query]]:
    return collection.queries if path is None else lambda: read_topics(path)


@dataclass
class Counted:
    """What an input holds: queries, windows that they take, the longest chain of them, lists and rows.

    ``windows`` and ``chain`` are ``None`` where the strategy doesn't know them beforehand; ``longer``: lists that go on
    below the depth; ``unlisted``: topics that no list is of; ``bad``: rows that can't be used, ``first_bad`` the first.
    """

    queries: int = 0
    windows: int | None = 0
    chain: int | None = 0
    empty: int = 0
    longer: int = 0
    unlisted: int = 0
    bad: int = 0
    first_bad: BadRow | None = None

    def line(self, source: str) -> str:
        """In words."""
        parts = [f"{self.queries} queries"]
        parts += [f"{self.windows} windows, at most {self.chain} of them in a row"] if self.windows is not None else []
        parts += [f"{self.empty} without a passage"] if self.empty else []
        parts += [f"{self.longer} lists go on below rerank.depth"] if self.longer else []
        parts += [f"{self.unlisted} more topics without a list"] if self.unlisted else []
        parts += [f"{self.bad} rows that can't be used"] if self.bad else []
        return f"{source}: " + ", ".join(parts)


def count(given: HoldsLists, depth: int, strategy: Any) -> Counted:
    """Read ``given`` once, and count; ``strategy`` tells how many windows a list takes, where it knows."""
    from rearank.ranking import Planned

    found = Counted() if isinstance(strategy, Planned) else Counted(windows=None, chain=None)
    for one in given.lengths():
        if isinstance(one, BadRow):
            found.bad += 1
            found.first_bad = found.first_bad or one
            continue
        found.queries += 1
        found.empty += one == 0
        found.longer += one > depth
        if found.windows is not None and found.chain is not None and one:
            found.windows += strategy.calls(min(one, depth))
            found.chain = max(found.chain, strategy.chain(min(one, depth)))
    if (asked := given.asked()) is not None:
        found.unlisted = max(asked - found.queries, 0)
    return found


def refuse_bad(found: Counted) -> None:
    """Raises ``DataError`` with the first row that can't be used, where there is one."""
    if found.first_bad is not None:
        more = f" ({found.bad - 1} more rows can't be used)" if found.bad > 1 else ""
        raise DataError(f"{found.first_bad.error}{more}; or leave such rows out: rerank.bad_rows=skip")


def input_name(settings: Rerank) -> str:
    """In messages."""
    return "the collection's queries" if settings.input is None else name_of(settings.input)
