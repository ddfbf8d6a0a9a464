"""TREC files: documents (SGML, TSV, JSONL), topics (TREC, TSV, JSONL), judgements and runs; and a collection of them.

All readers unpack gzip, and accept a byte-order mark and CRLF. Everything else that is wrong is a `DataError` that
names the file and the line.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from rearank.data.base import Collection, DataError, assemble, check_covers, check_depth, lookup
from rearank.data.files import (
    blocks,
    cells_of,
    content_hash,
    format_of,
    passage_of,
    plain_text,
    read_id,
    read_json_lines,
    read_lines,
    require_file,
    shown,
    taken_out,
    unique,
)
from rearank.data.topics import read_topics as read_topics
from rearank.runs import CONTENT
from rearank.types import MAX_GRADE, Candidates, Passage, Query

_GRADE_NAME = re.compile("score|grade|rel|label|judg|rating|value|gain", re.I)
_DOCUMENT_NAME = re.compile("doc|corpus|passage|pid", re.I)
_WHOLE = re.compile(r"[+-]?[0-9]+")
_log = logging.getLogger(__name__)


def _sgml_documents(path: str | Path) -> Iterator[tuple[int, Passage]]:
    for number, _, block in blocks(path, "DOC"):
        docno, body = taken_out(block, "DOCNO")
        if not (identifier := docno.strip()):
            raise DataError(f"{path}:{number}: a document without <DOCNO>; give each its identifier")
        title, body = taken_out(body, "TITLE", "HEADLINE")
        yield number, Passage(identifier, plain_text(body), plain_text(title))


def _tsv_documents(path: str | Path) -> Iterator[tuple[int, Passage]]:
    width = 0
    for number, cells in cells_of(path, separator="\t"):
        width = width or len(cells)
        if len(cells) not in (2, 3) or len(cells) != width:
            expected = str(width) if width in (2, 3) else "2 (id, text) or 3 (id, title, text)"
            raise DataError(
                f"{path}:{number}: {len(cells)} columns where {expected} are expected; put one tab between columns "
                "and none inside a text"
            )
        yield number, Passage(cells[0], cells[-1], cells[1] if width == 3 else "")


def read_documents(path: str | Path) -> Iterator[Passage]:
    """Documents in SGML, TSV (id, [title,] text) or JSONL, recognised by content. Ids must be unique."""
    kind = format_of(path, "document file")
    if kind == "sgml":
        rows = _sgml_documents(path)
    elif kind == "jsonl":
        rows = ((n, passage_of(row, f"{path}:{n}")) for n, row in read_json_lines(path))
    else:
        rows = _tsv_documents(path)
    seen: set[str] = set()
    spaced = 0
    for number, passage in rows:
        where = f"{path}:{number}"
        plain = read_id(passage.id, where, "document")
        unique(seen, plain, where, "document id")
        seen.add(plain)
        spaced += len(passage.id.split()) > 1
        yield passage if plain == passage.id else replace(passage, id=plain)
    if spaced:
        _log.info("%s: %d ids hold spaces, which run files can't; they have _ for it from here on", path, spaced)


def documents_by_id(path: str | Path) -> dict[str, Passage]:
    """Every document of a file, one at least."""
    found = {passage.id: passage for passage in read_documents(path)}
    if not found:
        raise DataError(f"{path}:1: no document in it; an empty collection can't be searched")
    return found


def _columns(path: str | Path, what: str, widths: tuple[int, ...]) -> Iterator[tuple[int, list[str]]]:
    """Line number and columns of each line: parted by tabs where these give so many, so that ids may hold spaces."""
    for number, line in read_lines(path, what):
        if cells := _cells(line, widths):
            yield number, cells


def _cells(line: str, widths: tuple[int, ...]) -> list[str]:
    tabbed = [cell.strip() for cell in line.split("\t")]
    return tabbed if len(tabbed) in widths and " " not in tabbed[-1] else line.split()


def _is_header(cells: Sequence[str], where: str) -> bool:
    """Whether these name the columns; raises `DataError` for an order that isn't the one to be read."""
    if not (_GRADE_NAME.search(cells[-1]) or cells[0].lower() in ("query-id", "query_id", "qid")):
        return False
    if _DOCUMENT_NAME.search(cells[0]) or not _GRADE_NAME.search(cells[-1]):
        raise DataError(
            f"{where}: columns {repr(', '.join(cells)[:200])[1:-1]}; they must be query-id, corpus-id, score (or "
            "TREC's four, where no header is needed), in this order"
        )
    return True


def _grade(text: str, where: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise DataError(
            f"{where}: grade {shown(text)} isn't a whole number; write 0, 1, 2... (a header line ends with 'score')"
        )
    if len(text) > 20 or abs(int(text)) > MAX_GRADE:
        raise DataError(
            f"{where}: grade {text[:60]} is beyond {MAX_GRADE}; is it a count, a time or an id? Write grades "
            "such as 0, 1, 2"
        )
    return int(text)


def _qrels_rows(path: str | Path) -> Iterator[tuple[int, str, str, int]]:
    """Line number, query id, document id and grade of each judgement."""
    width = 0
    for number, cells in _columns(path, "judgements file", (3, 4)):
        where = f"{path}:{number}"
        if width == 0 and len(cells) in (3, 4):
            width = len(cells)
            if _is_header(cells, where):
                continue
        if len(cells) != width:
            raise DataError(
                f"{where}: {len(cells)} columns where {width or '3 or 4'} are expected (query id, 0, document id, "
                "grade; BEIR's have no 0); where ids hold spaces, part the columns by tabs"
            )
        qid, docid = read_id(cells[0], where, "query"), read_id(cells[-2], where, "document")
        yield number, qid, docid, _grade(cells[-1], where)


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Judgements in TREC's four columns, or BEIR's three; a first line may name the columns.

    Negative grades (TREC uses them for spam) are kept; every measure counts them as not relevant.
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, qid, docid, grade in _qrels_rows(path):
        judged = qrels.setdefault(qid, {})
        unique(judged, docid, f"{path}:{number}", f"query {shown(qid)}: judgement of document")
        judged[docid] = grade
    if not qrels:
        raise DataError(f"{path}:1: no judgement in it; give a file of judgements (qrels)")
    return qrels


def _run_rows(path: str | Path) -> Iterator[tuple[int, str, str, int, float]]:
    """Line number, query id, document id, rank and score of each row of a run."""
    for number, line in read_lines(path, "run file"):
        if (row := run_row(line, f"{path}:{number}")) is not None:
            yield number, *row


def run_row(line: str, where: str) -> tuple[str, str, int, float] | None:
    """Query id, document id, rank and score of a line of a run; ``None`` for a blank one."""
    cells = _cells(line, (6,))
    if not cells:
        return None
    if len(cells) != 6:
        raise DataError(
            f"{where}: {len(cells)} columns where 6 are expected (query id, Q0, document id, rank, score, tag); "
            "where ids hold spaces, part the columns by tabs"
        )
    try:
        rank, score = int(cells[3]), float(cells[4])
    except ValueError:
        raise DataError(f"{where}: rank {shown(cells[3])} or score {shown(cells[4])} isn't a number") from None
    if not math.isfinite(score):
        raise DataError(f"{where}: score {shown(cells[4])} can't be ordered; write finite scores")
    return read_id(cells[0], where, "query"), read_id(cells[2], where, "document"), rank, score


def read_run(path: str | Path) -> dict[str, list[tuple[str, float]]]:
    """A TREC run: query id -> (document id, score), by falling score; equal scores by the rank column."""
    rows: dict[str, dict[str, tuple[float, int]]] = {}
    for number, qid, docid, rank, score in _run_rows(path):
        ranked = rows.setdefault(qid, {})
        unique(ranked, docid, f"{path}:{number}", f"query {shown(qid)}: document")
        ranked[docid] = (score, rank)
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
        absent = self.lacks(d for grades in judged.values() for d in grades)
        if not absent:
            return
        for number, _, docid, _ in _qrels_rows(self.qrels_file):
            if docid in absent:
                raise DataError(
                    f"{self.qrels_file}:{number}: document {shown(docid)} isn't in {self.docs} ({len(absent)} judged "
                    "documents are absent); set check_qrels=false if the documents are only a part of the collection"
                )

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        return lookup(self._documents, ids, self.docs)

    def lacks(self, ids: Iterable[str]) -> set[str]:
        return set(ids) - self._documents.keys()

    def iter_passages(self) -> Iterator[Passage]:
        return iter(self._documents.values())

    def fingerprint(self) -> str:
        return content_hash(require_file(self.docs, "document file"))


@dataclass(frozen=True)
class RunFile:
    """A first stage that was run elsewhere: a TREC run."""

    path: str = dataclass_field(metadata=CONTENT)
    shown: ClassVar[str] = "a run file"

    def retrieve(self, collection: Collection, queries: Mapping[str, Query], depth: int) -> dict[str, Candidates]:
        check_depth(depth)
        every = read_run(self.path)
        check_covers(every, queries, self.path)
        run = {qid: ranked[:depth] for qid, ranked in every.items() if qid in queries}
        try:
            return assemble(collection, queries, run)
        except DataError as error:
            raise DataError(f"{self._first_unknown(collection, run)}: {error}") from error

    def _first_unknown(self, collection: Collection, run: Mapping[str, list[tuple[str, float]]]) -> str:
        """``file:line`` of the first document the collection lacks."""
        wanted = {(qid, docid) for qid, ranked in run.items() for docid, _ in ranked}
        for number, qid, docid, _, _ in _run_rows(self.path):
            if (qid, docid) in wanted:
                try:
                    collection.passages([docid])
                except DataError:
                    return f"{self.path}:{number}: document {shown(docid)}"
        return self.path
