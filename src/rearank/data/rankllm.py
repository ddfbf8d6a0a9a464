"""Candidates with their texts in one file, as RankLLM and RankGPT publish them.

RankLLM's lines are ``{query: {text, qid}, candidates: [{docid, score, doc}]}``; RankGPT's are ``{query, hits:
[{qid, docid, score, content}]}``. Both may also stand in one JSON array. Such a file is a collection (its texts) and
a first stage (its lists) at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from typing import Any, ClassVar

from rearank.data.base import Collection, DataError, check_covers, check_depth, lookup
from rearank.data.files import (
    content_hash,
    field,
    parse_json,
    passage_of,
    read_id,
    read_json_lines,
    read_lines,
    require_file,
    shown,
    unique,
)
from rearank.data.trec import read_qrels
from rearank.runs import CONTENT
from rearank.types import Candidates, Passage, Query, well_formed

_DOCID = ("docid", "doc_id", "_id", "id", "pid")


def _rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    first = next((line.lstrip()[0] for _, line in read_lines(path, "candidates file") if line.strip()), "")
    if first != "[":
        yield from read_json_lines(path)
        return
    rows = parse_json("\n".join(line for _, line in read_lines(path)), path, 1, "fetch the file again")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}:1: entry {number} isn't a JSON object; see RankLLM's format")
        yield number, row


def _passage(item: Any, where: str) -> Passage:
    if not isinstance(item, dict):
        raise DataError(f"{where}: a candidate must be a JSON object with docid and doc, not {type(item).__name__}")
    docid = read_id(field(item, _DOCID, where), where, "document")
    doc = item.get("doc", item)
    if isinstance(doc, str):
        return Passage(docid, well_formed(doc))
    if not isinstance(doc, dict):
        raise DataError(f"{where}: doc of {shown(docid)} must be a text or a JSON object with its text")
    return passage_of({**doc, "docid": docid}, where, id_keys=("docid",))


def _scores(items: list[Any], where: str) -> tuple[float, ...]:
    """Of every candidate; none where one has no score, or ``null``: the file's order is the ranking."""
    given = [item.get("score") for item in items]
    if any(score is None for score in given):
        return ()
    return tuple(_score(score, where) for score in given)


def _score(given: Any, where: str) -> float:
    try:
        score = float(given)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"{where}: score {shown(given)} isn't a finite number; write one, or null where there is none")
    return score


def candidates_of(row: dict[str, Any], where: str) -> Candidates:
    """The query and the passages of one line, in the line's order; raises `DataError` naming ``where``."""
    items = row.get("candidates", row.get("hits"))
    if not isinstance(items, list):
        raise DataError(f"{where}: no list 'candidates' (RankLLM) or 'hits' (RankGPT)")
    query = row.get("query")
    if isinstance(query, dict):
        qid, text = field(query, ("qid", "id", "_id"), where), field(query, ("text", "query"), where)
    elif isinstance(query, str) and items and isinstance(items[0], dict):
        qid, text = field(items[0], ("qid",), where), query
    else:
        raise DataError(f"{where}: no query id; write query as {{text, qid}}")
    # The order in the file is the ranking: some exports carry scores that don't fall.
    passages = tuple(_passage(item, where) for item in items)
    scores = _scores(items, where)
    asked = Query(read_id(qid, where, "query"), well_formed(text))
    try:
        return Candidates(asked, passages, scores)
    except ValueError as error:
        raise DataError(f"{where}: {error}; remove the repetition") from error


def read_candidates(path: str) -> dict[str, Candidates]:
    """Query id -> candidates with text, in the file's order."""
    lists: dict[str, Candidates] = {}
    for number, row in _rows(path):
        candidates = candidates_of(row, f"{path}:{number}")
        unique(lists, candidates.query.id, f"{path}:{number}", "query id")
        lists[candidates.query.id] = candidates
    return lists


@dataclass(frozen=True)
class RankLlmFile:
    """The texts of a candidates file as a collection, with judgements from a TREC file of their own."""

    path: str = dataclass_field(metadata=CONTENT)
    qrels_file: str = dataclass_field(default="", metadata=CONTENT)
    name: str = "rankllm"

    @cached_property
    def _lists(self) -> dict[str, Candidates]:
        return read_candidates(self.path)

    @cached_property
    def _passages(self) -> dict[str, Passage]:
        found = {p.id: p for listed in self._lists.values() for p in listed.passages}
        if not found:
            raise DataError(f"{self.path}:1: no candidate in it; an empty collection can't be searched")
        return found

    def queries(self) -> dict[str, Query]:
        return {qid: listed.query for qid, listed in self._lists.items()}

    def qrels(self) -> dict[str, dict[str, int]]:
        # Judged documents that the file doesn't hold are usual: it is an extract of a collection.
        return read_qrels(self.qrels_file) if self.qrels_file else {}

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        return lookup(self._passages, ids, self.path)

    def iter_passages(self) -> Iterator[Passage]:
        return iter(self._passages.values())

    def scoreddocs(self) -> dict[str, list[tuple[str, float]]]:
        return {
            qid: [(p.id, c.scores[n] if c.scores else 1 / (n + 1)) for n, p in enumerate(c.passages)]
            for qid, c in self._lists.items()
        }

    def fingerprint(self) -> str:
        return content_hash(require_file(self.path, "candidates file"))


@dataclass(frozen=True)
class RankLlmCandidates:
    """First stage: the lists of a candidates file, with the texts that it carries. The collection isn't asked."""

    path: str = dataclass_field(metadata=CONTENT)
    shown: ClassVar[str] = "the lists as given"

    def retrieve(self, collection: Collection, queries: Mapping[str, Query], depth: int) -> dict[str, Candidates]:
        check_depth(depth)
        lists = read_candidates(self.path)
        check_covers(lists, queries, self.path)
        empty = Candidates(Query("", ""), ())
        found = {qid: lists.get(qid, empty).top(depth) for qid in queries}
        return {qid: Candidates(queries[qid], c.passages, c.scores) for qid, c in found.items()}
