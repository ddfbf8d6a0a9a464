"""GRPO on one machine with TRL's GRPOTrainer, unforked: the rows, the reward object and the validation are ours.

What a run leaves in its folder: ``checkpoints/`` (the last few, to resume from), ``model/`` (the best by validation),
``train.jsonl`` (curves), ``train-rollouts.jsonl`` (some sampled answers), ``result.json`` once it is finished.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rearank.progress import Progress, progress
from rearank.rewards import RewardBreakdown
from rearank.tracking import transcript
from rearank.training.base import (
    Best,
    Lora,
    TrainingError,
    TrainingJob,
    TrainingResult,
    describe,
    result_of,
    write_result,
)
from rearank.training.local import (
    checked_rows,
    complete_checkpoint,
    device_settings,
    keep_best,
    load_tokenizer,
    lora_config,
    mark_complete,
    missing_packages,
    publish_best,
    quiet,
)
from rearank.training.rows import TrainingRow

# TRL's names -> ours, which are the same for every trainer.
_CURVES = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "kl": "train/kl",
    "entropy": "train/entropy",
    "clip_ratio/region_mean": "train/clip_ratio",
    "frac_reward_zero_std": "rollout/groups_without_spread",
    "reward_std": "rollout/reward_spread",
    "completions/mean_length": "rollout/length",
    "completions/max_length": "rollout/length_max",
    "completions/clipped_ratio": "rollout/cut_off",
    "step_time": "train/seconds",
}
_log = logging.getLogger(__name__)
_LOSSES = {"token": "dapo", "sequence": "grpo", "constant": "dr_grpo"}


@dataclass(frozen=True)
class Grpo:
    """The algorithm (paper section 3): group-relative advantages, clipped ratios, KL to the model it started from.

    Args:
        steps: optimiser steps; ``null`` for ``epochs`` over the rows.
        epochs: used where ``steps`` is null.
        prompts_per_step: windows a step.
        group_size: sampled answers a window.
        learning_rate: peak, then constant.
        warmup_steps: linear.
        kl: weight of the KL term; 0 leaves the reference model out.
        clip: how far a token's probability ratio counts, below 1 and above.
        clip_high: another bound above 1, ``null`` for the same.
        temperature: of the rollouts.
        top_p: of the rollouts.
        advantage: ``group`` divides by the group's standard deviation (paper), ``centred`` subtracts the mean only.
        loss: ``token`` averages over the batch's tokens (paper), ``sequence`` over each answer's first, ``constant``
            divides by the longest possible answer.
        updates: optimiser passes over a batch of rollouts.
        max_grad_norm: gradients are scaled down to it.
    """

    steps: int | None = None
    epochs: float = 2.0
    prompts_per_step: int = 128
    group_size: int = 32
    learning_rate: float = 1e-6
    warmup_steps: int = 0
    kl: float = 0.001
    clip: float = 0.2
    clip_high: float | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    advantage: Literal["group", "centred"] = "group"
    loss: Literal["token", "sequence", "constant"] = "token"
    updates: int = 1
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "prompts_per_step", "updates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.group_size < 2:
            raise ValueError(f"group_size must be at least 2: an answer is judged beside others; not {self.group_size}")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate must lie between 0 and 1 (1e-6 is usual), not {self.learning_rate}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, or all answers are equal; not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {self.top_p}")
        for name in ("kl", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 < self.clip < 1:
            raise ValueError(f"clip must lie between 0 and 1 (0.2 is usual), not {self.clip}")
        if self.epochs <= 0 or self.max_grad_norm <= 0:
            raise ValueError("epochs and max_grad_norm must be above 0")

    def total_steps(self, rows: int) -> int:
        """Optimiser steps over ``rows`` windows."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * (rows // self.prompts_per_step or 1))) * self.updates


@dataclass(frozen=True)
class TrlTrainer:
    """One machine, CPU or one GPU.

    Args:
        micro_batch: answers in one forward and backward pass; ``null`` for a whole step at once.
        lora: adapters instead of all weights; ``null`` trains all.
        save_every: steps between two checkpoints to resume from.
        keep: how many of them stay.
        validate_every: steps between two validations (and before the first).
        validation_batch: windows answered at once in validation.
        rollout_samples: sampled answers written down at every validation.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``.
        gradient_checkpointing: less memory, more time.
        threads: CPU threads; ``null`` for torch's default.
    """

    micro_batch: int | None = None
    lora: Lora | None = None
    save_every: int = 10
    keep: int = 2
    validate_every: int = 10
    validation_batch: int = 64
    rollout_samples: int = 4
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gradient_checkpointing: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("micro_batch", "save_every", "keep", "validate_every", "validation_batch", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.rollout_samples < 0:
            raise ValueError(f"rollout_samples must not be negative, not {self.rollout_samples}")

    def preflight(self) -> list[str]:
        """Missing packages."""
        return missing_packages("trainer=trl", ["torch", "transformers", "trl", *(["peft"] if self.lora else [])])

    def check(self, algorithm: Grpo) -> None:
        """Whether the batch divides; raises ``TrainingError`` naming the keys."""
        batch = algorithm.prompts_per_step * algorithm.group_size
        if self.micro_batch is not None and batch % self.micro_batch:
            raise TrainingError(
                f"trainer.micro_batch ({self.micro_batch}) must divide algorithm.prompts_per_step x "
                f"algorithm.group_size ({algorithm.prompts_per_step} x {algorithm.group_size} = {batch})"
            )

    def train(self, job: TrainingJob, algorithm: Grpo) -> TrainingResult:
        """Train, or go on from the last checkpoint in ``job.folder``, or return what a finished run left there.

        Raises:
            TrainingError: for settings that don't fit, or a model that can't be trained.
        """
        self.check(algorithm)
        if (finished := result_of(job.folder)) is not None:
            return finished
        with progress("loading torch, transformers and trl"):
            import torch
            import trl

        quiet()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        tokenizer = load_tokenizer(job.model, job.revision)
        train = checked_rows(job, tokenizer, job.train, "training")
        validation = checked_rows(job, tokenizer, job.validation, "validation") if job.validation else []
        steps = algorithm.total_steps(len(train))
        with progress(f"loading {job.model}"):
            trainer = trl.GRPOTrainer(
                model=job.model,
                reward_funcs=_RewardFunction(job, train),
                args=self._arguments(job, algorithm, steps),
                train_dataset=_dataset(train),
                processing_class=tokenizer,
                peft_config=lora_config(self.lora) if self.lora else None,
            )
        best = Best.load(job.folder / "best.json")
        last = complete_checkpoint(job.folder / "checkpoints")
        with progress("training", steps, "steps") as shown:
            watch = _Watch(self, job, algorithm, trainer, tokenizer, validation, best, shown)
            attach(trainer, begin=watch.begin, step_end=watch.step_end, log=watch.log)
            if last is not None:
                watch.continue_from(int(last.name.rpartition("-")[2]))
            trainer.train(resume_from_checkpoint=str(last) if last is not None else None)
        if best.ndcg is None:  # nothing to compare by: the last step is what there is
            watch.save_best(steps, None)
        model = publish_best(job, self.lora, best)
        return write_result(job.folder, TrainingResult(str(model), steps, best.step, best.ndcg))

    def _arguments(self, job: TrainingJob, algorithm: Grpo, steps: int) -> Any:
        import trl

        batch = algorithm.prompts_per_step * algorithm.group_size
        micro = self.micro_batch or batch
        return trl.GRPOConfig(
            output_dir=str(job.folder / "checkpoints"),
            max_steps=steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=batch // micro,
            num_generations=algorithm.group_size,
            max_completion_length=job.max_tokens,
            learning_rate=algorithm.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=algorithm.warmup_steps,
            beta=algorithm.kl,
            epsilon=algorithm.clip,
            epsilon_high=algorithm.clip_high,
            temperature=algorithm.temperature,
            top_p=algorithm.top_p,
            scale_rewards="group" if algorithm.advantage == "group" else "none",
            loss_type=_LOSSES[algorithm.loss],
            num_iterations=algorithm.updates,
            max_grad_norm=algorithm.max_grad_norm,
            save_steps=self.save_every,
            save_total_limit=self.keep,
            logging_steps=1,
            disable_tqdm=True,
            report_to="none",
            seed=job.seed,
            gradient_checkpointing=self.gradient_checkpointing,
            dataloader_pin_memory=False,
            **device_settings(self.device, job.revision),
        )


class _RewardFunction:
    """TRL's reward protocol around our reward object; keeps the breakdowns of the batch for the curves."""

    __name__ = "rearank"

    def __init__(self, job: TrainingJob, rows: Sequence[TrainingRow]) -> None:
        self._reward = job.reward
        self._rows = rows
        self.scored: list[tuple[TrainingRow, str, RewardBreakdown]] = []

    def __call__(self, *, completions: Sequence[Any], row: Sequence[int], log_metric: Any, **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        began = time.perf_counter()
        self.scored = [
            (self._rows[number], text, self._reward(text, self._rows[number].judged))
            for number, text in zip(row, texts, strict=True)
        ]
        for name, value in describe([breakdown for *_, breakdown in self.scored]).items():
            log_metric(f"rollout/{name}", value)
        log_metric("rollout/reward_seconds", time.perf_counter() - began)
        return [breakdown.total for *_, breakdown in self.scored]


class _Watch:
    """What happens beside the optimiser's steps: curves, validation, best checkpoint, progress."""

    def __init__(
        self,
        settings: TrlTrainer,
        job: TrainingJob,
        algorithm: Grpo,
        trainer: Any,
        tokenizer: Any,
        validation: Sequence[TrainingRow],
        best: Best,
        shown: Progress,
    ) -> None:
        self._settings, self._job, self._algorithm, self._trainer = settings, job, algorithm, trainer
        self._tokenizer, self._validation, self._best, self._shown = tokenizer, validation, best, shown
        self._done = 0

    def continue_from(self, step: int) -> None:
        """A checkpoint of ``step`` is resumed: what was logged after it will be logged again."""
        self._job.tracker.jsonl.rewind(step)
        _log.info("continued from step %d", step)
        self._shown.advance(step)
        self._done = step

    def begin(self, step: int) -> None:
        if step == 0:
            self._job.tracker.jsonl.rewind(-1)
            self._validate(0)

    def step_end(self, step: int, last: int) -> None:
        self._shown.advance(step - self._done)
        self._done = step
        if step % self._settings.validate_every == 0 or step == last:
            self._validate(step)

    def log(self, logs: Mapping[str, Any], step: int) -> None:
        figures = {
            _CURVES.get(name, name): value for name, value in logs.items() if name in _CURVES or "rollout/" in name
        }
        figures = {name: float(value) for name, value in figures.items() if value is not None}
        if "rollout/reward/total" not in figures:  # the summary at the end, which repeats nothing of ours
            return
        self._job.tracker.log(figures, step)
        self._shown.advance(0, f"reward {figures['rollout/reward/total']:.3f}, nDCG {figures['rollout/ndcg@10']:.3f}")

    def save_best(self, step: int, ndcg: float | None) -> None:
        keep_best(self._trainer, self._tokenizer, self._job.folder, step, ndcg, self._best)

    def _validate(self, step: int) -> None:
        self._write_rollouts(step)
        if not self._validation:
            return
        answers = greedy(
            self._trainer.model,
            self._tokenizer,
            [row.prompt for row in self._validation],
            self._job.max_tokens,
            self._settings.validation_batch,
            lambda done: self._shown.advance(0, f"validating {done}/{len(self._validation)}"),
        )
        scored = [self._job.reward(text, row.judged) for (text, _), row in zip(answers, self._validation, strict=True)]
        figures = {f"val/{name}": value for name, value in describe(scored).items()}
        figures["val/length"] = sum(length for _, length in answers) / len(answers)
        self._job.tracker.log(figures, step)
        ndcg = figures["val/ndcg@10"]
        self._shown.advance(0, f"validation nDCG@10 {ndcg:.4f} at step {step}")
        if self._best.beaten_by(ndcg):
            self.save_best(step, ndcg)

    def _write_rollouts(self, step: int) -> None:
        scored = self._trainer.reward_funcs[0].scored[:: self._algorithm.group_size]
        rows = [
            [row.judged.window.query.id, transcript(row.prompt), text, *map(str, asdict(breakdown).values())]
            for row, text, breakdown in scored[: self._settings.rollout_samples]
        ]
        if rows:
            columns = ["query", "prompt", "answer", *RewardBreakdown.__dataclass_fields__]
            self._job.tracker.table("rollouts", columns, rows, step)


def attach(
    trainer: Any,
    *,
    begin: Callable[[int], None],
    step_end: Callable[[int, int], None],
    log: Callable[[dict[str, Any], int], None],
) -> None:
    """Call back in TRL's protocol: ``begin(step)``, ``step_end(step, last step)``, ``log(figures, step)``.

    Every checkpoint is marked once it is whole. TRL's own printing of each log is taken out.
    """
    from transformers import PrinterCallback, TrainerCallback

    class Callback(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            begin(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step_end(state.global_step, state.max_steps)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            log(dict(logs or {}), state.global_step)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Callback())


def _dataset(rows: Sequence[TrainingRow]) -> Any:
    import datasets

    prompts = [[asdict(message) for message in row.prompt] for row in rows]
    return datasets.Dataset.from_dict({"prompt": prompts, "row": list(range(len(rows)))})


def greedy(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    max_tokens: int,
    batch: int,
    told: Callable[[int], None] = lambda _: None,
) -> list[tuple[str, int]]:
    """The model's greedy answers and their lengths in tokens, computed in batches of like length."""
    import torch

    texts = [
        tokenizer.apply_chat_template([asdict(m) for m in prompt], tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    answers: dict[int, tuple[str, int]] = {}
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            inputs = tokenizer(
                [texts[i] for i in chosen],
                padding=True,
                padding_side="left",
                add_special_tokens=False,
                return_tensors="pt",
                return_token_type_ids=False,
            ).to(model.device)
            with torch.inference_mode():
                ids = model.generate(
                    **inputs,
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    use_cache=True,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                )
            said = ids[:, inputs["input_ids"].shape[1] :]
            for i, tokens in zip(chosen, said.tolist(), strict=True):
                ended = tokens.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in tokens else len(tokens)
                answers[i] = (tokenizer.decode(tokens[:ended], skip_special_tokens=True), ended)
            told(len(answers))
    finally:
        model.train(was_training)
    return [answers[i] for i in range(len(texts))]
