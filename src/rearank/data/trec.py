"""TREC files: documents (SGML, TSV, JSONL), topics (TREC, TSV, JSONL), judgements and runs; and a collection of them.

All readers unpack gzip, and accept a byte-order mark and CRLF. Everything else that is wrong is a `DataError` that
names the file and the line.
"""

from __future__ import annotations

import html
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from pathlib import Path

from rearank.data.base import Collection, DataError, assemble, check_depth, lookup
from rearank.data.files import (
    content_hash,
    field,
    passage_of,
    read_json_lines,
    read_lines,
    require_file,
    unique,
)
from rearank.runs import CONTENT
from rearank.types import Candidates, Passage, Query

_DOCNO = re.compile(r"<DOCNO>\s*(.*?)\s*</DOCNO>", re.I | re.S)
_TITLE = re.compile(r"<(TITLE|HEADLINE)>(.*?)</\1>", re.I | re.S)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_TOPIC_NUMBER = re.compile(r"<num>\s*(?:Number:)?\s*([^\s<]+)", re.I)
_TOPIC_TITLE = re.compile(r"<title>\s*(?:Topic:)?(.*?)(?=<(?:/title|desc|narr|/top)\b|\Z)", re.I | re.S)


def _format(path: str | Path, what: str) -> str:
    """``sgml``, ``jsonl`` or ``tsv``, by the first character that isn't blank."""
    for _, line in read_lines(path, what):
        if start := line.strip():
            return {"<": "sgml", "{": "jsonl"}.get(start[0], "tsv")
    return "tsv"


def _cells(path: str | Path, what: str = "file", separator: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Line number and columns of each line that isn't blank."""
    return ((number, line.split(separator)) for number, line in read_lines(path, what) if line.strip())


def _blocks(path: str | Path, tag: str) -> Iterator[tuple[int, str]]:
    """First line number and content of each ``<tag> ... </tag>``; a tag may share its line with others."""
    opening, closing = re.compile(rf"<{tag}>", re.I), re.compile(rf"</{tag}>", re.I)
    start, parts = 0, [""]
    for number, whole in read_lines(path):
        line = whole
        while line:
            if start == 0:
                found = opening.search(line)
                if (line[: found.start()] if found else line).strip():
                    raise DataError(f"{path}:{number}: text outside <{tag}>; wrap each record in <{tag}>...</{tag}>")
                if found is None:
                    break
                start, parts, line = number, [], line[found.end() :]
                continue
            found = closing.search(line)
            piece = line[: found.start()] if found else line
            if opening.search(piece):
                raise DataError(f"{path}:{number}: <{tag}> inside the <{tag}> of line {start}; close that one first")
            parts.append(piece)
            if found is None:
                break
            yield start, "\n".join(parts)
            start, line = 0, line[found.end() :]
        else:
            if start:
                parts.append("")
    if start:
        raise DataError(f"{path}:{start}: <{tag}> is never closed; the file may be cut short, fetch it again")


def _plain(text: str) -> str:
    return html.unescape(_TAG.sub(" ", text)).strip()


def _sgml_documents(path: str | Path) -> Iterator[tuple[int, Passage]]:
    for number, block in _blocks(path, "DOC"):
        docno = _DOCNO.search(block)
        if docno is None or not docno[1]:
            raise DataError(f"{path}:{number}: a document without <DOCNO>; give each its identifier")
        body = block[: docno.start()] + block[docno.end() :]
        title = _TITLE.search(body)
        if title:
            body = body[: title.start()] + body[title.end() :]
        yield number, Passage(docno[1], _plain(body), _plain(title[2]) if title else "")


def _tsv_documents(path: str | Path) -> Iterator[tuple[int, Passage]]:
    width = 0
    for number, cells in _cells(path, separator="\t"):
        width = width or len(cells)
        if len(cells) not in (2, 3) or len(cells) != width:
            expected = str(width) if width in (2, 3) else "2 (id, text) or 3 (id, title, text)"
            raise DataError(
                f"{path}:{number}: {len(cells)} columns where {expected} are expected; put one tab between columns "
                "and none inside a text"
            )
        yield number, Passage(cells[0].strip(), cells[-1], cells[1] if width == 3 else "")


def read_documents(path: str | Path) -> Iterator[Passage]:
    """Documents in SGML, TSV (id, [title,] text) or JSONL, recognised by content. Ids must be unique."""
    kind = _format(path, "document file")
    if kind == "sgml":
        rows = _sgml_documents(path)
    elif kind == "jsonl":
        rows = ((n, passage_of(row, f"{path}:{n}")) for n, row in read_json_lines(path))
    else:
        rows = _tsv_documents(path)
    seen: set[str] = set()
    for number, passage in rows:
        if not passage.id:
            raise DataError(f"{path}:{number}: a document with an empty id; give each its identifier")
        unique(seen, passage.id, f"{path}:{number}", "document id")
        seen.add(passage.id)
        yield passage


def documents_by_id(path: str | Path) -> dict[str, Passage]:
    """Every document of a file, one at least."""
    found = {passage.id: passage for passage in read_documents(path)}
    if not found:
        raise DataError(f"{path}:1: no document in it; an empty collection can't be searched")
    return found


def _trec_topics(path: str | Path) -> Iterator[tuple[int, Query]]:
    for number, block in _blocks(path, "top"):
        num, title = _TOPIC_NUMBER.search(block), _TOPIC_TITLE.search(block)
        if num is None or title is None:
            raise DataError(f"{path}:{number}: a topic without <num> or <title>; each needs both")
        yield number, Query(num[1], " ".join(_plain(title[1]).split()))


def _tsv_topics(path: str | Path) -> Iterator[tuple[int, Query]]:
    for number, cells in _cells(path, separator="\t"):
        if len(cells) != 2:
            raise DataError(f"{path}:{number}: {len(cells)} columns where 2 are expected (query id, tab, text)")
        yield number, Query(cells[0].strip(), cells[1].strip())


def read_topics(path: str | Path) -> dict[str, Query]:
    """Queries from TREC topics (the title is the query), TSV (id, text) or JSONL, recognised by content."""
    kind = _format(path, "topics file")
    if kind == "sgml":
        rows = _trec_topics(path)
    elif kind == "jsonl":
        rows = ((n, Query(passage.id, passage.text)) for n, passage in _jsonl_topics(path))
    else:
        rows = _tsv_topics(path)
    queries: dict[str, Query] = {}
    for number, query in rows:
        unique(queries, query.id, f"{path}:{number}", "query id")
        if not query.text:
            raise DataError(f"{path}:{number}: query {query.id!r} has no text; write one or remove the query")
        queries[query.id] = query
    return queries


def _jsonl_topics(path: str | Path) -> Iterator[tuple[int, Query]]:
    keys = ("_id", "id", "qid", "query_id")
    for number, row in read_json_lines(path):
        where = f"{path}:{number}"
        yield number, Query(field(row, keys, where), field(row, ("text", "query", "title"), where).strip())


def _grade(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{where}: grade {text!r} isn't a whole number; write 0, 1, 2...") from None


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Judgements in TREC's four columns, or BEIR's three with a header line.

    Negative grades (TREC uses them for spam) are kept; every measure counts them as not relevant.
    """
    qrels: dict[str, dict[str, int]] = {}
    width = 0
    for number, cells in _cells(path, "judgements file"):
        if width == 0 and cells[0] in ("query-id", "query_id", "qid"):
            width = len(cells)
            continue
        where = f"{path}:{number}"
        width = width or 4
        if len(cells) != width or width not in (3, 4):
            raise DataError(
                f"{where}: {len(cells)} columns where {width} are expected (query id, 0, document id, grade)"
            )
        qid, docid, grade = cells[0], cells[-2], _grade(cells[-1], where)
        judged = qrels.setdefault(qid, {})
        unique(judged, docid, where, f"query {qid!r}: judgement of document")
        judged[docid] = grade
    return qrels


def read_run(path: str | Path) -> dict[str, list[tuple[str, float]]]:
    """A TREC run: query id -> (document id, score), by falling score; equal scores by the rank column."""
    rows: dict[str, dict[str, tuple[float, int]]] = {}
    for number, cells in _cells(path, "run file"):
        where = f"{path}:{number}"
        if len(cells) != 6:
            raise DataError(
                f"{where}: {len(cells)} columns where 6 are expected (query id, Q0, document id, rank, score, tag)"
            )
        try:
            rank, score = int(cells[3]), float(cells[4])
        except ValueError:
            raise DataError(f"{where}: rank {cells[3]!r} or score {cells[4]!r} isn't a number") from None
        if not math.isfinite(score):
            raise DataError(f"{where}: score {cells[4]!r} can't be ordered; write finite scores")
        ranked = rows.setdefault(cells[0], {})
        unique(ranked, cells[2], where, f"query {cells[0]!r}: document")
        ranked[cells[2]] = (score, rank)
    return {
        qid: [(d, s) for d, (s, _) in sorted(found.items(), key=lambda item: (-item[1][0], item[1][1]))]
        for qid, found in rows.items()
    }


def write_run(path: str | Path, run: Mapping[str, Sequence[str]], tag: str = "rearank") -> None:
    """Write ranked document ids as a TREC run.

    Scores are whole numbers that fall by one: trec_eval reads scores as 32-bit floats and orders ties by document id,
    so that close scores would silently change the ranking. The file appears whole or not at all.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8", newline="\n") as out:
        for qid, ids in run.items():
            for rank, docid in enumerate(ids, 1):
                if len(f"{qid} {docid} {tag}".split()) != 3:
                    part.unlink()
                    raise ValueError(f"ids and tag must be non-empty without spaces: {qid!r}, {docid!r}, {tag!r}")
                out.write(f"{qid} Q0 {docid} {rank} {len(ids) - rank + 1} {tag}\n")
    part.replace(target)


@dataclass(frozen=True)
class TrecFiles:
    """A collection of three files: documents, topics, judgements.

    ``check_qrels`` refuses judgements of documents that aren't there: right for a whole collection, to be turned off
    for a part of one. ``qrels`` may be empty where only reranking is wanted.
    """

    docs: str = dataclass_field(metadata=CONTENT)
    topics: str = dataclass_field(metadata=CONTENT)
    qrels_file: str = dataclass_field(default="", metadata=CONTENT)
    name: str = "trec"
    check_qrels: bool = True

    @cached_property
    def _documents(self) -> dict[str, Passage]:
        return documents_by_id(self.docs)

    def queries(self) -> dict[str, Query]:
        return read_topics(self.topics)

    def qrels(self) -> dict[str, dict[str, int]]:
        if not self.qrels_file:
            return {}
        judged = read_qrels(self.qrels_file)
        if self.check_qrels:
            self._check_judged(judged)
        return judged

    def _check_judged(self, judged: Mapping[str, Mapping[str, int]]) -> None:
        absent = {d for grades in judged.values() for d in grades} - self._documents.keys()
        if not absent:
            return
        for number, cells in _cells(self.qrels_file):
            if len(cells) >= 3 and cells[-2] in absent:
                raise DataError(
                    f"{self.qrels_file}:{number}: document {cells[-2]!r} isn't in {self.docs} ({len(absent)} judged "
                    "documents are absent); set check_qrels=false if the documents are only a part of the collection"
                )

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        return lookup(self._documents, ids, self.docs)

    def iter_passages(self) -> Iterator[Passage]:
        return iter(self._documents.values())

    def fingerprint(self) -> str:
        return content_hash(require_file(self.docs, "document file"))


@dataclass(frozen=True)
class RunFile:
    """A first stage that was run elsewhere: a TREC run."""

    path: str = dataclass_field(metadata=CONTENT)

    def retrieve(self, collection: Collection, queries: Mapping[str, Query], depth: int) -> dict[str, Candidates]:
        check_depth(depth)
        run = {qid: ranked[:depth] for qid, ranked in read_run(self.path).items() if qid in queries}
        try:
            return assemble(collection, queries, run)
        except DataError as error:
            raise DataError(f"{self._first_unknown(collection, run)}: {error}") from error

    def _first_unknown(self, collection: Collection, run: Mapping[str, list[tuple[str, float]]]) -> str:
        """``file:line`` of the first document the collection lacks."""
        wanted = {(qid, docid) for qid, ranked in run.items() for docid, _ in ranked}
        for number, cells in _cells(self.path):
            if len(cells) == 6 and (cells[0], cells[2]) in wanted:
                try:
                    collection.passages([cells[2]])
                except DataError:
                    return f"{self.path}:{number}: document {cells[2]!r}"
        return self.path
