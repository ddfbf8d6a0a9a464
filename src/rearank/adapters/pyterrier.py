"""PyTerrier transformers: our first stage and our reranker in PyTerrier's pipelines. No Java is started.

``FirstStage(Bm25(), collection) % 100 >> RerankTransformer(Reranker("rearank7b"))`` is a pipeline as any other;
``topics`` and ``qrels`` give ``pt.Experiment`` the rest. Needs the extra ``pyterrier``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from rearank.data.base import Collection, Retriever
from rearank.reranker import Reranker, RerankResult
from rearank.types import Candidates, Passage, Query, scorable, well_formed

try:
    import pandas as pd
    import pyterrier as pt
except ImportError as error:
    raise ImportError(
        "rearank.adapters.pyterrier needs PyTerrier: install rearank's extra pyterrier (pip install -e '.[pyterrier]')"
    ) from error

_RESULTS = ["qid", "query", "docno"]


class FirstStage(pt.Transformer):  # type: ignore[misc]
    """Q -> R: any ``rearank.data`` retriever over its collection, with the passages' texts.

    Columns out: those of the queries, ``docno``, ``text``, ``title`` where the collection has titles, ``score`` (the
    retriever's own, ties broken by a hair; ``1 / rank`` where it gives an order only) and ``rank`` from 0.

    Args:
        retriever: ``Bm25()``, a run file...
        collection: what it searches.
        num_results: the most passages a query; ``% k`` lowers it.
    """

    def __init__(self, retriever: Retriever, collection: Collection, num_results: int = 1000) -> None:
        if num_results < 1:
            raise ValueError(f"num_results must be at least 1, not {num_results}")
        self.retriever = retriever
        self.collection = collection
        self.num_results = num_results

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Retrieve for every query of the frame."""
        pt.validate.query_frame(inp, extra_columns=["query"], context=self)
        queries = {query.id: Query(query.id, well_formed(query.text)) for query in _queries(_rows(inp)).values()}
        found = self.retriever.retrieve(self.collection, queries, self.num_results) if queries else {}
        rows = [{**row, **hit} for row in _rows(inp) for hit in _hits(found[_id(row, "qid")])]
        titled = any(row["title"] for row in rows)
        columns = [*inp.columns, "docno", "text", *(["title"] if titled else []), "score", "rank"]
        return _frame(rows, columns)

    def fuse_rank_cutoff(self, k: int) -> FirstStage | None:
        """The same first stage with ``k`` passages at most: what ``% k`` compiles to."""
        return FirstStage(self.retriever, self.collection, k) if k < self.num_results else None

    def __repr__(self) -> str:
        return f"FirstStage({type(self.retriever).__name__}, {self.collection.name}, {self.num_results})"


class RerankTransformer(pt.Transformer):  # type: ignore[misc]
    """R -> R: a ``Reranker`` over each query's results, all queries at once.

    A row without an id, a text (``None``, ``NaN``, anything but a text) or a number for its place raises ``ValueError``
    before any call, and so do two rows of one qid with different queries.
    The results are read in the order of ``rank``, or of falling ``score``, or as they stand. ``score`` (``1 / rank``:
    an order, no probabilities) and ``rank`` (from 0) are new, every other column stays. A failed query raises.

    Args:
        reranker: of this package.
        text_field: the column with the passages' texts; ``pt.text.get_text`` adds one where it is missing.
        title_field: a column with their titles, used where there is one.
        show_progress: show how far it is.
    """

    def __init__(
        self,
        reranker: Reranker,
        text_field: str = "text",
        title_field: str | None = "title",
        show_progress: bool = False,
    ) -> None:
        self.reranker = reranker
        self.text_field = text_field
        self.title_field = title_field
        self.show_progress = show_progress

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Rerank every query of the frame; raises ``EngineError`` where one fails."""
        pt.validate.result_frame(inp, extra_columns=["query", self.text_field], context=self)
        queries = _queries(_rows(inp))
        by_query: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(_rows(inp), key=_given_order):
            by_query.setdefault(_id(row, "qid"), []).append(row)
        pairs = [(queries[qid], [self._passage(row) for row in rows]) for qid, rows in by_query.items()]
        results = self.reranker.rerank_many(pairs, show_progress=self.show_progress)
        ranked = []
        for rows, result in zip(by_query.values(), results, strict=True):
            assert isinstance(result, RerankResult)  # a failure was raised
            ranked += [{**rows[item.index], "score": item.score, "rank": item.rank - 1} for item in result]
        columns = [name for name in inp.columns if name not in ("score", "rank")]
        return _frame(ranked, [*columns, "score", "rank"])

    def _passage(self, row: dict[str, Any]) -> Passage:
        titled = self.title_field is not None and not _is_nothing(row.get(self.title_field))
        title = _text(row, str(self.title_field)) if titled else ""
        return Passage(_id(row, "docno"), _text(row, self.text_field), title)

    def __repr__(self) -> str:
        return f"RerankTransformer({self.reranker.model.name})"


def topics(collection: Collection) -> pd.DataFrame:
    """The judged queries of a collection, as ``pt.Experiment`` takes them: ``qid, query``."""
    judged = collection.qrels()
    rows = [{"qid": qid, "query": query.text} for qid, query in collection.queries().items() if judged.get(qid)]
    return _frame(rows, ["qid", "query"])


def qrels(collection: Collection) -> pd.DataFrame:
    """Its judgements, as ``pt.Experiment`` takes them: ``qid, docno, label``."""
    rows = [
        {"qid": qid, "docno": docno, "label": grade}
        for qid, grades in collection.qrels().items()
        for docno, grade in grades.items()
    ]
    return _frame(rows, ["qid", "docno", "label"])


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[Hashable, Any]] = frame.to_dict(orient="records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _queries(rows: Sequence[dict[str, Any]]) -> dict[str, Query]:
    """By qid, which has one query however many rows it has."""
    found: dict[str, Query] = {}
    for row in rows:
        query = Query(_id(row, "qid"), _text(row, "query"))
        if found.setdefault(query.id, query) != query:
            raise ValueError(
                f"qid {query.id!r} has two queries, {found[query.id].text!r} and {query.text!r} (column 'query'); give "
                "each query a qid of its own"
            )
    return found


def _is_nothing(value: Any) -> bool:
    """What pandas writes where a table has nothing: ``None``, ``NaN`` or ``NA``."""
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def _value(row: dict[str, Any], column: str) -> Any:
    value = row[column]
    if _is_nothing(value):
        raise ValueError(
            f"{_place(row)}: no value in the column {column!r} ({value!r}); fill it "
            "(pt.text.get_text adds texts) or drop the row"
        )
    return value


def _place(row: dict[str, Any]) -> str:
    return f"qid {row['qid']!r}, docno {row.get('docno')!r}"


def _text(row: dict[str, Any], column: str) -> str:
    """What a cell says."""
    value = _value(row, column)
    if not isinstance(value, str):
        raise ValueError(
            f"{_place(row)}: the column {column!r} holds {str(value)[:40]!r} of type {type(value).__name__}, and a "
            "text is needed; make it one (frame[column].astype(str), or bytes.decode())"
        )
    return str(value)


def _id(row: dict[str, Any], column: str) -> str:
    """A text, or a whole number, which pandas makes of ids in digits."""
    value = _value(row, column)
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    found = str(value) if whole else _text(row, column)
    if not scorable(found):
        raise ValueError(f"{column} {found!r} holds half a character or a NUL, which trec_eval can't hold; rename it")
    return found


def _given_order(row: dict[str, Any]) -> float:
    column = next((name for name in ("rank", "score") if name in row), None)
    if column is None:
        return 0.0
    value = _value(row, column)
    try:
        place = float(value)
    except (TypeError, ValueError):
        place = math.nan
    if math.isnan(place):
        raise ValueError(f"{_place(row)}: the column {column!r} holds {str(value)[:40]!r}, which is no number; mend it")
    return place if column == "rank" else -place


def _hits(candidates: Candidates) -> list[dict[str, Any]]:
    scores = candidates.scores or [1 / (rank + 1) for rank in range(len(candidates.passages))]
    return [
        {"docno": passage.id, "text": passage.text, "title": passage.title, "score": score, "rank": rank}
        for rank, (passage, score) in enumerate(zip(candidates.passages, _falling(scores), strict=True))
    ]


def _falling(scores: Sequence[float]) -> list[float]:
    """Equal scores apart by a float32's smallest step: evaluation reads scores, and would order ties by docno."""
    falling: list[float] = []
    for score in np.asarray(scores, dtype=np.float32):
        below = np.nextafter(np.float32(falling[-1]), np.float32(-np.inf)) if falling else score
        falling.append(float(min(score, below)))
    return falling


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """With these columns in this order, rows or none."""
    return pd.DataFrame(rows, columns=columns)
