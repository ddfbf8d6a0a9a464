"""The rows of parquet, JSONL, JSON and TSV files, of folders of them, and of datasets on the Hugging Face hub."""

from __future__ import annotations

import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tarfile import is_tarfile
from textwrap import shorten
from typing import Any, TypeAlias

from rearank.checks import missing_packages
from rearank.data.base import DataError
from rearank.data.files import parse_json, read_lines

Found: TypeAlias = tuple[str, Mapping[str, Any] | DataError]
"""``file:line`` or ``file: row n``, and the row, or what is wrong with it."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILE = re.compile(r"\.(parquet|jsonl?|tsv|txt)(\.gz)?$")
_ABOUT = frozenset({"dataset_info.json", "dataset_infos.json", "state.json"})  # these lie beside a dataset's files
_WORD = re.compile(r"[a-z0-9]+")
_SPLITS = frozenset({"train", "training", "dev", "valid", "validation", "test", "eval"})
_PARQUET_MAGIC = b"PAR1"
_BATCH = 64  # rows of a parquet file in memory at once
_BY_HAND = "lay its files here by hand and set dataset.path=<file>"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowTable:
    """Where rows are.

    Args:
        path: a file, a folder of files, or a hub id. In a folder the files count whose name or folder has the
            split's name in it, or all where none has.
        revision: a branch, tag or commit of the hub's; ``None`` for the newest.
        subset: of the hub's dataset (its config); ``None`` for the default.
        split: of the hub's dataset or the folder.
        tsv: the columns' names of files of tab-separated values; empty where files are parquet, JSONL or JSON.
    """

    path: str
    revision: str | None = None
    subset: str | None = None
    split: str = "train"
    tsv: tuple[str, ...] = ()

    def preflight(self) -> list[str]:
        """A file that isn't there, a folder without any, or the package that fetches from the hub."""
        if Path(self.path).is_dir() and not self._inside:
            return [self._empty]
        if Path(self.path).exists():
            return []
        if not self._may_be_on_the_hub:
            return [self._missing]
        return [f"{self.path}: {line}, or {_BY_HAND}" for line in missing_packages("train", "datasets")]

    def read(self) -> Iterator[Found]:
        """Every row, files in the order of their names.

        Raises:
            DataError: where a file can't be read on, or the hub doesn't give the dataset.
        """
        path = Path(self.path)
        if path.is_dir():
            if not self._inside:
                raise DataError(self._empty)
            for file in self._inside:
                yield from self._file(file)
        elif path.is_file():
            yield from self._file(path)
        else:
            yield from ((f"{self.path}: row {number}", row) for number, row in enumerate(self._hub()))

    @property
    def _may_be_on_the_hub(self) -> bool:
        return bool(_HUB_ID.fullmatch(self.path) and not _FILE.search(self.path))

    @property
    def _missing(self) -> str:
        return f"{self.path}: no such file; set dataset.path to a parquet or JSONL file, or to a hub id (owner/name)"

    @property
    def _empty(self) -> str:
        return f"{self.path}: no parquet, JSONL, JSON or TSV file in this folder; set dataset.path to one that has some"

    @property
    def _inside(self) -> list[Path]:
        folder = Path(self.path)
        within = {file.relative_to(folder): file for file in sorted(folder.rglob("*")) if file.is_file()}
        rows = {
            name: file
            for name, file in within.items()
            if _FILE.search(name.name) and name.name not in _ABOUT and not any(p.startswith(".") for p in name.parts)
        }
        of_split = [file for name, file in rows.items() if self.split.lower() in _WORD.findall(str(name).lower())]
        others = {split for name in rows for split in _WORD.findall(str(name).lower()) if split in _SPLITS}
        if not of_split and others:
            raise DataError(
                f"{self.path}: no file of the split {self.split!r}, and files of {', '.join(sorted(others))}; set "
                "dataset.split=..., or name the file: dataset.path=..."
            )
        return of_split or list(rows.values())

    def _file(self, path: Path) -> Iterator[Found]:
        if _is_archive(path):  # its first line would pass for a row
            raise DataError(f"{path}: an archive; unpack it (tar -xf) and set dataset.path to the file in it")
        with path.open("rb") as stream:
            parquet = stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
        if parquet:
            return _parquet(path)
        if self.tsv:
            return _tsv(path, self.tsv)
        first = next((line.lstrip()[0] for _, line in read_lines(path) if line.strip()), "")
        return _json_array(path) if first == "[" else _json_lines(path)

    def _hub(self) -> Iterator[Mapping[str, Any]]:
        if not self._may_be_on_the_hub:
            raise DataError(self._missing)
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise DataError("; ".join(self.preflight())) from error
        try:
            loaded = load_dataset(self.path, self.subset, revision=self.revision, split=self.split)
        except Exception as error:  # the network, the name, the files: its errors have no base in common
            reason = shorten(f"{type(error).__name__}: {error}", 200, placeholder="...")
            raise DataError(
                f"{self.path}: can't be loaded ({reason}); check the network, the name, subset and split, or {_BY_HAND}"
            ) from error
        yield from loaded


class LeftOut:
    """How many rows aren't used for which reason, and the first fault of each, which is said."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, error: DataError, rule: str, key: str = "on_bad_row", reason: str = "bad row") -> None:
        """Count it; raises `DataError` unless ``rule``, the value of ``dataset.<key>``, is to skip it."""
        if rule == "error":
            raise DataError(f"{error}; mend it, or leave such rows out with dataset.{key}=skip") from error
        self.counts[reason] += 1
        self._first.setdefault(reason, str(error))

    def say(self, path: str, kept: int, what: str) -> None:
        """Log it in one line; raises `DataError` where nothing is left."""
        counted = ", ".join(
            f"{reason}: {count}" + (f" (the first: {self._first[reason]})" if reason in self._first else "")
            for reason, count in self.counts.items()
        )
        if not kept:
            raise DataError(f"{path}: no {what} to train on; {counted or 'there is no row'}; check path and columns")
        if counted:
            _log.warning("%s: %s; %d %s stay", path, counted, kept, what)


def _is_archive(path: Path) -> bool:
    try:
        return is_tarfile(path)
    except (EOFError, zlib.error, OSError):  # a damaged gzip file: the reader says where
        return False


def _parquet(path: Path) -> Iterator[Found]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    yield f"{path}: row {number}", row
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole parquet file ({error}); fetch it again") from error


def _json_lines(path: Path) -> Iterator[Found]:
    for number, line in read_lines(path):
        if line.strip():
            yield f"{path}:{number}", _object(line, path, number)


def _object(line: str, path: Path, number: int) -> Mapping[str, Any] | DataError:
    try:
        row = parse_json(line, path, number, "one JSON object a line is expected (TSV: set dataset.tsv=[...])")
    except DataError as error:
        return error
    return _mapping(row, f"{path}:{number}")


def _mapping(row: Any, where: str) -> Mapping[str, Any] | DataError:
    if isinstance(row, dict):
        return row
    return DataError(f"{where}: a JSON object is expected, not {type(row).__name__}")


def _json_array(path: Path) -> Iterator[Found]:
    text = "\n".join(line for _, line in read_lines(path))
    rows = parse_json(text, path, 1, "one array of JSON objects is expected, or one object a line")
    for number, row in enumerate(rows):
        where = f"{path}: row {number}"
        yield where, _mapping(row, where)


def _tsv(path: Path, names: tuple[str, ...]) -> Iterator[Found]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        cells, where = line.split("\t"), f"{path}:{number}"
        if len(cells) == len(names):
            yield where, dict(zip(names, cells, strict=True))
        else:
            expected = f"{len(names)} columns ({', '.join(names)}) between tabs are expected"
            yield where, DataError(f"{where}: {expected}, and {len(cells)} are there")
