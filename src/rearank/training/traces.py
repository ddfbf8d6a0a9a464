"""A teacher's answers to training windows: the file that ``task=distill`` writes and fine-tuning learns from.

``teacher.jsonl`` has a line for each window that was asked about, what was dropped among them: ``query``,
``passages`` (ids as shown), ``order`` (ids, best first), ``reasoning``, ``ndcg`` and ``given_ndcg`` (nDCG@10 of that
order and of the given one, against the window's own best), ``agreement`` (of the samples' orders, mean Kendall's tau),
``samples`` (how many could be read), ``texts`` (a digest of the query's and the passages' texts), ``dropped`` (why,
``null`` for what is kept).
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rearank.parsing import ParseStatus, parse_ranking
from rearank.runs.layout import DISTILLED, TEACHER
from rearank.training.rows import TrainingRow
from rearank.types import Window

_log = logging.getLogger(__name__)
_TAG = re.compile(r"<(?=\s*/?\s*(?:think|answer)\b)", re.IGNORECASE)


class TraceError(ValueError):
    """A teacher's answers that can't be read; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a teacher said of one window; see the fields of the file."""

    query: str
    passages: tuple[str, ...]
    order: tuple[str, ...]
    reasoning: str
    ndcg: float | None = None
    given_ndcg: float | None = None
    agreement: float | None = None
    samples: int = 1
    texts: str | None = None
    dropped: str | None = None

    def answer(self, *, tags: bool) -> str | None:
        """As a model is to write it; ``None`` where that would be read as another order."""
        if sorted(self.order) != sorted(self.passages):
            return None
        order = tuple(self.passages.index(passage) for passage in self.order)
        text = answer_text(order, self.reasoning, tags=tags)
        read = parse_ranking(text, len(order), tags=tags)
        return text if read.status is ParseStatus.OK and tuple(read.permutation.order) == order else None


def answer_text(order: Sequence[int], reasoning: str, *, tags: bool) -> str:
    """An order and what led to it as an answer.

    Args:
        order: positions in the window from 0, best first.
        reasoning: any text; tags in it are taken apart, so that they end nothing. Left out without ``tags``.
        tags: whether the prompt asks for ``<think>`` and ``<answer>``.
    """
    ranking = " > ".join(f"[{position + 1}]" for position in order)
    if not tags:
        return ranking
    thoughts = _TAG.sub("‹", reasoning).strip()
    return f"<think> {thoughts} </think> <answer> {ranking} </answer>"


def file_of(place: Path) -> Path:
    """The file of a teacher's answers at ``place``: it itself, or in a run's folder or in the one of that stage."""
    if not place.is_dir():
        return place
    return place / TEACHER if (place / TEACHER).exists() else place / DISTILLED / TEACHER


def write_traces(path: Path, traces: Iterable[Trace]) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".partial")
    with scratch.open("w", encoding="utf-8") as file:
        for trace in traces:
            line = {name: getattr(trace, name) for name in Trace.__slots__}
            file.write(json.dumps(line) + "\n")
    scratch.replace(path)


def read_traces(path: Path) -> Iterator[Trace]:
    """Every line.

    Raises:
        TraceError: naming the line that is no such object; where there is no file.
    """
    if not path.is_file():
        raise TraceError(
            f"{path}: no teacher's answers here; run task=distill with the teacher first, and give the folder of that "
            "run: sft.traces=outputs/..."
        )
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield _trace(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
                raise TraceError(f"{path}:{number}: no teacher's answer ({reason}); run task=distill again") from error


def _trace(line: Any) -> Trace:
    if not isinstance(line, dict):
        raise TypeError("not an object")
    query, reasoning, passages, order = (line[name] for name in ("query", "reasoning", "passages", "order"))
    if not all(isinstance(text, str) for text in (query, reasoning)):
        raise TypeError("query and reasoning must be texts")
    if not all(isinstance(ids, list) and all(isinstance(one, str) for one in ids) for ids in (passages, order)):
        raise TypeError("passages and order must be lists of ids")
    return Trace(
        query,
        tuple(passages),
        tuple(order),
        reasoning,
        line.get("ndcg"),
        line.get("given_ndcg"),
        line.get("agreement"),
        line.get("samples", 1),
        line.get("texts"),
        line.get("dropped"),
    )


def taught(rows: Sequence[TrainingRow], path: Path, *, tags: bool) -> list[str | None]:
    """The teacher's answer to each row's window, ``None`` where there is none that was kept, or it saw other texts.

    Raises:
        TraceError: where the file can't be read.
    """
    wanted = {_window(row): row for row in rows}
    answers: dict[tuple[str, tuple[str, ...]], str | None] = {}
    changed = 0
    for trace in read_traces(path):
        key = (trace.query, trace.passages)
        if trace.dropped is not None or key not in wanted or key in answers:
            continue
        if trace.texts not in (None, digest_of(wanted[key].judged.window)):
            changed += 1
            continue
        answers[key] = trace.answer(tags=tags)
    if changed:
        _log.warning("%s: %d answers are left out: the texts of their windows have changed since", path, changed)
    return [answers.get(_window(row)) for row in rows]


def digest_of(window: Window) -> str:
    """16 hexadecimal digits, of the texts of a query and of its passages in their order."""
    texts = [window.query.text, *([passage.title, passage.text] for passage in window.passages)]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _window(row: TrainingRow) -> tuple[str, tuple[str, ...]]:
    window = row.judged.window
    return window.query.id, tuple(passage.id for passage in window.passages)
