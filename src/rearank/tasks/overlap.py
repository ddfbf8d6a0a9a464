"""Training and measurement kept apart: which training queries a benchmark or a validation dataset also has."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from rearank.data import DataError
from rearank.data.benchmark import Benchmark
from rearank.data.overlap import JudgedQuery, normalised, overlaps
from rearank.data.source import Source, split_judgements
from rearank.runs.layout import PREPARED, TRAIN_ROWS
from rearank.types import Query

Rule: TypeAlias = Literal["error", "drop", "allow"]
"""Of a training query that is measured on."""
_ABOVE = 4
"""A checkpoint lies at most so many folders below its run's: ``training/checkpoints/checkpoint-10``."""
_log = logging.getLogger(__name__)


class OverlapError(ValueError):
    """Queries that are trained on and measured on; the message names them and the ways out."""


def refuse_overlap(
    training: Sequence[JudgedQuery],
    measured: Mapping[str, Sequence[JudgedQuery]],
    rule: Rule,
) -> frozenset[str]:
    """The ids of the training queries to do without.

    Args:
        training: what is trained on.
        measured: benchmark or validation dataset -> what is measured on.
        rule: ``prepare.overlap``.

    Raises:
        OverlapError: where there are some and ``rule`` is ``error``.
    """
    found = {name: shared for name, others in measured.items() if (shared := overlaps(training, others))}
    if not found:
        return frozenset()
    lines = [
        f"{len(shared)} of {len(training)} training queries are also in {name} (query {shared[0].training.id!r} of the "
        f"training set is query {shared[0].other.id!r} there: {shared[0].other.text[:80]!r})"
        for name, shared in found.items()
    ]
    if rule == "error":
        raise OverlapError(
            f"{'; '.join(lines)}. A score on queries that were trained on says nothing about new ones: choose another "
            "split or benchmark, leave these queries out of training (prepare.overlap=drop), or measure on them "
            "nevertheless (prepare.overlap=allow)"
        )
    _log.warning(
        "%s: %s (prepare.overlap=%s)", "; ".join(lines), "left out of training" if rule == "drop" else "kept", rule
    )
    return frozenset(one.training.id for shared in found.values() for one in shared) if rule == "drop" else frozenset()


def measured_queries(
    benchmarks: Iterable[Benchmark | Source], *, missing: Literal["raise", "skip"] = "raise"
) -> dict[str, list[JudgedQuery]]:
    """Benchmark, or source of a dataset -> its judged queries.

    ``missing``: what happens to one whose data isn't here.
    """
    found = {}
    for benchmark in benchmarks:
        try:
            queries = benchmark.collection.queries()
            grades = split_judgements(benchmark.collection.qrels(), benchmark.own_passage).grades
        except DataError:
            if missing == "raise":
                raise
            continue
        found[benchmark.name] = [
            JudgedQuery(query, frozenset(p for p, grade in grades[qid].items() if grade > 0))
            for qid, query in queries.items()
            if qid in grades
        ]
    return found


def digests(measured: Mapping[str, Sequence[JudgedQuery]]) -> dict[str, str]:
    """Of each benchmark's queries: rows made without them depend on these."""
    texts = {name: sorted({normalised(one.query.text) for one in queries}) for name, queries in measured.items()}
    return {name: hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] for name, lines in texts.items()}


def training_queries(place: Path) -> list[JudgedQuery]:
    """Of the run in whose folder ``place`` (a checkpoint, say) is; none where no rows were prepared there."""
    near = (folder / PREPARED / TRAIN_ROWS for folder in [place, *place.parents][: _ABOVE + 1])
    rows = next((path for path in near if path.is_file()), None)
    return [] if rows is None else _queries_of(rows)


def _queries_of(rows: Path) -> list[JudgedQuery]:
    import pyarrow.parquet as pq

    texts: dict[str, str] = {}
    relevant: dict[str, set[str]] = {}
    for row in pq.read_table(rows, columns=["reward_model", "extra_info"]).to_pylist():
        extra, grades = row["extra_info"], row["reward_model"]["ground_truth"]["relevance"]
        texts[extra["query_id"]] = extra["query"]
        passages = zip(extra["passage_ids"], grades, strict=True)
        relevant.setdefault(extra["query_id"], set()).update(passage for passage, grade in passages if grade > 0)
    return [JudgedQuery(Query(qid, text), frozenset(relevant[qid])) for qid, text in texts.items()]
