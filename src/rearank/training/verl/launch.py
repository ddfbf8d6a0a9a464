"""From ``run.py`` to the cluster and back: rows and config in, a run started, its events taken down, a model out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rearank.algorithms import PolicyGradient
from rearank.config import node_of
from rearank.engines.chat import opening
from rearank.progress import Progress, progress
from rearank.rewards import SeesGroup
from rearank.tracking import read_jsonl
from rearank.training.base import (
    TrainingError,
    TrainingJob,
    TrainingResult,
    check_enough,
    check_reward,
    note_of,
    result_of,
    write_result,
)
from rearank.training.guard import Watchdog
from rearank.training.lengths import context_of, rows_that_fit
from rearank.training.local import complete_checkpoint, load_tokenizer, step_of
from rearank.training.rows import TrainingRow, chats, save_rows
from rearank.training.sft import Sft
from rearank.training.targets import learnable
from rearank.training.verl.compose import ppo_config, sft_config
from rearank.training.verl.events import Outcome
from rearank.training.verl.export import export, export_base, sharded_over, world_size
from rearank.training.verl.preflight import gpu_gib, settled, too_long
from rearank.training.verl.session import FAILURE, session
from rearank.training.verl.settings import Cluster, Files, Lengths, VerlSettings, Watch, Weights

_log = logging.getLogger(__name__)


def train(trainer: VerlSettings, job: TrainingJob, algorithm: PolicyGradient) -> TrainingResult:
    """See ``VerlTrainer.train``."""
    if (finished := result_of(job.folder)) is not None:
        return finished
    trainer.check(algorithm)
    check_reward(algorithm, job.reward)
    if algorithm.dynamic_sampling and isinstance(job.reward, SeesGroup):
        raise TrainingError(
            f"verl replaces groups before {type(job.reward).__name__} has seen them whole: set "
            "algorithm.dynamic_sampling=false, or a reward that scores single answers"
        )
    lengths = trainer.lengths(job.max_tokens)
    trainer = settled(trainer, algorithm, lengths, job.sizes, gpu_gib(trainer))
    rows, held_out = _rows(job, lengths)
    check_enough(algorithm, rows)
    files = _files(job, bool(held_out))
    save_rows(files.train, rows)
    if files.validation is not None:
        save_rows(files.validation, held_out)
    steps = algorithm.total_steps(len(rows))
    weights = replace(_weights(job, lengths), opened=opening(load_tokenizer(job.model, job.revision)))
    config = ppo_config(trainer, algorithm, weights, files, steps)
    return _run(trainer, job, _Plan("train", config, files, "actor", steps))


def fine_tune(trainer: VerlSettings, job: TrainingJob, sft: Sft, *, tags: bool) -> TrainingResult:
    """See ``VerlTrainer.fine_tune``."""
    if (finished := result_of(job.folder)) is not None:
        return finished
    trainer.check_model()
    if sft.batch % trainer.cluster.gpus:
        raise TrainingError(f"sft.batch ({sft.batch}) must divide over the GPUs ({trainer.cluster.gpus})")
    lengths = trainer.lengths(job.max_tokens)
    trainer = settled(trainer, PolicyGradient(kl=0.0), lengths, job.sizes, gpu_gib(trainer))
    trainer = replace(trainer, shared_prompt=False)  # a prompt has one answer here
    if (trainer.tokens_per_pass or 0) < lengths.total:
        raise TrainingError(
            f"trainer.tokens_per_pass ({trainer.tokens_per_pass}) is less than one prompt with its answer "
            f"({lengths.total}): raise it, or lower trainer.max_prompt_tokens or model.max_tokens"
        )
    rows, held_out = _rows(job, lengths, sft)
    if held_out and len(held_out) < sft.batch:
        _log.warning("no validation: its %d windows are less than sft.batch (%d)", len(held_out), sft.batch)
        held_out = []  # verl drops a last batch that isn't full
    if len(rows) < sft.batch:
        raise TrainingError(f"{len(rows)} training windows are fewer than sft.batch ({sft.batch}): lower it")
    files = _files(job, bool(held_out))
    save_answers(files.train, rows, sft, tags=tags)
    if files.validation is not None:
        save_answers(files.validation, held_out, sft, tags=tags)
    steps = sft.total_steps(len(rows))
    config = sft_config(trainer, sft, _weights(job, lengths), files, steps, lengths.total)
    return _run(trainer, job, _Plan("fine_tune", config, files, ".", steps))


def save_answers(path: Path, rows: Sequence[TrainingRow], sft: Sft, *, tags: bool) -> None:
    """Each row's prompt and the answer to learn, as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"prompt": chats(rows), "answer": sft.answers(rows, tags=tags)}), path)


def _rows(job: TrainingJob, lengths: Lengths, sft: Sft | None = None) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Training and validation rows that fit, by the model's own tokenizer: see ``rows_that_fit`` and ``learnable``."""
    if (context := context_of(job)) is not None and lengths.total > context:
        raise TrainingError(too_long(lengths, context))
    with progress(f"loading the tokenizer of {job.model}"):
        tokenizer = load_tokenizer(job.model, job.revision)
    limit = f"trainer.max_prompt_tokens ({lengths.prompt})"
    both = (("training", job.train), ("validation", job.validation))
    remedy = "raise trainer.max_prompt_tokens, or "
    train, held_out = (rows_that_fit(tokenizer, rows, what, lengths.prompt, limit, remedy) for what, rows in both)
    if sft is not None:
        train = learnable(tokenizer, train, sft, "training", job.max_tokens)
        # A teacher is asked about training windows only.
        has_answers = not sft.given or any(row.completion is not None for row in held_out)
        held_out = learnable(tokenizer, held_out, sft, "validation", job.max_tokens) if has_answers else []
    return train, held_out


def _files(job: TrainingJob, validation: bool) -> Files:
    """Absolute: the cluster's processes run elsewhere."""
    folder = job.folder.resolve()
    held_out = folder / "rows" / "validation.parquet" if validation else None
    return Files(folder / "rows" / "train.parquet", held_out, folder / "checkpoints")


def _weights(job: TrainingJob, lengths: Lengths) -> Weights:
    return Weights(
        _reachable(job),
        lengths,
        json.dumps(node_of(job.reward)),
        job.seed,
        job.folder.resolve().parent.name,
        job.sizes.embedding_parameters if job.sizes is not None else 0,
    )


@dataclass(frozen=True)
class _Plan:
    """A run of the runner's ``method``: verl's config, its rows, and where its checkpoints go."""

    method: str
    config: DictConfig
    files: Files
    shards: str
    """The part of a checkpoint that holds the model."""
    steps: int

    def shards_of(self, step: int) -> Path:
        """Where the model of ``step`` is."""
        return self.files.checkpoints / f"global_step_{step}" / self.shards


def _run(trainer: VerlSettings, job: TrainingJob, plan: _Plan) -> TrainingResult:
    """Start or continue ``plan``, then write its best checkpoint as a model."""
    last = complete_checkpoint(plan.files.checkpoints, "global_step_*")
    done = step_of(last) if last is not None else 0
    if last is not None:
        _check_same_gpus(plan.shards_of(done), trainer.cluster)
        plan.config.trainer.resume_mode, plan.config.trainer.resume_from_path = "resume_path", str(last)
    job.tracker.jsonl.rewind(done if last is not None else -1)
    (job.folder / FAILURE).unlink(missing_ok=True)  # an earlier try's
    history = read_jsonl(job.tracker.jsonl.path)
    reason = Watchdog(trainer.guard).replay(history)
    if done >= plan.steps or reason is not None:  # stopped between the last step and here
        outcome = replace(_outcome_of(history, done), stopped=reason)
    else:
        arguments = (OmegaConf.to_container(plan.config, resolve=False), Watch(trainer, plan.files.train, history))
        with session(trainer, job.folder.resolve()) as ray_session, progress("training", plan.steps, "steps") as shown:
            outcome = ray_session.run(plan.method, _Taker(job, shown, done).take, *arguments)
    step = outcome.best_step if outcome.best_step >= 0 else outcome.steps  # without validation: the last
    with progress(f"writing the model of step {step}"):
        model = _publish(trainer, job, plan.shards_of(step) if step else None)
    if outcome.stopped:
        _log.warning("training stopped at step %d: %s", outcome.steps, outcome.stopped)
    return write_result(job.folder, TrainingResult(str(model), outcome.steps, step, outcome.best_ndcg, outcome.stopped))


def _outcome_of(history: Sequence[Mapping[str, Any]], steps: int) -> Outcome:
    """What a run that came to its end would have returned, by what it logged."""
    best = max((line for line in history if "val/ndcg@10" in line), key=lambda line: line["val/ndcg@10"], default=None)
    if best is None:  # fine-tuning
        best = min((line for line in history if "val/loss" in line), key=lambda line: line["val/loss"], default=None)
    return Outcome(steps, best["step"] if best else -1, best.get("val/ndcg@10") if best else None)


def _publish(trainer: VerlSettings, job: TrainingJob, shards: Path | None) -> Path:
    """The best checkpoint (``None``: the model that training started from) as ``<folder>/model``."""
    target = job.folder / "model"
    if shards is None:
        export_base(job.model, job.revision, target)
    else:
        export(shards, _reachable(job), trainer.lora, target)
    return target


def _reachable(job: TrainingJob) -> str:
    """Where every process of the cluster finds the weights; verl itself takes no revision of a hub's model."""
    if job.revision is None or Path(job.model).is_dir():
        return str(Path(job.model).resolve()) if Path(job.model).is_dir() else job.model
    from huggingface_hub import snapshot_download

    with progress(f"fetching {job.model} at {job.revision}"):
        return str(snapshot_download(job.model, revision=job.revision))


def _check_same_gpus(shards: Path, cluster: Cluster) -> None:
    """verl's shards are loaded by as many GPUs as wrote them, spread as they were."""
    wrote = world_size(shards)
    if wrote != cluster.gpus:
        raise TrainingError(
            f"{shards} was written by {wrote} GPUs and this run has {cluster.gpus}: go on with cluster.nodes x "
            f"cluster.gpus_per_node = {wrote}, or start afresh under another name=..."
        )
    if (spread := sharded_over(shards)) != cluster.shards:
        raise TrainingError(
            f"{shards} holds copies spread over {spread} GPUs each and this run spreads them over {cluster.shards}: go "
            "on with the cluster.shard_within_node and cluster.gpus_per_node it was written with, or start afresh "
            "under another name=..."
        )


class _Taker:
    """Takes the cluster's events down, in the driver."""

    def __init__(self, job: TrainingJob, shown: Progress, done: int) -> None:
        self._job, self._shown, self._done = job, shown, done
        shown.advance(done, "starting the cluster's processes")
        if done:
            _log.info("continued from step %d", done)

    def take(self, events: Sequence[tuple[str, Any]]) -> None:
        """Log and show; an event counts as taken once it is on disk."""
        for kind, content in events:
            if kind == "log":
                self._log(*content)
            elif kind == "table":
                name, columns, rows, step = content
                self._job.tracker.table(name, columns, rows, step)
            elif kind == "begin":
                self._shown.advance(0, "sampling and scoring")
            elif kind == "warning":
                _log.warning("%s", content)
            elif kind == "stopped":
                self._shown.advance(0, f"stopped: {content}")

    def _log(self, step: int, figures: Mapping[str, float]) -> None:
        self._job.tracker.log(figures, step)
        self._shown.advance(max(0, step - self._done), note_of(figures))
        self._done = max(step, self._done)
