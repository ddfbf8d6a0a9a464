"""How much of what is judged can be measured: what is missing is counted, and an error where it is all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from rearank.data.base import Collection, DataError, KnowsIds
from rearank.types import Candidates, Qrels, Query


@dataclass(frozen=True, slots=True)
class Coverage:
    """Counts of one collection with its first stage.

    Args:
        judged: queries with a grade.
        without_text: of these, the ones that the topics lack.
        without_candidates: of these, the ones with a text for which the first stage found nothing that is allowed.
        without_relevant: of these, the ones with no grade above 0: no order of theirs scores.
        unjudged: queries of the topics without a grade; they aren't measured.
        passages: judged passages.
        absent: of these, the ones that the collection lacks; ``None`` where it can't tell without being read whole.
        first_missing: the first query without text or candidates, empty where there is none.
    """

    judged: int
    without_text: int
    without_candidates: int
    without_relevant: int
    unjudged: int
    passages: int
    absent: int | None
    first_missing: str = ""

    @property
    def missing(self) -> int:
        """Judged queries that have nothing to rank."""
        return self.without_text + self.without_candidates

    def as_json(self) -> dict[str, int | str | None]:
        return asdict(self)

    def line(self, zero: bool) -> str:
        """What is missing, in one line; empty where nothing is.

        ``zero``: queries that can't be ranked count 0; they are left out otherwise.
        """
        counts = "count 0 in every mean (benchmark.missing=skip leaves them out)" if zero else "are left out"
        parts = []
        if self.missing:
            parts.append(
                f"{self.missing} of {self.judged} judged queries can't be ranked ({self.without_text} not among the "
                f"topics, {self.without_candidates} without a candidate; the first is {self.first_missing!r}): they "
                f"{counts}"
            )
        if self.absent:
            parts.append(
                f"{self.absent} of {self.passages} judged passages aren't in the collection, so nothing can find them; "
                "are judgements and documents of one version?"
            )
        if self.without_relevant:
            parts.append(
                f"{self.without_relevant} of {self.judged} judged queries have no grade above 0: they score 0 whatever "
                "the order"
            )
        return "; ".join(parts)


def coverage_of(
    name: str, collection: Collection, topics: Mapping[str, Query], qrels: Qrels, lists: Mapping[str, Candidates]
) -> Coverage:
    """Count what is missing.

    Args:
        name: of the source, in errors.
        collection: holds the passages.
        topics: every query.
        qrels: grades, of judged queries alone.
        lists: candidates of the judged queries that the topics hold.

    Raises:
        DataError: where so much is missing that every measure would be 0, whatever the order.
    """
    textless = [qid for qid in qrels if qid not in topics]
    empty = [qid for qid, listed in lists.items() if not listed.passages]
    fruitless = [qid for qid, grades in qrels.items() if max(grades.values()) < 1]
    if len(textless) == len(qrels):
        raise DataError(
            f"{name}: no query has a judgement; check that topics and qrels belong together ({len(qrels)} queries are "
            f"judged, none of them is among the {len(topics)} topics{_first(qrels, topics)})"
        )
    if len(empty) == len(lists):
        raise DataError(
            f"{name}: none of the {len(lists)} judged queries has a candidate; check that the first stage is of these "
            "topics, and that not every candidate is excluded"
        )
    if len(fruitless) == len(qrels):
        raise DataError(f"{name}: no passage has a grade above 0; check the column of grades in the judgements")
    passages = {passage for grades in qrels.values() for passage in grades}
    absent = len(collection.lacks(passages)) if isinstance(collection, KnowsIds) else None
    found_judged = any(passage.id in qrels[qid] for qid, listed in lists.items() for passage in listed.passages)
    if absent == len(passages) or (absent is None and not found_judged):
        raise DataError(
            f"{name}: none of the {len(passages)} judged passages is in the collection or among the candidates (the "
            f"first is {next(iter(next(iter(qrels.values()))))!r}); give the judgements of these documents"
        )
    return Coverage(
        judged=len(qrels),
        without_text=len(textless),
        without_candidates=len(empty),
        without_relevant=len(fruitless),
        unjudged=len(topics.keys() - qrels.keys()),
        passages=len(passages),
        absent=absent,
        first_missing=next(iter([*textless, *empty]), ""),
    )


def _first(judged: Iterable[str], topics: Iterable[str]) -> str:
    """An id of each side, to be compared by eye."""
    pair = next(zip(judged, topics, strict=False), None)
    return f"; the first are {pair[0]!r} and {pair[1]!r}" if pair else ""
