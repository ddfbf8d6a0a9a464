"""``distill``: a teacher's reasoning and orders for training windows, kept where they agree with the judgements.

``<output_dir>/distilled/`` holds ``teacher.jsonl`` (a line a window, the dropped ones too: ``training.traces``),
``summary.json`` with the counts, and ``cost.jsonl``. Every answer is in ``<output_dir>/completions.sqlite``: a stopped
task goes on, and other thresholds cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from rearank.analysis.rank_statistics import compare_pairs
from rearank.engines import CompletionStore, Engine, RecordingEngine
from rearank.engines.session import Reranked, Session
from rearank.experiment import Run
from rearank.metrics import ndcg
from rearank.neutral import Reserved
from rearank.parsing import ParsedRanking, ParseStatus, parse_ranking
from rearank.progress import progress
from rearank.prompts import Asks, Labels, Prompt, Tokenizer
from rearank.ranking import Failure, FullList
from rearank.reranker.setup import Parts
from rearank.runs.layout import COST, DISTILLED, STORE, SUMMARY, TEACHER, read_json, write_json
from rearank.runs.seal import seal
from rearank.runs.stage import Stage
from rearank.sections import Distill
from rearank.tasks.evaluate import asked
from rearank.tasks.evaluate.reranking import FIRST_ANSWERS, AnswerWatch, UnreadLimit
from rearank.tasks.pipeline import prepare_rows, stage_after_rows
from rearank.tasks.prepare import by_turns
from rearank.training.rows import TrainingRow, guarded
from rearank.training.traces import Trace, digest_of, write_traces
from rearank.types import Candidates, Message, Permutation, Sampling, Window

_K = 10
_MADE = (TEACHER, SUMMARY)
_DECIDES = ("rearank.tasks.distill", "rearank.training.traces", "rearank.parsing", "rearank.marks", "rearank.metrics")
_log = logging.getLogger(__name__)


class DistillError(RuntimeError):
    """A teacher that gave nothing to learn, or too many of whose calls failed."""


@dataclass(frozen=True)
class DistillTask:
    """The command's model as a teacher; prepares the rows first where they aren't there."""

    needs: ClassVar[tuple[str, ...]] = ("dataset", "model", "engine", "tracking")

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/distilled``."""
        chosen = run.experiment
        rows = prepare_rows(run)
        stage = stage_after_rows(
            run, DISTILLED, "distill", "model", "engine", modules=_DECIDES, tags=chosen.prompt.tags
        )
        parts = Parts(chosen.model, chosen.prompt, chosen.strategy, chosen.engine)
        path = distill(Distilling(parts, rows.train(), chosen.distill, chosen.seed), stage)
        print(
            f"the teacher's answers are in {path}; a model learns them, with the same dataset, augmentation, prepare "
            f"and seed, by: task=sft sft.targets=teacher sft.traces={run.folder}",
            flush=True,
        )


@dataclass(frozen=True)
class Distilling:
    """Who is asked about what, and what is kept.

    Args:
        parts: of the teacher; the strategy isn't used, as a window is asked about by itself.
        rows: prepared training rows.
        settings: the section ``distill``.
        seed: of sampled answers.
    """

    parts: Parts
    rows: Sequence[TrainingRow]
    settings: Distill
    seed: int

    @property
    def teacher(self) -> str:
        """As people are told."""
        return next(name for name in asked(self.parts).values() if name is not None)


def distill(how: Distilling, stage: Stage) -> Path:
    """The file of the teacher's answers: made now, or found as the same settings made it before.

    Raises:
        DistillError: where more calls failed than allowed, or no answer was kept; answers stay recorded.
    """
    folder = stage.open()
    path = folder / TEACHER
    if (summary := read_json(folder / SUMMARY)) and path.is_file() and not stage.damage():
        _log.info("%s: found, %d windows kept", path, summary["kept"])
        return path
    rows = _chosen(how)
    store = CompletionStore(folder.parent / STORE)
    try:
        answers, failures = asyncio.run(_asked(how, rows, store, folder))
    finally:
        store.close()
    calls = len(rows) * how.settings.samples
    if len(failures) > how.settings.max_failed * calls:
        raise DistillError(
            f"{len(failures)} of {calls} calls to the teacher failed, the first: {failures[0]}. What it answered is "
            "recorded: run the same command again, or allow a share of failures (distill.max_failed)"
        )
    traces = [judged(row, answers[row.index], how.settings, tags=how.parts.prompt.tags) for row in rows]
    write_traces(path, traces)
    summary = counts_of(traces)
    print(shown(summary, how.teacher), flush=True)
    if not summary["kept"]:
        raise DistillError(
            f"no answer of the teacher's was kept: {path} says why for each window; loosen distill.min_ndcg, min_gain "
            "or min_agreement, or choose another teacher or prompt. Answers are recorded and cost nothing again"
        )
    write_json(folder / SUMMARY, summary)
    seal(folder, _MADE)
    return path


def judged(row: TrainingRow, answers: Sequence[ParsedRanking | None], settings: Distill, *, tags: bool = True) -> Trace:
    """The best of a window's answers, and why it is not kept, where it isn't.

    Args:
        row: the window and its grades.
        answers: a teacher's, in the order of the samples; ``None`` for a call that failed.
        settings: the thresholds.
        tags: whether a model is to write it with ``<think>`` and ``<answer>``.
    """
    window = row.judged.window
    ids = tuple(passage.id for passage in window.passages)
    grades = [max(grade, 0) for grade in row.judged.relevance]
    given = ndcg(grades, grades, _K)
    read = [answer for answer in answers if answer is not None and answer.status is ParseStatus.OK]
    trace = Trace(window.query.id, ids, (), "", given_ndcg=given, samples=len(read), texts=digest_of(window))
    if not read:
        first = next((answer.status.value for answer in answers if answer is not None), None)
        return replace(trace, dropped="failed" if first is None else f"unread: {first}")
    best = max(read, key=lambda answer: ndcg(answer.permutation.apply(grades), grades, _K))
    reached = ndcg(best.permutation.apply(grades), grades, _K)
    trace = replace(
        trace,
        order=best.permutation.apply(ids),
        reasoning=(best.think or "").strip(),
        ndcg=reached,
        agreement=agreement([answer.permutation for answer in read]),
    )
    return replace(trace, dropped=_why_dropped(trace, grades, settings, tags))


def _why_dropped(trace: Trace, grades: Sequence[int], settings: Distill, tags: bool) -> str | None:
    """The first threshold that a readable answer misses."""
    reached, given = trace.ndcg or 0.0, trace.given_ndcg or 0.0
    looks = settings.min_ndcg is not None or settings.min_gain is not None
    if looks and not any(grades):
        return "nothing relevant in the window"
    if settings.min_ndcg is not None and reached < settings.min_ndcg:
        return "below min_ndcg"
    if settings.min_gain is not None and reached - given < settings.min_gain:
        return "below min_gain"
    if settings.min_agreement is not None and (trace.agreement is None or trace.agreement < settings.min_agreement):
        return "below min_agreement"
    return "can't be written as an answer" if trace.answer(tags=tags) is None else None


def agreement(orders: Sequence[Permutation]) -> float | None:
    """Mean Kendall's tau of all pairs of orders; ``None`` for fewer than two."""
    ranks = [sorted(range(len(order)), key=order.order.__getitem__) for order in orders]
    taus = [tau for one, other in combinations(ranks, 2) if (tau := compare_pairs(one, other).tau) is not None]
    return fmean(taus) if taus else None


def counts_of(traces: Sequence[Trace]) -> dict[str, Any]:
    """How many windows were asked about and kept, what was dropped, and mean nDCG@10; ``None`` over no window."""
    kept = [trace for trace in traces if trace.dropped is None]
    read = [trace for trace in traces if trace.ndcg is not None]
    means = {
        "given_ndcg": [trace.given_ndcg for trace in traces],
        "ndcg": [trace.ndcg for trace in read],
        "kept_given_ndcg": [trace.given_ndcg for trace in kept],
        "kept_ndcg": [trace.ndcg for trace in kept],
        "agreement": [trace.agreement for trace in read],
    }
    found: dict[str, Any] = {"windows": len(traces), "read": len(read), "kept": len(kept)}
    for name, values in means.items():
        there = [value for value in values if value is not None]
        found[name] = round(fmean(there), 6) if there else None
    return {**found, "dropped": dict(Counter(t.dropped for t in traces if t.dropped is not None).most_common())}


def shown(counts: Mapping[str, Any], teacher: str) -> str:
    """``counts_of`` for a person, without an empty line."""
    lines = [f"{teacher}: {counts['kept']:,} of {counts['windows']:,} windows kept"]
    for name, what in (
        ("given_ndcg", "nDCG@10 of the windows as given"),
        ("ndcg", "of the teacher's orders"),
        ("kept_given_ndcg", "of those kept, as given"),
        ("kept_ndcg", "of those kept, by the teacher"),
        ("agreement", "mean Kendall's tau of its samples"),
    ):
        if counts[name] is not None:
            lines.append(f"  {what:<34} {counts[name]:.4f}")
    return "\n".join([*lines, *(f"  dropped, {reason}: {count:,}" for reason, count in counts["dropped"].items())])


def _chosen(how: Distilling) -> list[TrainingRow]:
    """At most ``distill.windows`` rows, in their order."""
    most = how.settings.windows
    if most is None or most >= len(how.rows):
        return list(how.rows)
    by_query = by_turns(how.rows, lambda row: row.judged.window.query.id)
    kept = {row.index for row, _ in zip(by_query, range(most), strict=False)}
    return [row for row in how.rows if row.index in kept]


@dataclass
class _AsPrepared:
    """A prompt that shows each window as its row does; a window is known by its row's number in the query's place."""

    rows: Mapping[str, TrainingRow]
    tags: bool
    asks: Asks = "ranking"
    labels: Labels = "numbers"

    def render(
        self, window: Window, tokenizer: Tokenizer | None = None, reserved: Reserved | None = None
    ) -> tuple[Message, ...]:
        return self.rows[window.query.id].prompt


async def _asked(
    how: Distilling, rows: Sequence[TrainingRow], store: CompletionStore, folder: Path
) -> tuple[dict[int, list[ParsedRanking | None]], list[Failure]]:
    """Row -> the answers to its window, and what failed."""
    parts, settings = how.parts, how.settings
    grades = {str(row.index): _grades(row) for row in rows}
    node: Any = parts.engine
    with progress(f"loading {how.teacher}"):
        engine: Engine = node.create(
            parts.model.location, revision=parts.model.revision, judgements=grades, thinking=parts.model.thinking
        )
    recording = RecordingEngine(engine, store)
    answers: dict[int, list[ParsedRanking | None]] = {row.index: [] for row in rows}
    failures: list[Failure] = []
    limit = UnreadLimit(settings.max_unread, stops=True, key="distill.max_unread")
    total = len(rows) * settings.samples
    watch = AnswerWatch(f"teacher {how.teacher}", recording, limit, min(FIRST_ANSWERS, total), total)
    ended = "stopped"
    try:
        shown_rows = {str(row.index): row for row in _guarded(rows, engine)}
        work = [
            Candidates(replace(row.judged.window.query, id=str(row.index)), row.judged.window.passages) for row in rows
        ]
        size = max(len(item.passages) for item in work)
        with progress(watch.what, total, "answers", note=watch.note, left=watch.left) as bar:

            def done(one: Reranked) -> None:
                row = int(one.candidates.query.id)
                answers[row].append(_read(one, parts.prompt))
                if isinstance(one.result, Failure):
                    failures.append(one.result)
                bar.advance()

            for sampling in _samplings(how):
                session = Session(
                    recording, _AsPrepared(shown_rows, parts.prompt.tags), FullList(max(size, 2)), sampling,
                    settings.max_concurrent,
                )  # fmt: skip
                await session.rerank(work, on_answer=watch.answered, on_done=done)
        limit.check(watch.what, watch.unread, watch.windows)
        ended = "finished"
    finally:
        await recording.aclose()
        watch.account(folder / COST, ended, len(rows))
    return answers, failures


def _guarded(rows: Sequence[TrainingRow], engine: Engine) -> list[TrainingRow]:
    """In-process engines know the tokens that a text must not make."""
    tokenizer = getattr(engine, "tokenizer", None)
    return list(rows) if tokenizer is None else guarded(rows, tokenizer)


def _grades(row: TrainingRow) -> dict[str, int]:
    """For fakes, which know judgements by passage."""
    return {passage.id: grade for passage, grade in zip(row.judged.window.passages, row.judged.relevance, strict=True)}


def _read(one: Reranked, prompt: Prompt) -> ParsedRanking | None:
    if isinstance(one.result, Failure) or not one.windows:
        return None
    return parse_ranking(one.windows[0].text, len(one.candidates.passages), tags=prompt.tags)


def _samplings(how: Distilling) -> list[Sampling]:
    """A sampling for each answer to a window; raises ``DistillError`` where several would be the same."""
    drawn = replace(how.parts.model.sampling, seed=how.seed)
    if how.settings.temperature is not None:
        drawn = replace(drawn, temperature=how.settings.temperature)
    if how.settings.samples == 1:
        return [drawn]
    if not drawn.temperature:
        raise DistillError(
            f"distill.samples={how.settings.samples}: at temperature 0 every answer is the same; set "
            "distill.temperature=0.7, say"
        )
    return [replace(drawn, sample=number) for number in range(how.settings.samples)]
