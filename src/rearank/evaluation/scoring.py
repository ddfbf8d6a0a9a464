"""Runs scored by trec_eval, through pytrec_eval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from rearank.evaluation.measures import Measure, check_measures, parse_measure
from rearank.types import MAX_GRADE, Qrels, scorable


class ScoreError(ValueError):
    """A run or judgements that can't be scored; the message names the query or the id."""


def score(
    run: Mapping[str, Sequence[str]],
    qrels: Qrels,
    measures: Sequence[str] = ("ndcg_cut_10",),
    missing: Literal["zero", "skip"] = "zero",
    relevant_from: int = 1,
) -> dict[str, dict[str, float]]:
    """Score rankings by trec_eval's measures.

    Only the order counts: scores are written as whole numbers, so that neither trec_eval's float32 nor its tie
    breaking (by passage id, descending) can change a result; ``trec_order`` gives its order where that is wanted.
    Grades below 0 are raised to 0: they mean "not relevant" to trec_eval too, but below -1 they crash it.

    Args:
        run: query id -> passage ids, best first. Queries without judgements are left out, as in trec_eval.
        qrels: judgements; queries without a single judged passage are left out.
        measures: trec_eval's names (``ndcg_cut_10``, ``map``, ``recall_100``), ``recip_rank_cut_10``, ``judged_10``, or
            ir_measures' names (``nDCG@10``, ``MRR@10``, ``AP(rel=2)``).
        missing: what a judged query without results counts. ``zero``, or ``skip`` as the paper's scripts do; the share
            that is judged is of queries with results, wherever there are any.
        relevant_from: the lowest grade that counts as relevant to measures that know no grades (MAP, recall, MRR,
            precision), trec_eval's ``-l``; nDCG takes the grades themselves, and ``(rel=2)`` in a name goes before.

    Returns:
        measure, as given -> query id -> value, always finite.

    Raises:
        ScoreError: for a passage ranked twice, no judged query at all, or an id or a grade that trec_eval can't read.
        ValueError: for a measure that can't be computed, or a ``relevant_from`` below 1.
    """
    check_measures(measures)
    if missing not in ("zero", "skip"):
        raise ValueError(f"missing must be 'zero' or 'skip', not {missing!r}")
    if relevant_from < 1:
        raise ValueError(f"relevant_from is a grade and must be at least 1, not {relevant_from}")
    judged = {q: {p: _grade(q, p, g) for p, g in grades.items()} for q, grades in qrels.items() if grades}
    if not judged:
        raise ScoreError("the judgements hold no judged query: nothing can be scored; check the qrels file and split")
    _check_ids("query", judged)
    for query, grades in judged.items():
        _check_ids(f"judged for query {query!r}, passage", grades)
    ranked: dict[str, Sequence[str]] = {}
    for query, passages in run.items():
        if len(set(passages)) != len(passages):
            raise ScoreError(f"query {query!r}: a passage is ranked twice")
        if query in judged and passages:
            _check_ids(f"ranked for query {query!r}, passage", passages)
            ranked[query] = passages
    wanted = {name: parse_measure(name) for name in measures}
    values = _by_trec_eval(ranked, judged, list(wanted.values()), relevant_from)
    found: dict[str, dict[str, float]] = {}
    for name, measure in wanted.items():
        zero = missing == "zero" and bool(measure.trec or not ranked)
        queries = sorted(judged) if zero else sorted(ranked)
        if measure.trec:
            its = values[measure.relevant_from or relevant_from]
            found[name] = {q: _value(measure, q, its[q]) if q in ranked else 0.0 for q in queries}
        else:
            found[name] = {q: _judged(ranked.get(q, ()), judged[q], measure.cut) for q in queries}
    return found


def trec_order(scored: Iterable[tuple[str, float]]) -> list[str]:
    """Passage ids in trec_eval's own order: by score as a 32-bit number, equal ones by id, both descending."""
    import numpy as np

    rows = list(scored)
    with np.errstate(over="ignore"):
        scores = np.array([value for _, value in rows], dtype=np.float64).astype(np.float32)
    keys = [(float(value), passage.encode()) for value, (passage, _) in zip(scores, rows, strict=True)]
    return [rows[n][0] for n in sorted(range(len(rows)), key=keys.__getitem__, reverse=True)]


def _by_trec_eval(
    ranked: Mapping[str, Sequence[str]],
    judged: Mapping[str, Mapping[str, int]],
    measures: Sequence[Measure],
    relevant_from: int,
) -> dict[int, dict[str, dict[str, float]]]:
    """Lowest relevant grade -> query id -> trec_eval's name -> value."""
    import pytrec_eval

    asked: dict[int, set[str]] = {}
    highest = max(grade for grades in judged.values() for grade in grades.values())
    for measure in measures:
        if measure.relevant_from is not None and measure.relevant_from > highest:
            raise ScoreError(
                f"{measure.name}: no passage has a grade of {measure.relevant_from} or more, the highest is {highest}: "
                "every run would score 0; name a lower one"
            )
        if measure.trec:
            asked.setdefault(measure.relevant_from or relevant_from, set()).add(measure.trec)
    scores = {q: {p: float(len(its) - rank) for rank, p in enumerate(its)} for q, its in ranked.items()}
    return {
        level: pytrec_eval.RelevanceEvaluator(judged, names, relevance_level=level).evaluate(scores) if scores else {}
        for level, names in asked.items()
    }


def _value(measure: Measure, query: str, values: Mapping[str, float]) -> float:
    """What trec_eval doesn't answer is an error and no zero."""
    value = float(values[measure.trec])
    if not math.isfinite(value):
        raise ScoreError(f"{measure.name} of query {query!r} is {value}, no finite number; check its judgements")
    if measure.cut is not None and value:  # a reciprocal rank
        return value if round(1 / value) <= measure.cut else 0.0
    return value


def _judged(ranked: Sequence[str], grades: Mapping[str, int], cut: int | None) -> float:
    top = ranked[:cut]
    return sum(passage in grades for passage in top) / len(top) if top else 0.0


def _grade(query: str, passage: str, grade: int) -> int:
    """At least 0, and no more than trec_eval can take."""
    if grade > MAX_GRADE:
        raise ScoreError(
            f"query {query!r}, passage {passage!r}: grade {grade} is above {MAX_GRADE}, which trec_eval can't "
            "score by; is it a count or a time? Write grades such as 0, 1, 2, 3"
        )
    return max(int(grade), 0)


def _check_ids(what: str, ids: Iterable[str]) -> None:
    """trec_eval is C: a lone surrogate crashes the process, and an id ends at its first NUL."""
    listed = list(ids)
    try:
        fits = scorable("".join(listed))
    except TypeError:
        fits = False
    for one in () if fits else listed:
        if not isinstance(one, str) or not scorable(one):
            raise ScoreError(
                f"{what} id {one!r} can't be scored: trec_eval takes text without NUL and without lone surrogates "
                "(half of a character, as \\ud83d alone in a JSON file); write another id"
            )
