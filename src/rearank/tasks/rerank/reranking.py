"""One command's work: the input counted, reranked here or on a cluster, and the output where it belongs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from rearank.config import node_of
from rearank.data import DataError
from rearank.data.benchmark import Benchmark
from rearank.engines import CompletionStore, RecordingEngine
from rearank.engines.account import describe_unread
from rearank.engines.session import Session
from rearank.progress import Progress, progress
from rearank.ranking import Failure, Planned
from rearank.reranker.setup import Parts
from rearank.runs.content import digests_of
from rearank.runs.layout import COST, STORE, SUMMARY, read_json, write_json
from rearank.runs.stage import Stage
from rearank.sections import STANDARD, Rerank
from rearank.tasks.evaluate.measuring import check_template
from rearank.tasks.evaluate.reranking import FIRST_ANSWERS, MANY, AnswerWatch, Spender, UnreadLimit
from rearank.tasks.rerank import on_ray, outputs
from rearank.tasks.rerank.in_order import InOrder
from rearank.tasks.rerank.inputs import (
    Counted,
    Formats,
    HoldsLists,
    count,
    input_name,
    refuse_bad,
)
from rearank.tasks.rerank.records import JsonLines, ParquetRows, TrecLines, WritesRecords
from rearank.training.verl import Cluster
from rearank.types import Candidates

SKIPPED = ".skipped.jsonl"
"""Ends the name of the file with what the output lacks, and why."""
_SHOWN = 3  # failures in the log
_log = logging.getLogger(__name__)


class RerankError(RuntimeError):
    """More queries failed than ``rerank.max_failed`` allows, or there was none."""


@dataclass(frozen=True)
class Place:
    """Where a command works.

    Args:
        folder: of the run.
        cluster: of ``rerank.runner=ray``.
        benchmark: whose collection has the texts, for processes that open it for themselves.
    """

    folder: Path
    cluster: Cluster
    benchmark: Benchmark | None


@dataclass
class Reranking:
    """One command's work.

    Args:
        settings: the section ``rerank``.
        formats: of input and output.
        parts: model, prompt, strategy and engine.
        given: the input.
        stage: what the result depends on.
        place: where it is done.
    """

    settings: Rerank
    formats: Formats
    parts: Parts
    given: HoldsLists
    stage: Stage
    place: Place
    _bad: int = field(default=0, init=False)
    _failures: list[str] = field(default_factory=list, init=False)
    _failed: int = field(default=0, init=False)
    _empty: int = field(default=0, init=False)
    _queries: int = field(default=0, init=False)
    _strategy_scores: bool = field(default=False, init=False)

    @property
    def _output(self) -> Path | None:
        """``None`` for standard output."""
        return None if self.settings.output == STANDARD else Path(self.settings.output or "")

    @property
    def _skipped(self) -> Path:
        """What the output lacks."""
        output = self._output
        return self.stage.folder / f"output{SKIPPED}" if output is None else output.with_name(output.name + SKIPPED)

    def carry_out(self) -> None:
        """Read, rerank, write.

        Raises:
            DataError: for a row that can't be used, unless ``rerank.bad_rows=skip``; before any model is asked, unless
                the input is standard input.
            RerankError: where too many queries failed; what was written stays beside the output's place.
        """
        folder = self.stage.open()
        if (done := self._finished(folder)) is not None:
            print(f"{self.settings.output} is there already: {done['queries']} queries, made with these settings")
            return
        counted: Counted | None = None
        if self.settings.input != STANDARD:
            with progress(f"reading {input_name(self.settings)}"):
                counted = count(self.given, self.settings.depth, self.parts.strategy)
            if self.settings.bad_rows == "error":
                refuse_bad(counted)
            if not counted.queries:
                raise DataError(f"{input_name(self.settings)}: no query in it; give another rerank.input")
            _log.info("%s", counted.line(input_name(self.settings)))
        if (output := self._output) is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
        self._close(folder, (self._on_ray if self.settings.runner == "ray" else self._here)(folder, counted))

    def _finished(self, folder: Path) -> dict[str, Any] | None:
        """The summary of the same work, where its output is as it was left and lacks nothing that failed."""
        summary, output = read_json(folder / SUMMARY), self._output
        if self.settings.input == STANDARD or output is None or not summary or summary.get("failed"):
            return None
        same = output.is_file() and digests_of([output]) == [summary.get("digest")]
        bad = self.settings.bad_rows == "error" and summary.get("skipped")
        return summary if same and not bad else None

    def _here(self, folder: Path, counted: Counted | None) -> dict[str, float]:
        store = CompletionStore(self.place.folder / STORE)
        try:
            return self._rerank(store, folder, counted)
        finally:
            store.close()

    def _rerank(self, store: CompletionStore, folder: Path, counted: Counted | None) -> dict[str, float]:
        """Everything to the place where it is written; what the answers come to."""
        model, settings = self.parts.model, self.settings
        with progress(f"loading {model.name}"):
            engine = self.parts.engine.create(model.location, revision=model.revision, thinking=model.thinking)  # type: ignore[union-attr]
        check_template(engine, self.parts.prompt)
        recording = RecordingEngine(engine, store)
        most = settings.max_concurrent_queries
        session = Session(recording, self.parts.prompt, self.parts.strategy, model.sampling, most)
        watch = self._watch(recording, counted)
        with ExitStack() as files:
            writer = self._writer(self._stream(files))
            skipped = files.enter_context(outputs.scratch(self._skipped))
            bar = files.enter_context(self._bar(watch, counted))
            strategy = self.parts.strategy

            def done(length: int, calls: int) -> None:
                self._queries += 1
                self._empty += not length
                # What is still to be found was counted as so many as are asked for.
                counted_as = settings.depth if self.formats.input == "topics" else length
                if watch.expected is not None and isinstance(strategy, Planned) and counted_as:
                    watch.expected += calls - strategy.calls(counted_as)
                bar.advance()

            line = InOrder(
                session,
                settings.depth,
                settings.texts,
                settings.reasoning,
                writer.write,
                lambda failure: self._note_failure(failure, skipped),
                watch.answered,
                done,
            )
            with self._accounted(watch, folder):
                asyncio.run(_closing(line, self._usable(skipped), recording))
            writer.close()
        _look_at_unread(watch, store.path)
        self._strategy_scores = line.strategy_scores
        return session.account.figures()

    def _on_ray(self, folder: Path, counted: Counted | None) -> dict[str, float]:
        """As ``_here``, by actors on a cluster."""
        formats, place, total = self.formats, self.place, on_ray.Total()
        trec = formats.output == "trec"
        shards = on_ray.Shards(folder.resolve() / on_ray.SHARDS, place.folder.resolve() / on_ray.ANSWERS, trec)
        benchmark = None if place.benchmark is None else node_of(place.benchmark)
        source = on_ray.BlockSource(self.settings, formats, benchmark, shards, str(Path.cwd()))
        with ExitStack() as files:
            stream = self._stream(files)
            skipped = files.enter_context(outputs.scratch(self._skipped))
            with on_ray.OnRay(place.cluster, source, self.parts, place.folder).results() as results:
                watch = self._watch(total, None if formats.input == "topics" else counted)
                with self._bar(watch, counted) as bar, self._accounted(watch, folder):
                    for done, spent in results:
                        total.add(done, spent)
                        self._note(done)
                        watch.add(done.account.calls, done.account.unread)
                        bar.advance(done.queries)
            with progress("joining the shards"):
                writer = self._writer(stream) if formats.output == "parquet" else None
                shards.join(total.count(), writer, stream, skipped)
                if writer is not None:
                    writer.close()
        _look_at_unread(watch, shards.answers)
        return total.account.figures()

    def _note(self, done: on_ray.Done) -> None:
        self._queries += done.queries
        self._empty += done.empty
        self._bad += done.bad
        self._strategy_scores |= done.strategy_scores
        self._note_failures(done.failed, done.failures)

    def _watch(self, spender: Spender, counted: Counted | None) -> AnswerWatch:
        settings, model = self.settings, self.parts.model
        limit = UnreadLimit(settings.max_unread, model.released, "rerank.max_unread")
        total, windows = (None, None) if counted is None else (counted.queries, counted.windows)
        bounds = (settings.max_concurrent_queries, total, 1 << 62)
        enough = max(FIRST_ANSWERS, min(one for one in bounds if one is not None))
        return AnswerWatch(f"rerank: {input_name(settings)}", spender, limit, enough, windows)

    def _bar(self, watch: AnswerWatch, counted: Counted | None) -> AbstractContextManager[Progress]:
        total = counted.queries if counted is not None else None
        return progress(watch.what, total, "queries", note=watch.note, left=watch.left)

    @contextmanager
    def _accounted(self, watch: AnswerWatch, folder: Path) -> Iterator[None]:
        """Write down what this command paid, however it ends."""
        ended = "stopped"
        try:
            yield
            ended = "finished"
        except BaseException as error:
            ended = f"stopped: {type(error).__name__}"
            raise
        finally:
            with suppress(OSError):  # a full disk is what it may have stopped for
                watch.account(folder / COST, ended, self._queries)

    def _stream(self, files: ExitStack) -> BinaryIO:
        output = self._output
        kept = nullcontext(outputs.standard_output()) if output is None else outputs.scratch(output)
        stream: BinaryIO = files.enter_context(kept)
        return stream

    def _writer(self, stream: BinaryIO) -> WritesRecords:
        settings = self.settings
        if self.formats.output == "parquet":
            return ParquetRows(stream, texts=settings.texts, reasoning=settings.reasoning)
        return TrecLines(stream) if self.formats.output == "trec" else JsonLines(stream)

    def _usable(self, skipped: BinaryIO) -> Iterator[Candidates]:
        """The lists; rows that can't be used are written to ``skipped``, or the first ends everything."""
        for one in self.given.lists():
            if isinstance(one, Candidates):
                yield one
                continue
            self._bad += 1
            if self.settings.bad_rows == "error":
                refuse_bad(Counted(bad=1, first_bad=one))
            outputs.write_line(skipped, {"error": str(one.error), "row": one.row})

    def _note_failure(self, failure: Failure, skipped: BinaryIO) -> None:
        self._note_failures(1, (str(failure),))
        outputs.write_line(skipped, {"error": str(failure), "query": failure.query_id})

    def _note_failures(self, count: int, texts: Sequence[str]) -> None:
        """So many more, and what the first of them say."""
        shown = texts[: max(0, _SHOWN - self._failed)]
        self._failed += count
        self._failures += shown
        for text in shown:
            _log.error("%s", text)

    def _close(self, folder: Path, figures: dict[str, float]) -> None:
        """Let the output appear, or say why it can't."""
        output, settings = self._output, self.settings
        if self._failed > settings.max_failed * self._queries or self._failed == self._queries:
            if not self._queries:
                raise RerankError(f"{input_name(settings)}: no query in it that can be used")
            place = outputs.partial(output) if output is not None else "on standard output"
            raise RerankError(
                f"{self._failed} of {self._queries} queries failed, the first: {self._failures[0]}. What was ranked is "
                f"{place}: mend the cause and run the same command again, or allow a share of failures "
                "(rerank.max_failed)"
            )
        if self._empty == self._queries and self.formats.uses_collection:
            raise RerankError(
                f"{input_name(settings)}: none of its {self._queries} queries has a passage to rank; check that "
                "the lists, or the collection and its first stage, are of these queries"
            )
        lacking = self._bad + self._failed
        if lacking:
            outputs.put(self._skipped)
        else:
            outputs.partial(self._skipped).unlink()
            if self._skipped.exists():
                outputs.set_aside(self._skipped, "of another output")
        if output is not None:
            outputs.put(output)
        listed = "the strategy's; none below the depth" if self._strategy_scores else "1 / rank"
        scores = "whole numbers that fall by one" if self.formats.output == "trec" else listed
        summary = {
            **{"output": settings.output, "queries": self._queries, "empty": self._empty, "skipped": self._bad},
            **{"failed": self._failed, "scores": scores, "calls": figures},
            **({"digest": digests_of([output])[0]} if output is not None else {}),
        }
        write_json(folder / SUMMARY, summary)
        if self._empty:
            _log.warning("%d of %d queries have no passage to rank", self._empty, self._queries)
        left_out = f"; {lacking} left out, see {self._skipped}" if lacking else ""
        cost = f", ${figures['cost']:.4f}" if figures["cost"] else ""
        place, ranked = output or "standard output", self._queries - self._failed
        print(f"{place}: {ranked} queries, {figures['calls']} windows{cost}{left_out}", flush=True)


def _look_at_unread(watch: AnswerWatch, answers: Path) -> None:
    """Of all answers: a warning, or the end where the model's can't be read."""
    if watch.unread.total() > MANY * watch.windows:
        _log.warning(
            "%s: %s; their windows stayed as given, the texts are in %s",
            *(watch.what, describe_unread(watch.unread, watch.windows), answers),
        )
    watch.limit.check(watch.what, watch.unread, watch.windows)


async def _closing(line: InOrder, lists: Iterator[Candidates], recording: RecordingEngine) -> None:
    try:
        await line.run(lists)
    finally:
        await recording.aclose()
