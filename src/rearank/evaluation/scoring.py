"""Runs scored by trec_eval, through pytrec_eval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from rearank.types import MAX_GRADE, Qrels, scorable


def score(
    run: Mapping[str, Sequence[str]],
    qrels: Qrels,
    measures: Sequence[str] = ("ndcg_cut_10",),
    missing: Literal["zero", "skip"] = "zero",
    relevant_from: int = 1,
) -> dict[str, dict[str, float]]:
    """Score rankings by trec_eval's measures.

    Only the order counts: scores are written as whole numbers, so that neither trec_eval's float32 nor its tie
    breaking (by passage id, descending) can change a result. Grades below 0 are raised to 0: they mean "not relevant"
    to trec_eval too, but below -1 they crash it.

    Args:
        run: query id -> passage ids, best first. Queries without judgements are left out, as in trec_eval.
        qrels: judgements; queries without a single judged passage are left out.
        measures: trec_eval's names, ``ndcg_cut_10``, ``map``, ``recall_100``...
        missing: what a judged query without results counts. ``zero``, or ``skip`` as the paper's scripts do.
        relevant_from: the lowest grade that counts as relevant to measures that know no grades (MAP, recall, MRR,
            precision), trec_eval's ``-l``; nDCG takes the grades themselves.

    Returns:
        measure -> query id -> value.

    Raises:
        ValueError: for a measure trec_eval doesn't know, a passage ranked twice, no judged query at all, an id or a
            grade that trec_eval can't hold, or a ``relevant_from`` below 1.
    """
    import pytrec_eval

    check_measures(measures)
    if missing not in ("zero", "skip"):
        raise ValueError(f"missing must be 'zero' or 'skip', not {missing!r}")
    if relevant_from < 1:
        raise ValueError(f"relevant_from is a grade and must be at least 1, not {relevant_from}")
    judged = {q: {p: max(int(g), 0) for p, g in grades.items()} for q, grades in qrels.items() if grades}
    if not judged:
        raise ValueError("the judgements hold no judged query: nothing can be scored; check the qrels file and split")
    for query, grades in judged.items():
        _check_ids(query, grades)
        if max(grades.values()) > MAX_GRADE:
            raise ValueError(f"query {query!r}: grade {max(grades.values())} is beyond {MAX_GRADE}: no grade, surely")
    scores: dict[str, dict[str, float]] = {}
    for query, ranked in run.items():
        if len(set(ranked)) != len(ranked):
            raise ValueError(f"query {query!r}: a passage is ranked twice")
        if query in judged and ranked:
            _check_ids(query, ranked)
            scores[query] = {passage: float(len(ranked) - rank) for rank, passage in enumerate(ranked)}
    evaluator = pytrec_eval.RelevanceEvaluator(judged, set(measures), relevance_level=relevant_from)
    values = evaluator.evaluate(scores) if scores else {}
    queries = sorted(judged) if missing == "zero" else sorted(scores)
    return {m: {q: float(values.get(q, {}).get(m, 0.0)) for q in queries} for m in measures}


def _check_ids(query: str, passages: Iterable[str]) -> None:
    """All at once where all is well: there may be millions."""
    if scorable("".join((query, *passages))):
        return
    bad = next(one for one in (query, *passages) if not scorable(one))
    raise ValueError(
        f"query {query!r}: the id {bad!r} holds half a character (a lone surrogate) or a NUL, which trec_eval can't "
        "hold; give it another one"
    )


def check_measures(measures: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``measures`` are names that trec_eval knows, one at least."""
    import pytrec_eval

    unknown = [m for m in measures if not _known(m, pytrec_eval.supported_measures)]
    if unknown or not measures:
        raise ValueError(
            f"not measures of trec_eval: {', '.join(unknown) or 'none given'}; try ndcg_cut_10, map, recall_100"
        )


def _known(measure: str, supported: set[str]) -> bool:
    """trec_eval lists families (``ndcg_cut``); a cut-off follows as ``_10``."""
    family, _, cut = measure.rpartition("_")
    return measure in supported or (family in supported and cut.isdigit() and int(cut) > 0)
