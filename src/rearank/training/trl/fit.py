"""One training with one of TRL's trainers, from loading to the best checkpoint: what GRPO and SFT share.

Beside the optimiser's steps: curves, validation, the best checkpoint, progress; and going on after a stop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rearank.engines.base import EngineError
from rearank.engines.chat import load_chat
from rearank.progress import Progress, progress
from rearank.rewards import score
from rearank.tracking import read_jsonl
from rearank.training.base import (
    Best,
    TrainingError,
    TrainingJob,
    TrainingResult,
    describe,
    note_of,
    result_of,
    way_out,
    write_result,
)
from rearank.training.guard import Watchdog
from rearank.training.lengths import context_of, rows_that_fit
from rearank.training.lists import ListValidation, PolicyEngine, Validated, drawn, measure
from rearank.training.local import (
    complete_checkpoint,
    keep_best,
    load_tokenizer,
    logged_alike,
    publish_best,
    quiet,
    seal_checkpoint,
    step_of,
)
from rearank.training.rows import TrainingRow
from rearank.training.trl.settings import TrlSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuiltTrainer:
    """A trainer of TRL's, ready to run.

    ``figures`` turns its log of a step into ours (empty for a log that isn't a step's); ``validated`` gets each
    step at which the model is validated; ``updates_per_step``: of the optimiser, which is what TRL counts.
    ``samples``: the model learns from its own answers; ``compares``: each with the others of its group. ``greedy``: of
    prompts the present model's greedy answers, where something else than the model itself gives them (as ``greedy``).
    """

    trainer: Any
    steps: int
    figures: Callable[[Mapping[str, Any]], dict[str, float]]
    validated: Callable[[int], None] = lambda step: None
    updates_per_step: int = 1
    samples: bool = False
    compares: bool = False
    greedy: Callable[[Sequence[Any], Callable[[int], None]], list[tuple[str, int]]] | None = None


def fit(
    job: TrainingJob, settings: TrlSettings, what: str, make: Callable[[Any, Sequence[TrainingRow]], BuiltTrainer]
) -> TrainingResult:
    """Train, or go on from the last checkpoint in ``job.folder``, or return what a finished run left there.

    Args:
        job: what to train, on what.
        settings: the trainer node.
        what: for progress: "training".
        make: builds TRL's trainer of the tokenizer and the rows that fit the model's context.

    Raises:
        TrainingError: for a model that can't be trained, or rows of which none fits.
    """
    if (finished := result_of(job.folder)) is not None:
        return finished
    path = job.folder / "best.json"
    last = complete_checkpoint(job.folder / "checkpoints")
    best = Best(path) if last is None else Best.load(path)
    with progress("loading torch, transformers and trl"):
        import torch
        import trl  # noqa: F401  # its first import takes seconds: here they are shown

        quiet()
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
    with progress(f"loading the tokenizer of {job.model}"):
        tokenizer = load_tokenizer(job.model, job.revision)
    train, validation = _rows(job, settings, tokenizer)
    if last is not None and (validation or job.lists) and best.step < 0:
        raise TrainingError(f"{path}: is missing, and says which step was best; {way_out(job.folder)}")
    with progress(f"loading {job.model}"):
        made = make(tokenizer, train)
    with progress(what, made.steps, "steps") as shown:
        watch = _Watch(job, settings, made, tokenizer, validation, best, shown)
        if last is not None:
            watch.continue_from(last)
        if last is not None and (watch.done >= made.steps or watch.stopped):
            made.trainer._load_from_checkpoint(str(last))  # all steps are done, and TRL would do one more
        else:
            _attach(made, watch)
            made.trainer.train(resume_from_checkpoint=str(last) if last is not None else None)
    done = watch.done
    if watch.stopped:
        _log.warning("%s stopped at step %d: %s", what, done, watch.stopped)
    elif done != made.steps:
        raise TrainingError(
            f"{what} stopped after {done} of {made.steps} steps without an error; "
            "the rows and the batch may not fit together"
        )
    if best.ndcg is None:  # nothing to compare by: the last step is what there is
        keep_best(made.trainer, tokenizer, job.folder, done, None, best)
    model = publish_best(job, settings.lora, best)
    return write_result(job.folder, TrainingResult(str(model), done, best.step, best.ndcg, watch.stopped))


def _rows(
    job: TrainingJob, settings: TrlSettings, tokenizer: Any
) -> tuple[Sequence[TrainingRow], Sequence[TrainingRow]]:
    """Training and validation rows that leave an answer room in the model's context, and no longer than allowed."""
    limits: dict[int, str] = {}
    if (context := context_of(job)) is not None:
        limits[context - job.max_tokens] = f"the model's context of {context} less an answer (model.max_tokens)"
    if (bound := settings.max_prompt_tokens) is not None:
        limits.setdefault(bound, f"trainer.max_prompt_tokens={bound}")
    most = min(limits, default=None)
    limit = limits[most] if most is not None else ""
    both = (("training", job.train), ("validation", job.validation))
    train, validation = (rows_that_fit(tokenizer, rows, what, most, limit) for what, rows in both)
    return train, validation


@dataclass
class _Watch:
    """What happens besides the optimiser's steps; ``stopped``: why training ends before its last step, if it does."""

    job: TrainingJob
    settings: TrlSettings
    made: BuiltTrainer
    tokenizer: Any
    validation: Sequence[TrainingRow]
    best: Best
    shown: Progress
    done: int = 0
    stopped: str | None = None

    def __post_init__(self) -> None:
        self.dog = Watchdog(self.settings.guard)

    @property
    def validates(self) -> bool:
        """Whether there is anything to validate on."""
        return self.job.lists is not None or len(self.validation) > 0

    def continue_from(self, checkpoint: Path) -> None:
        """What was logged after the checkpoint's step will be logged again.

        Raises:
            TrainingError: where what was logged before it is damaged.
        """
        step, log = step_of(checkpoint), self.job.tracker.jsonl
        log.rewind(step)
        if not logged_alike(checkpoint, log.path):
            raise TrainingError(
                f"{log.path}: was changed after step {step}; put the file back, or remove it to go on without the "
                "curves of the steps before"
            )
        if not log.path.is_file():
            _log.warning("%s: is missing: the curves begin after step %d", log.path, step)
        self.stopped = self.dog.replay(read_jsonl(log.path))
        _log.info("continued from step %d", step)
        self.shown.advance(step)
        self.done = step

    def begin(self, step: int) -> None:
        """Before the first step, of a resumed run too."""
        if step == 0:
            self.job.tracker.jsonl.rewind(-1)
            self._validate(0)

    def step_end(self, step: int, last: int) -> None:
        """After each step."""
        self.shown.advance(step - self.done)
        self.done = step
        if step % self.settings.validate_every == 0 or step == last:
            self._validate(step)

    def log(self, logs: Mapping[str, Any], step: int) -> None:
        """TRL's log of a step."""
        if figures := self.made.figures(logs):
            self.job.tracker.log(figures, step)
            if step == 1 and not self.validates:
                self._begin(figures, "rollout", figures.get("rollout/cut_off", 0.0))
            if self.made.compares and (warning := self.dog.no_spread(figures)) is not None:
                _log.warning("step %d: %s", step, warning)
            self.stopped = self.stopped or self.dog.step(figures)
            self.shown.advance(0, note_of(figures))

    def _begin(self, figures: Mapping[str, float], of: str, cut: float) -> None:
        """Raises ``TrainingError`` where the model's first answers can't be read."""
        if (reason := self.dog.begin(figures, of, cut)) is not None:
            raise TrainingError(reason)

    def _validate(self, step: int) -> None:
        self.made.validated(step)
        if not self.validates:
            return
        measured = self._by_windows() if self.job.lists is None else self._by_lists()
        self.job.tracker.log(measured.figures, step)
        if step == 0 and self.made.samples:
            self._begin(measured.figures, "val", measured.cut)
        ndcg = measured.figures["val/ndcg@10"]
        self.stopped = self.stopped or self.dog.validated(ndcg)
        self.shown.advance(0, f"validation nDCG@10 {ndcg:.4f} at step {step}")
        if self.best.beaten_by(ndcg):
            keep_best(self.made.trainer, self.tokenizer, self.job.folder, step, ndcg, self.best)

    def _by_windows(self) -> Validated:
        """Greedy answers to the validation rows."""
        prompts = [row.prompt for row in self.validation]

        def on_batch(done: int) -> None:
            self.shown.advance(0, f"validating {done}/{len(prompts)}")

        if self.made.greedy is not None:
            answers = self.made.greedy(prompts, on_batch)
        else:
            from rearank.training.trl.answers import greedy

            batch, model = self.settings.validation_batch, self.made.trainer.model
            answers = greedy(model, self.tokenizer, prompts, self.job.max_tokens, batch, on_batch)
        pairs = zip(answers, self.validation, strict=True)
        scored = [score(self.job.reward, text, row.judged, row.index, length) for (text, length), row in pairs]
        figures = {f"val/{name}": value for name, value in describe(scored).items()}
        figures["val/length"] = sum(length for _, length in answers) / len(answers)
        return Validated(figures, sum(length >= self.job.max_tokens for _, length in answers) / len(answers))

    def _by_lists(self) -> Validated:
        """Whole lists, by the model itself, also where vLLM samples: its context is cut to the training prompts."""
        engine, lists = self._policy
        total = len(lists.lists)

        def on_done(done: int) -> None:
            self.shown.advance(0, f"validating {done}/{total} lists")

        return measure(engine, lists, self.job.reward, self.job.max_tokens, on_done)

    @cached_property
    def _policy(self) -> tuple[PolicyEngine, ListValidation]:
        """The model as an engine, and the lists drawn for it; raises ``TrainingError`` where it can't be asked."""
        from rearank.training.trl.answers import likeliest

        lists = self.job.lists
        if lists is None:
            raise ValueError("there are no lists to validate on")
        try:
            chat = load_chat(self.job.model, self.job.revision)
        except EngineError as error:
            raise TrainingError(str(error)) from error
        batch = self.settings.validation_batch

        def decode(prompts: Sequence[list[int]], rooms: Sequence[int]) -> list[list[int]]:
            return likeliest(self.made.trainer.model, prompts, rooms, chat.ends, batch)

        kept = drawn(lists.lists, self.settings.validation_queries, self.job.seed)
        return PolicyEngine(chat, decode), replace(lists, lists=kept)


def _attach(made: BuiltTrainer, watch: _Watch) -> None:
    """TRL's callback protocol around ``watch``; a checkpoint is named by its step, and marked, once it is whole.

    TRL's own printing of each log is taken out.
    """
    from transformers import PrinterCallback, TrainerCallback

    class Callback(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.begin(state.global_step // made.updates_per_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step, more = divmod(state.global_step, made.updates_per_step)
            if more:
                return
            watch.step_end(step, made.steps)
            control.should_training_stop |= watch.stopped is not None

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            watch.log(dict(logs or {}), state.global_step // made.updates_per_step)
            control.should_training_stop |= watch.stopped is not None

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder, step = Path(args.output_dir), state.global_step // made.updates_per_step
            place = folder / f"checkpoint-{step}"
            (folder / f"checkpoint-{state.global_step}").rename(place)
            seal_checkpoint(place, watch.job.tracker.jsonl.path)

    made.trainer.remove_callback(PrinterCallback)
    made.trainer.add_callback(Callback())
