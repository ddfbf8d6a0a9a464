"""A reranked query -> what is written of it, in each format.

A record is a JSON object: ``id`` and ``query``; ``passages``, best first, each with its ``id``, ``rank`` from 1,
``score`` and ``index`` (its 0-based place in the list that was given), where asked also ``title`` and ``text``; and
what the answers were: ``calls``, ``statuses`` (how each was parsed -> how many), ``prompt_tokens``,
``completion_tokens``, ``cost`` in US dollars, and where asked ``windows``. All of it follows from the answers, so that
a run that was stopped and continued writes the same bytes as an undisturbed one.

Scores are the strategy's where it has any (pointwise, tournament), and ``null`` below the depth; otherwise
``1 / rank``, which says nothing but the order. A TREC run has whole numbers that fall by one: trec_eval orders close
scores anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO, Protocol

from rearank.data import DataError
from rearank.engines.account import DIGITS, Account
from rearank.engines.session import Reranked
from rearank.engines.tracing import WindowTrace
from rearank.types import Candidates, Ranking, well_formed

_ROWS = 500  # of a parquet file that are written together
_TAG = "rearank"


def record_of(given: Candidates, ranking: Ranking, done: Reranked | None, *, texts: bool) -> dict[str, Any]:
    """What is written of a query.

    Args:
        given: the whole list.
        ranking: of its first passages; the others follow in their order.
        done: how it came about; its windows are written where it has any. ``None`` where nothing was asked.
        texts: write titles and texts of the passages, too.
    """
    places = {passage.id: place for place, passage in enumerate(given.passages)}
    order = [places[identifier] for identifier in ranking.passage_ids]
    order += range(len(order), len(given.passages))
    scores: list[float | None] = [*ranking.scores, *[None] * (len(order) - len(ranking.scores))]
    passages = []
    for rank, place in enumerate(order, 1):
        passage = given.passages[place]
        score = scores[rank - 1] if ranking.scores else 1 / rank
        one: dict[str, Any] = {"id": passage.id, "rank": rank, "score": score, "index": place}
        passages.append(one | ({"title": passage.title, "text": passage.text} if texts else {}))
    account = Account() if done is None else done.account
    record: dict[str, Any] = {"id": given.query.id, "query": given.query.text, "passages": passages}
    record |= {"calls": account.calls, "statuses": dict(sorted((k.value, v) for k, v in account.statuses.items()))}
    record |= {"prompt_tokens": account.prompt_tokens, "completion_tokens": account.completion_tokens}
    record |= {"cost": round(account.cost, DIGITS)}
    return record | ({"windows": [_window(one) for one in done.windows]} if done is not None and done.windows else {})


def _window(trace: WindowTrace) -> dict[str, Any]:
    """Places as ``index`` has them."""
    return {
        "shown": list(trace.shown),
        "ordered": None if trace.ordered is None else list(trace.ordered),
        "status": None if trace.status is None else trace.status.value,
        "reasoning": None if trace.think is None else well_formed(trace.think),
        "answer": None if trace.answer is None else well_formed(trace.answer),
    }


class WritesRecords(Protocol):
    """A format's way to write records one by one."""

    def write(self, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class TrecLines:
    """A TREC run."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, record: Mapping[str, Any]) -> None:
        """A line a passage."""
        query, passages = record["id"], record["passages"]
        for one in passages:
            if len(f"{query} {one['id']}".split()) != 2:  # readers see to it; a collection of a user's own may not
                raise DataError(
                    f"query {query!r}, passage {one['id']!r}: a TREC run can't hold an id that is empty or has a space"
                    "; write JSONL or parquet (rerank.output=out.jsonl)"
                )
        lines = (f"{query} Q0 {one['id']} {one['rank']} {len(passages) + 1 - one['rank']} {_TAG}\n" for one in passages)
        self._stream.write("".join(lines).encode())
        self._stream.flush()

    def close(self) -> None:
        """Nothing is left to write."""


class JsonLines:
    """A JSON object a line."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, record: Mapping[str, Any]) -> None:
        """A line."""
        self._stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is left to write."""


class ParquetRows:
    """A parquet file; ``statuses`` are a map."""

    def __init__(self, stream: BinaryIO, *, texts: bool, reasoning: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        whole, places = pa.int64(), pa.list_(pa.int64())
        passage = {"id": pa.string(), "rank": whole, "score": pa.float64(), "index": whole}
        passage |= {"title": pa.string(), "text": pa.string()} if texts else {}
        window = {"shown": places, "ordered": places, **dict.fromkeys(("status", "reasoning", "answer"), pa.string())}
        columns = {"id": pa.string(), "query": pa.string(), "passages": pa.list_(pa.struct(passage)), "calls": whole}
        columns |= {"statuses": pa.map_(pa.string(), whole), "prompt_tokens": whole, "completion_tokens": whole}
        columns |= {"cost": pa.float64()} | ({"windows": pa.list_(pa.struct(window))} if reasoning else {})
        self._schema = pa.schema(columns)
        self._rows: list[Mapping[str, Any]] = []
        self._file = pq.ParquetWriter(stream, self._schema)

    def write(self, record: Mapping[str, Any]) -> None:
        """A row; rows are written in groups."""
        self._rows.append({**record, "statuses": list(record["statuses"].items())})
        if len(self._rows) == _ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the file's end."""
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []
