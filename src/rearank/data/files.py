"""Reading text files line by line, with every fault reported as ``file:line``."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from rearank.data.base import DataError
from rearank.runs.content import sha256_of
from rearank.types import Passage

_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"

ID_KEYS = ("_id", "id", "docid", "docno", "pid", "qid", "query_id")
TEXT_KEYS = ("text", "contents", "content", "passage", "segment", "body")


def require_file(path: str | Path, what: str) -> Path:
    """``path`` as a `Path`, or a `DataError` saying which file is missing."""
    found = Path(path)
    if not found.is_file():
        raise DataError(f"{found}: no such {what}; give the path of an existing file")
    return found


def _open(path: Path) -> BinaryIO:
    # By content, not by name: downloads often lose or keep a wrong .gz suffix.
    with path.open("rb") as probe:
        packed = probe.read(2) == _GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path, "rb") if packed else path.open("rb"))


def read_lines(path: str | Path, what: str = "file") -> Iterator[tuple[int, str]]:
    """Line number and text of each line: gzip is unpacked, a byte-order mark and the line end (LF or CRLF) are removed.

    Blank lines are yielded too. Raises `DataError` for a missing file, text that isn't UTF-8, and a damaged gzip file.
    """
    found = require_file(path, what)
    number = 0
    try:
        with _open(found) as stream:
            for number, raw in enumerate(stream, 1):
                data = raw.removeprefix(_BOM) if number == 1 else raw
                yield number, data.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
        hint = "convert the file to UTF-8 (iconv -f <its encoding> -t utf-8)"
        raise DataError(f"{found}:{number}: not UTF-8 ({error.reason}); {hint}") from error
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise DataError(f"{found}:{number + 1}: can't be read ({error}); fetch the file again") from error


def read_json_lines(path: str | Path, what: str = "file") -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each non-blank line of a JSONL file."""
    for number, line in read_lines(path, what):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not JSON ({error.msg}); one JSON object a line is expected") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: a JSON object is expected, not {type(row).__name__}")
        yield number, row


def field(row: dict[str, Any], keys: tuple[str, ...], where: str) -> str:
    """The value of the first of ``keys`` that ``row`` has, as text."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, (str, int)):
            return str(value)
    raise DataError(f"{where}: none of the fields {', '.join(keys)} is there as text; rename the field to {keys[0]!r}")


def passage_of(row: dict[str, Any], where: str, *, id_keys: tuple[str, ...] = ID_KEYS) -> Passage:
    """A passage from one JSON object, under the field names in common use."""
    return Passage(field(row, id_keys, where), field(row, TEXT_KEYS, where), str(row.get("title") or ""))


def plain_id(text: str) -> str:
    """An id as TREC files can carry it: they separate columns by spaces, and some ids of BRIGHT hold spaces."""
    return text.replace(" ", "_")


def unique(seen: set[str] | dict[str, Any], key: str, where: str, what: str) -> None:
    """Raise `DataError` if ``key`` was seen before."""
    if key in seen:
        raise DataError(f"{where}: {what} {key!r} occurs twice; keep one of them")


def content_hash(*paths: Path) -> str:
    """SHA-256 over the contents of files, in order."""
    digest = hashlib.sha256()
    for one in sha256_of(*paths):
        digest.update(bytes.fromhex(one))
    return digest.hexdigest()
