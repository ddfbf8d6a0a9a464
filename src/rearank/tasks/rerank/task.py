"""The whole of ``task=rerank``: what its result depends on, whether it is there, and how it is made.

``<output_dir>/rerank/`` holds ``settings.json`` and ``environment.json``, ``cost.jsonl`` (a line a command) and at the
end ``summary.json``; the answers are in ``<output_dir>/completions.sqlite``, from which the same command goes on.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from rearank.config import node_of
from rearank.data import DataError
from rearank.engines import CompletionStore, RecordingEngine
from rearank.engines.account import describe_unread
from rearank.engines.session import Session
from rearank.experiment import Run
from rearank.progress import progress
from rearank.ranking import Failure, Planned
from rearank.reranker.setup import Parts
from rearank.runs import code_of, files_of
from rearank.runs.content import digests_of
from rearank.runs.layout import COST, RERANKED, STORE, SUMMARY, read_json, write_json
from rearank.runs.stage import Stage
from rearank.sections import STANDARD, Rerank
from rearank.tasks.evaluate.measuring import check_template
from rearank.tasks.evaluate.reranking import FIRST_ANSWERS, MANY, AnswerWatch, UnreadLimit
from rearank.tasks.rerank import outputs
from rearank.tasks.rerank.in_order import InOrder
from rearank.tasks.rerank.inputs import (
    Counted,
    Formats,
    HoldsLists,
    collection_of,
    count,
    formats_of,
    input_name,
    make_input,
    refuse_bad,
)
from rearank.tasks.rerank.records import JsonLines, ParquetRows, TrecLines, WritesRecords
from rearank.types import Candidates

SKIPPED = ".skipped.jsonl"
"""Ends the name of the file with what the output lacks, and why."""
_SHOWN = 3  # failures in the log
_DECIDES = (
    *("rearank.parsing", "rearank.marks", "rearank.yes_no", "rearank.engines.ranker", "rearank.engines.session"),
    *("rearank.ranking.schedule", "rearank.tasks.rerank.rows", "rearank.tasks.rerank.lists"),
    "rearank.tasks.rerank.records",
)
"""Modules that decide the result whatever is chosen."""
_log = logging.getLogger(__name__)


class RerankError(RuntimeError):
    """More queries failed than ``rerank.max_failed`` allows, or there was none."""


@dataclass(frozen=True)
class RerankTask:
    """Rerank lists that have no judgements."""

    needs: ClassVar[tuple[str, ...]] = ("model", "engine", "rerank")

    def run(self, run: Run) -> None:
        """Into ``rerank.output``."""
        chosen, settings = run.experiment, run.experiment.rerank
        formats = formats_of(settings)
        keys = ("model", "prompt", "strategy", "engine", "rerank")
        stage = run.stage(RERANKED, *keys, modules=_DECIDES, **asdict(formats))
        if formats.uses_collection:
            benchmark = collection_of(chosen.benchmark)
            used = {"collection": benchmark.collection}
            used |= {"retriever": benchmark.first_stage} if formats.input == "topics" else {}
            stage = replace(
                stage,
                settings={**stage.settings, **{name: node_of(one) for name, one in used.items()}},
                code={**stage.code, **code_of(*used.values())},
                files={**stage.files, **files_of(run.cache, **used)},
            )
        parts = Parts(chosen.model, chosen.prompt, chosen.strategy, chosen.engine)
        given = make_input(settings, formats, chosen.benchmark)
        Reranking(settings, formats, parts, given, stage).carry_out(run.folder / STORE)


@dataclass
class Reranking:
    """One command's work.

    Args:
        settings: the section ``rerank``.
        formats: of input and output.
        parts: model, prompt, strategy and engine.
        given: the input.
        stage: what the result depends on.
    """

    settings: Rerank
    formats: Formats
    parts: Parts
    given: HoldsLists
    stage: Stage
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

    def carry_out(self, store_path: Path) -> None:
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
        store = CompletionStore(store_path)
        try:
            figures = self._rerank(store, folder, counted)
        finally:
            store.close()
        self._close(folder, figures)

    def _finished(self, folder: Path) -> dict[str, Any] | None:
        """The summary of the same work, where its output is as it was left and lacks nothing that failed."""
        summary, output = read_json(folder / SUMMARY), self._output
        if self.settings.input == STANDARD or output is None or not summary or summary.get("failed"):
            return None
        same = output.is_file() and digests_of([output]) == [summary.get("digest")]
        bad = self.settings.bad_rows == "error" and summary.get("skipped")
        return summary if same and not bad else None

    def _rerank(self, store: CompletionStore, folder: Path, counted: Counted | None) -> dict[str, float]:
        """Everything to the place where it is written; what the answers come to."""
        model, settings = self.parts.model, self.settings
        with progress(f"loading {model.name}"):
            engine = self.parts.engine.create(model.location, revision=model.revision, thinking=model.thinking)  # type: ignore[union-attr]
        check_template(engine, self.parts.prompt)
        recording = RecordingEngine(engine, store)
        most = settings.max_concurrent_queries
        session = Session(recording, self.parts.prompt, self.parts.strategy, model.sampling, most)
        what = f"rerank: {input_name(settings)}"
        limit = UnreadLimit(settings.max_unread, model.released, "rerank.max_unread")
        total = counted.queries if counted is not None else None
        enough = max(FIRST_ANSWERS, min(one for one in (most, total, 1 << 62) if one is not None))
        watch = AnswerWatch(what, recording, limit, enough, counted.windows if counted is not None else None)
        with ExitStack() as files:
            writer = self._writer(files)
            skipped = files.enter_context(outputs.scratch(self._skipped))
            bar = files.enter_context(progress(what, total, "queries", note=watch.note, left=watch.left))
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
            ended = "stopped"
            try:
                asyncio.run(_closing(line, self._usable(skipped), recording))
                ended = "finished"
            except BaseException as error:
                ended = f"stopped: {type(error).__name__}"
                raise
            finally:
                with suppress(OSError):  # a full disk is what it may have stopped for
                    watch.account(folder / COST, ended, self._queries)
            writer.close()
        if watch.unread.total() > MANY * watch.windows:
            _log.warning(
                "%s: %s; their windows stayed as given, the texts are in %s",
                *(what, describe_unread(watch.unread, watch.windows), store.path),
            )
        limit.check(what, watch.unread, watch.windows)
        self._strategy_scores = line.strategy_scores
        return session.account.figures()

    def _writer(self, files: ExitStack) -> WritesRecords:
        output, settings = self._output, self.settings
        kept = nullcontext(outputs.standard_output()) if output is None else outputs.scratch(output)
        stream: BinaryIO = files.enter_context(kept)
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
            _write_line(skipped, {"error": str(one.error), "row": one.row})

    def _note_failure(self, failure: Failure, skipped: BinaryIO) -> None:
        self._failed += 1
        if self._failed <= _SHOWN:
            self._failures.append(str(failure))
            _log.error("%s", failure)
        _write_line(skipped, {"error": str(failure), "query": failure.query_id})

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


async def _closing(line: InOrder, lists: Iterator[Candidates], recording: RecordingEngine) -> None:
    try:
        await line.run(lists)
    finally:
        await recording.aclose()


def _write_line(stream: BinaryIO, value: Any) -> None:
    """In one write: two threads may write."""
    stream.write(json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n")
