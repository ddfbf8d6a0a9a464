"""Reading text files line by line, with every fault reported as ``file:line``."""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

from rearank.data.base import DataError
from rearank.runs.content import sha256_of
from rearank.types import Passage, scorable, well_formed

_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"\s")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_ASIDE = r"(?P<aside><!--|<!DOCTYPE[^<>\[]*\[)"
_ENDLESS = re.compile(r"&#[0-9]{4000,};?")  # a reference to a character beyond all that there are
_MARKUP = re.compile(r"<[/?!A-Za-z][^<>]*>")
_CDATA = re.compile(r"<!\[CDATA\[((?:(?!<!\[CDATA\[|\]\]>).)*)\]\]>", re.S)  # looks at each character once

_LONGEST_LINE = 64 << 20  # bytes: far above any text; a small gzip file may unpack to one without end
_STRING = 64  # bytes that a string takes, however short
_LONGEST_SHOWN = 80  # characters

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


def read_lines(path: str | Path, what: str = "file", stream: BinaryIO | None = None) -> Iterator[tuple[int, str]]:
    """Line number and text of each line: gzip is unpacked, a byte-order mark and the line end (LF or CRLF) are removed.

    Blank lines are yielded too. ``stream`` is read instead of the file ``path``, which is then only its name. Raises
    `DataError` for a missing file, a line beyond all bounds, text that isn't UTF-8, and a damaged gzip file.
    """
    found = require_file(path, what) if stream is None else Path(path)
    number = 0
    try:
        with _open(found) if stream is None else nullcontext(stream) as lines:
            while raw := lines.readline(_LONGEST_LINE + 1):
                number += 1
                if len(raw) > _LONGEST_LINE:
                    raise _too_long(f"{found}:{number}: the line")
                data = raw.removeprefix(_BOM)  # of any line: files that are joined bring it along, and it is invisible
                yield number, data.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
        hint = "convert the file to UTF-8 (iconv -f <its encoding> -t utf-8)"
        raise DataError(f"{found}:{number}: not UTF-8 ({error.reason}); {hint}") from error
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{found}:{number + 1}: can't be read ({error}); fetch the file again") from error


def _too_long(what: str) -> DataError:
    return DataError(
        f"{what} is longer than {_LONGEST_LINE >> 20} MiB; if the file isn't damaged, write each record on a line of "
        "its own (a JSON array: jq -c '.[]')"
    )


def format_of(path: str | Path, what: str) -> str:
    """``sgml``, ``jsonl`` or ``tsv``, by the first character that isn't blank."""
    for _, line in read_lines(path, what):
        if start := line.strip():
            return {"<": "sgml", "{": "jsonl"}.get(start[0], "tsv")
    return "tsv"


def cells_of(path: str | Path, what: str = "file", separator: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Line number and columns of each line that isn't blank."""
    return ((number, line.split(separator)) for number, line in read_lines(path, what) if line.strip())


def blocks(path: str | Path, tag: str) -> Iterator[tuple[int, str, str]]:
    """First line number, attributes and content of each ``<tag> ... </tag>``; a tag may share its line with others.

    Around them may stand other tags, as an XML file's root, comments, and a document type with its declarations.
    """
    opening, closing = re.compile(rf"<{tag}(\s[^<>]*)?>", re.I), re.compile(rf"</{tag}>", re.I)
    outside = re.compile(rf"{opening.pattern}|{_ASIDE}", re.I)
    start, attributes, parts = 0, "", [""]
    size = aside = 0
    until = ""
    for number, line in read_lines(path):
        at = 0  # what stands before is done with: cutting it off would copy the rest each time
        while at < len(line):
            if until:
                end = line.find(until, at)
                if end < 0:
                    break
                at, until = end + len(until), ""
                continue
            if start == 0:
                found = outside.search(line, at)
                if _MARKUP.sub("", line[at : found.start()] if found else line[at:]).strip():
                    raise DataError(f"{path}:{number}: text outside <{tag}>; wrap each record in <{tag}>...</{tag}>")
                if found is None:
                    break
                if found["aside"]:
                    until, aside, at = "-->" if found["aside"] == "<!--" else "]>", number, found.end()
                    continue
                start, attributes, parts, size, at = number, found[1] or "", [], 0, found.end()
                continue
            found = closing.search(line, at)
            piece = line[at : found.start()] if found else line[at:]
            if opening.search(piece):
                raise DataError(f"{path}:{number}: <{tag}> inside the <{tag}> of line {start}; close that one first")
            parts.append(piece)
            if found is None:
                break
            yield start, attributes, "\n".join(parts)
            start, at = 0, found.end()
        else:
            if start:
                parts.append("")
        size += len(line) + _STRING
        if start and size > _LONGEST_LINE:
            raise _too_long(f"{path}:{start}: the content of <{tag}>")
    if until:
        raise DataError(f"{path}:{aside}: a comment or <!DOCTYPE is never closed by {until}; close it, or remove it")
    if start:
        raise DataError(f"{path}:{start}: <{tag}> is never closed; the file may be cut short, fetch it again")


def taken_out(text: str, *tags: str) -> tuple[str, str]:
    """What the first element with one of these tags holds, empty where there is none; and ``text`` without it.

    A tag that is opened and never closed is no element. Each is looked for once, however often it is opened.
    """
    found = []
    for tag in tags:
        opening = re.compile(f"<{tag}>", re.I).search(text)
        closing = opening and re.compile(f"</{tag}>", re.I).search(text, opening.end())
        if opening and closing:
            found.append((*opening.span(), *closing.span()))
    if not found:
        return "", text
    start, first, last, end = min(found)
    return text[first:last], text[:start] + text[end:]


def plain_text(text: str) -> str:
    """``text`` without tags and entities."""
    plain = _TAG.sub(" ", _CDATA.sub(lambda found: html.escape(found[1]), text))
    return html.unescape(_ENDLESS.sub("\ufffd", plain)).strip()


def shown(value: object) -> str:
    """What a file holds, for a message: its beginning, where it is long."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _LONGEST_SHOWN else f"{value[:_LONGEST_SHOWN]!r}..."
    if isinstance(value, (int, float)):
        return repr(value)[:_LONGEST_SHOWN]
    return f"of type {type(value).__name__}"


def read_json_lines(path: str | Path, what: str = "file") -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each non-blank line of a JSONL file."""
    for number, line in read_lines(path, what):
        if not line.strip():
            continue
        row = parse_json(line, path, number, "one JSON object a line is expected")
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: a JSON object is expected, not {type(row).__name__}")
        yield number, row


def parse_json(text: str, path: str | Path, first: int, remedy: str) -> Any:
    """What ``text`` holds, whose first line has the number ``first``.

    Raises `DataError` for what is not JSON, is nested too deep, or has an endless number in it.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        number = first + getattr(error, "lineno", 1) - 1
        raise DataError(f"{path}:{number}: not JSON ({getattr(error, 'msg', error)}); {remedy}") from error


def field(row: dict[str, Any], keys: tuple[str, ...], where: str) -> str:
    """The value of the first of ``keys`` that ``row`` has, as text."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return str(value)
    raise DataError(f"{where}: none of the fields {', '.join(keys)} is there as text; rename the field to {keys[0]!r}")


def passage_of(row: dict[str, Any], where: str, *, id_keys: tuple[str, ...] = ID_KEYS) -> Passage:
    """A passage from one JSON object, under the field names in common use."""
    text = field(row, TEXT_KEYS, where)
    title = row.get("title")
    if title is not None and (isinstance(title, bool) or not isinstance(title, (str, int))):
        raise DataError(f"{where}: the title is {shown(title)}; write a text, or null where there is none")
    return Passage(field(row, id_keys, where), well_formed(text), "" if title is None else well_formed(str(title)))


def plain_id(text: str) -> str:
    """An id as TREC files can carry it: they separate columns by spaces, and some ids of BRIGHT hold spaces.

    Any white space is one: these files are read by programs that split at different kinds.
    """
    return text if text.split() == [text] else _SPACE.sub("_", text)


def read_id(text: str, where: str, what: str) -> str:
    """The id of a file, in its plain form; raises `DataError` for one that is empty or breaks the scorer."""
    found = plain_id(text.strip())
    if not found:
        raise DataError(f"{where}: a {what} with an empty id; give each its identifier")
    if not scorable(found):
        raise DataError(
            f"{where}: the {what} id {shown(found)} holds half of a character (a lone surrogate) or a NUL, which no "
            "run file and no scorer can carry; give it another id, here and in every file that names it"
        )
    return found


def unique(seen: set[str] | dict[str, Any], key: str, where: str, what: str) -> None:
    """Raise `DataError` if ``key`` was seen before."""
    if key in seen:
        raise DataError(f"{where}: {what} {shown(key)} occurs twice; keep one of them")


def content_hash(*paths: Path) -> str:
    """SHA-256 over the contents of files, in order."""
    digest = hashlib.sha256()
    for one in sha256_of(*paths):
        digest.update(bytes.fromhex(one))
    return digest.hexdigest()
