"""The authors' training set, ``le723z/rearank_12k``, or a file in its shape: windows with their prompts.

A row has ``prompt`` (chat messages), ``query`` (text), ``hits`` (``qid, docid, rank, score, content`` each, in the
order that the prompt shows) and often ``metrics`` and ``best_metrics`` (``NDCG@10`` of the given and of the best
order). Many rows share a query. Grades are not in it: they come from TREC judgements by query id.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from rearank.checks import check_fields
from rearank.data.base import DataError
from rearank.data.files import field, read_id
from rearank.data.irds import Irds
from rearank.data.rows.tables import LeftOut, RowTable
from rearank.data.source import HeldRows, PromptedWindow
from rearank.data.trec import read_qrels
from rearank.metrics import ndcg
from rearank.runs import CONTENT
from rearank.types import Message, Passage, Query, Role, Window, well_formed

_MEASURE, _K = "NDCG@10", 10
_SAME = 2e-5  # theirs is rounded to five decimals
_log = logging.getLogger(__name__)


class _NotJudgedError(DataError):
    """A row of a query that nobody judged."""


@dataclass(frozen=True)
class RearankRows:
    """Rows in the shape of ``le723z/rearank_12k``; the prompts are shown as they are.

    Args:
        name: of the dataset.
        path: a hub id, a parquet or JSONL file, or a folder of them.
        qrels: judgements, joined: each a TREC or BEIR file, or an id of ir_datasets.
        revision: a branch, tag or commit of the hub's; ``null`` for the newest.
        prompt: the node of ``conf/prompt`` whose wording the rows show, ``null`` for none.
        on_unjudged: what happens to a row whose query has no judgement: an ``error``, or ``skip`` it.
        on_bad_row: and to one that can't be read, or contradicts itself or another row.

    What is skipped is counted. So are rows whose stored nDCG isn't what the judgements say, and rows whose scores don't
    fall: the authors' scorer sorts by these, here the position counts.
    """

    name: str
    path: str = dataclass_field(metadata=CONTENT)
    qrels: tuple[str, ...] = dataclass_field(metadata=CONTENT)
    revision: str | None = None
    prompt: str | None = None
    on_unjudged: Literal["error", "skip"] = "error"
    on_bad_row: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        if not self.qrels:
            raise ValueError("qrels must name at least one file of judgements or id of ir_datasets")
        check_fields(self)

    def preflight(self) -> list[str]:
        """A file that isn't there, or the package that fetches from the hub."""
        return self._table.preflight()

    def rows(self) -> HeldRows:
        """Every row with its grades."""
        grades = self._grades
        windows: list[PromptedWindow] = []
        left_out = LeftOut()
        texts: dict[str, str] = {}
        odd: dict[str, list[str]] = {"other nDCG": [], "scores": []}
        for where, record in self._table.read():
            try:
                if isinstance(record, DataError):
                    raise record
                window = _window(record, grades, texts, where)
            except _NotJudgedError as error:
                left_out.add(error, self.on_unjudged, "on_unjudged", "query not judged")
                continue
            except DataError as error:
                left_out.add(error, self.on_bad_row)
                continue
            windows.append(window)
            odd["other nDCG"] += _other_ndcg(record, window, where)
            odd["scores"] += _not_falling(record, where)
        left_out.say(self.path, len(windows), "rows")
        self._say(len(windows), odd)
        return HeldRows(tuple(windows), dict(left_out.counts))

    @property
    def _table(self) -> RowTable:
        return RowTable(self.path, self.revision)

    def _say(self, kept: int, odd: Mapping[str, Sequence[str]]) -> None:
        if other := odd["other nDCG"]:
            _log.warning(
                "%s: %d of %d rows store another nDCG@10 than the judgements give, the first is %s; the reward goes by "
                "the judgements, so check that qrels are those of the rows",
                *(self.path, len(other), kept, other[0]),
            )
        if scores := odd["scores"]:
            _log.warning(
                "%s: %d of %d rows have scores that don't fall with the position, the first is %s; the authors' scorer "
                "sorts by them and scores such rows wrongly, here the position in the prompt counts",
                *(self.path, len(scores), kept, scores[0]),
            )

    @cached_property
    def _grades(self) -> dict[str, dict[str, int]]:
        joined: dict[str, dict[str, int]] = {}
        for source in self.qrels:
            for query, judged in _judgements(source).items():
                known = joined.setdefault(query, {})
                for passage, grade in judged.items():
                    if known.setdefault(passage, grade) != grade:
                        raise DataError(
                            f"{source}: query {query!r}, document {passage!r} has grade {grade} here and "
                            f"{known[passage]} in another of dataset.qrels; give judgements that agree"
                        )
        return joined


def _judgements(source: str) -> dict[str, dict[str, int]]:
    if Path(source).is_file():
        return read_qrels(source)
    try:
        return Irds(source).qrels()
    except DataError as error:
        raise DataError(f"dataset.qrels: there is no file {source!r} here, and {error}") from error


def _window(
    row: Mapping[str, Any], grades: Mapping[str, Mapping[str, int]], texts: dict[str, str], where: str
) -> PromptedWindow:
    """The row, checked. ``texts`` are the queries of the rows before, by id."""
    hits = _hits(row, where)
    query = Query(hits[0][0], _query_text(row, where))
    if other := next((qid for qid, _ in hits if qid != query.id), None):
        raise DataError(f"{where}: hits of two queries, {query.id!r} and {other!r}")
    if texts.setdefault(query.id, query.text) != query.text:
        raise DataError(f"{where}: query {query.id!r} has another text in a row before")
    repeated = [docid for docid, times in Counter(docid for _, docid in hits).items() if times > 1]
    if repeated:
        raise DataError(f"{where}: document {repeated[0]!r} occurs twice among the hits")
    prompt = _prompt(row, where)
    if query.id not in grades:
        raise _NotJudgedError(f"{where}: no judgement of query {query.id!r} in dataset.qrels")
    judged = grades[query.id]
    return PromptedWindow(
        Window(query, tuple(Passage(docid, "") for _, docid in hits)),
        tuple(judged.get(docid, 0) for _, docid in hits),
        tuple(sorted((grade for grade in judged.values() if grade > 0), reverse=True)),
        prompt=prompt,
    )


def _query_text(row: Mapping[str, Any], where: str) -> str:
    text = row.get("query")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: query must be the query's text, not {text!r}")
    return well_formed(text)


def _hits(row: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    """(query id, document id) in the order shown."""
    hits = row.get("hits")
    if not isinstance(hits, list) or len(hits) < 2 or not all(isinstance(hit, dict) for hit in hits):
        raise DataError(f"{where}: hits must be a list of at least two objects with qid and docid")
    return [
        (
            read_id(field(hit, ("qid",), where), where, "query"),
            read_id(field(hit, ("docid",), where), where, "document"),
        )
        for hit in hits
    ]


def _prompt(row: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    turns = row.get("prompt")
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}: prompt must be a list of chat messages, at least one")
    for turn in turns:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in get_args(Role) or not isinstance(content, str):
            raise DataError(f"{where}: a message of the prompt needs a role of {', '.join(get_args(Role))} and a text")
    if turns[-1]["role"] == "assistant":
        raise DataError(f"{where}: the prompt ends with the assistant's turn, which leaves nothing to answer")
    return tuple(Message(turn["role"], well_formed(turn["content"])) for turn in turns)


def _other_ndcg(row: Mapping[str, Any], window: PromptedWindow, where: str) -> list[str]:
    """Where the row's stored nDCG@10, of the given or the best order, is not ours."""
    ideal = window.ideal or ()
    for key, ranked in (("metrics", window.relevance), ("best_metrics", sorted(window.relevance, reverse=True))):
        stored, ours = _number(row.get(key), _MEASURE), ndcg(ranked, ideal, _K)
        if stored is not None and abs(stored - ours) > _SAME:
            return [f"{where} ({key}: {stored:.5f}, here {ours:.5f})"]
    return []


def _not_falling(row: Mapping[str, Any], where: str) -> list[str]:
    scores = [_number(hit, "score") for hit in row["hits"]]
    rising = any(a is not None and b is not None and b >= a for a, b in pairwise(scores))
    return [where] if rising else []


def _number(row: Any, key: str) -> float | None:
    value = row.get(key) if isinstance(row, dict) else None
    return float(value) if isinstance(value, (int, float)) else None
