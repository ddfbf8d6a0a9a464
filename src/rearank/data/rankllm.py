"""Candidates with their texts in one file, as RankLLM and RankGPT publish them.

RankLLM's lines are ``{query: {text, qid}, candidates: [{docid, score, doc}]}``; RankGPT's are ``{query, hits:
[{qid, docid, score, content}]}``. Both may also stand in one JSON array. Such a file is a collection (its texts) and
a first stage (its lists) at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from typing import Any

from rearank.data.base import Collection, DataError, check_depth, lookup
from rearank.data.files import content_hash, field, passage_of, read_json_lines, read_lines, require_file, unique
from rearank.data.trec import read_qrels
from rearank.runs import CONTENT
from rearank.types import Candidates, Passage, Query

_DOCID = ("docid", "doc_id", "_id", "id", "pid")


def _rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    first = next((line.lstrip()[0] for _, line in read_lines(path, "candidates file") if line.strip()), "")
    if first != "[":
        yield from read_json_lines(path)
        return
    try:
        rows = json.loads("\n".join(line for _, line in read_lines(path)))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg}); fetch the file again") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}:1: entry {number} isn't a JSON object; see RankLLM's format")
        yield number, row


def _passage(item: Any, where: str) -> Passage:
    if not isinstance(item, dict):
        raise DataError(f"{where}: a candidate must be a JSON object with docid and doc, not {type(item).__name__}")
    docid = field(item, _DOCID, where)
    doc = item.get("doc", item)
    if isinstance(doc, str):
        return Passage(docid, doc)
    if not isinstance(doc, dict):
        raise DataError(f"{where}: doc of {docid!r} must be a text or a JSON object with its text")
    return passage_of({**doc, "docid": docid}, where, id_keys=("docid",))


def _score(item: dict[str, Any], where: str) -> float:
    try:
        score = float(item.get("score", 0.0))
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"{where}: score {item.get('score')!r} isn't a finite number")
    return score


def _candidates(row: dict[str, Any], where: str) -> Candidates:
    items = row.get("candidates", row.get("hits"))
    if not isinstance(items, list):
        raise DataError(f"{where}: no list 'candidates' (RankLLM) or 'hits' (RankGPT)")
    query = row.get("query")
    if isinstance(query, dict):
        found = Query(field(query, ("qid", "id", "_id"), where), field(query, ("text", "query"), where))
    elif isinstance(query, str) and items and isinstance(items[0], dict):
        found = Query(field(items[0], ("qid",), where), query)
    else:
        raise DataError(f"{where}: no query id; write query as {{text, qid}}")
    # The order in the file is the ranking: some exports carry scores that don't fall.
    passages = tuple(_passage(item, where) for item in items)
    try:
        return Candidates(found, passages, tuple(_score(item, where) for item in items))
    except ValueError as error:
        raise DataError(f"{where}: {error}; remove the repetition") from error


def read_candidates(path: str) -> dict[str, Candidates]:
    """Query id -> candidates with text, in the file's order."""
    lists: dict[str, Candidates] = {}
    for number, row in _rows(path):
        candidates = _candidates(row, f"{path}:{number}")
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
        # Judged queries and documents that the file doesn't hold are usual: it is an extract of a collection.
        judged = read_qrels(self.qrels_file) if self.qrels_file else {}
        return {qid: grades for qid, grades in judged.items() if qid in self._lists}

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        return lookup(self._passages, ids, self.path)

    def iter_passages(self) -> Iterator[Passage]:
        return iter(self._passages.values())

    def scoreddocs(self) -> dict[str, list[tuple[str, float]]]:
        return {qid: list(zip((p.id for p in c.passages), c.scores, strict=True)) for qid, c in self._lists.items()}

    def fingerprint(self) -> str:
        return content_hash(require_file(self.path, "candidates file"))


@dataclass(frozen=True)
class RankLlmCandidates:
    """First stage: the lists of a candidates file, with the texts that it carries. The collection isn't asked."""

    path: str = dataclass_field(metadata=CONTENT)

    def retrieve(self, collection: Collection, queries: Mapping[str, Query], depth: int) -> dict[str, Candidates]:
        check_depth(depth)
        lists = read_candidates(self.path)
        empty = Candidates(Query("", ""), ())
        found = {qid: lists.get(qid, empty).top(depth) for qid in queries}
        return {qid: Candidates(queries[qid], c.passages, c.scores) for qid, c in found.items()}
