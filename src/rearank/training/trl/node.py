"""The node behind ``trainer=trl``: one machine, TRL's trainers; the rows, the reward, the validation are ours.

A step is one batch of rollouts and the updates on it, whatever their number: curves, validation and checkpoints count
steps. (Where ``algorithm.updates`` passes go over the same rollouts, each pass counts.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rearank.algorithms import PolicyGradient
from rearank.engines.chat import opening
from rearank.engines.model import Model
from rearank.training.base import (
    ROLLOUT_COLUMNS,
    TrainingError,
    TrainingForecast,
    TrainingJob,
    TrainingResult,
    check_enough,
    check_reward,
    rollout_line,
)
from rearank.training.footprint import RUNTIME
from rearank.training.lengths import context_of, prompt_lengths
from rearank.training.local import (
    complete_checkpoint,
    device_settings,
    load_tokenizer,
    lora_config,
    memory_used,
    step_of,
)
from rearank.training.rows import TrainingRow, chats, guarded
from rearank.training.sft import Sft
from rearank.training.targets import ending, learnable, target_tokens
from rearank.training.trl import plan
from rearank.training.trl.fit import BuiltTrainer, fit
from rearank.training.trl.passes import Passes, PassMemory, chosen_passes
from rearank.training.trl.reward import TrlReward
from rearank.training.trl.rollouts import beside_vllm, greedy_by_vllm, vllm_arguments
from rearank.training.trl.settings import TrlSettings

# TRL's names -> ours, which are the same for every trainer.
_COMMON = {"loss": "train/loss", "grad_norm": "train/grad_norm", "learning_rate": "train/learning_rate"}
_CURVES = {
    **_COMMON,
    "kl": "train/kl",
    "entropy": "train/entropy",
    "clip_ratio/region_mean": "train/clip_ratio",
    "completions/mean_length": "rollout/length",
    "completions/max_length": "rollout/length_max",
    "completions/clipped_ratio": "rollout/cut_off",
    "step_time": "train/seconds",
    "sampling/importance_sampling_ratio/mean": "train/correction_weight",
}
_SFT_CURVES = {**_COMMON, "entropy": "train/entropy", "mean_token_accuracy": "train/token_accuracy"}
_log = logging.getLogger(__name__)
_LOSSES = {"token": "dapo", "sequence": "grpo", "constant": "dr_grpo"}


@dataclass(frozen=True)
class TrlTrainer(TrlSettings):
    """One machine, CPU or one GPU; its fields are those of ``TrlSettings``."""

    def examine(self, algorithm: PolicyGradient, model: Model, folder: Path) -> TrainingForecast:
        """What training ``model`` would fail at, and what it would take; see ``plan``."""
        report = plan.examine(self, algorithm, model.max_tokens, model.sizes)
        try:
            self.check(algorithm)
        except TrainingError as error:
            report.problems.insert(0, str(error))
        return report

    def measure(self, report: TrainingForecast, model: Model, rows: Mapping[str, Sequence[TrainingRow]]) -> None:
        """Add to ``report`` how long the rows' prompts are, by the model's own tokenizer."""
        try:
            tokenizer = load_tokenizer(model.location, model.revision)
            measured = {what: prompt_lengths(tokenizer, some, what) for what, some in rows.items() if some}
        except TrainingError as error:
            report.problems.append(str(error))
            return
        for what, found in measured.items():
            spread = f"{min(found)} to {max(found)} tokens, mean {fmean(found):.0f}"
            report.notes.append(f"{what} prompts: {len(found)}, of {spread}")

    def train(self, job: TrainingJob, algorithm: PolicyGradient) -> TrainingResult:
        """By reinforcement, with TRL's GRPOTrainer; see ``Trainer``."""
        self.check(algorithm)
        check_reward(algorithm, job.reward)
        by_vllm, with_engines = self.rollout == "vllm", []

        def make(tokenizer: Any, rows: Sequence[TrainingRow]) -> BuiltTrainer:
            from rearank.training.trl.policy import PolicyTrainer

            check_enough(algorithm, rows)
            passes = self._passes(
                job,
                tokenizer,
                rows,
                algorithm.answers_per_update,
                reference=algorithm.kl > 0,
                group=algorithm.group_size if self.shares_prompts else 1,
            )
            sampling = self._sampling(job, algorithm, tokenizer, rows) if by_vllm else {}
            steps = algorithm.total_steps(len(rows)) * algorithm.updates
            reward = TrlReward(job.reward, rows, opening(tokenizer), tokenizer)
            last = complete_checkpoint(job.folder / "checkpoints")
            epochs = step_of(last) // (len(rows) // algorithm.prompts_per_step * algorithm.updates) if last else 0
            trainer = PolicyTrainer(
                algorithm,
                reward,
                epochs,
                shared_prompt=self.shared_prompt,
                model=job.model,
                args=self._policy_settings(job, algorithm, steps, passes, sampling),
                train_dataset=_columns(prompt=chats(rows), row=list(range(len(rows)))),
                processing_class=tokenizer,
                peft_config=lora_config(self.lora) if self.lora else None,
            )

            def by_engine(prompts: Sequence[Any], on_batch: Callable[[int], None]) -> list[tuple[str, int]]:
                return greedy_by_vllm(trainer, tokenizer, prompts, on_batch)

            if by_vllm:
                with_engines.append(trainer)

            def figures(logs: Mapping[str, Any]) -> dict[str, float]:
                return _figures(logs, algorithm.minibatches)

            def validated(step: int) -> None:
                """Some sampled answers as a table."""
                if shown := reward.scored[:: algorithm.group_size][: self.rollout_samples]:
                    job.tracker.table("rollouts", ROLLOUT_COLUMNS, [rollout_line(*one) for one in shown], step)

            compares = algorithm.advantage not in ("batch", "critic")
            return BuiltTrainer(
                trainer,
                steps,
                figures,
                validated,
                algorithm.minibatches,
                samples=True,
                compares=compares,
                greedy=by_engine if by_vllm else None,
            )

        if not by_vllm:
            return fit(job, self, "training", make)
        with beside_vllm(with_engines, on_cpu=self.device == "cpu"):
            return fit(job, self, "training", make)

    def fine_tune(self, job: TrainingJob, sft: Sft, *, tags: bool = True) -> TrainingResult:
        """On the rows' answers (``sft.targets``), with TRL's SFTTrainer; see ``Trainer``."""

        def make(tokenizer: Any, rows: Sequence[TrainingRow]) -> BuiltTrainer:
            import trl

            rows = learnable(tokenizer, rows, sft, "training", job.max_tokens)
            steps = sft.total_steps(len(rows))
            passes = self._passes(job, tokenizer, rows, sft.batch, micro=sft.micro_batch, key="sft.micro_batch")
            prompts = chats(rows)
            end = ending(tokenizer, prompts[0])
            pairs = zip(prompts, sft.answers(rows, tags=tags), strict=True)
            targets = [target_tokens(tokenizer, prompt, answer, end) for prompt, answer in pairs]
            fitter = trl.SFTTrainer(
                model=job.model,
                args=self._sft_settings(job, sft, steps, passes),
                train_dataset=_columns(
                    input_ids=[ids for ids, _ in targets],
                    completion_mask=[[0] * asked + [1] * (len(ids) - asked) for ids, asked in targets],
                ),
                processing_class=tokenizer,
                peft_config=lora_config(self.lora) if self.lora else None,
            )
            return BuiltTrainer(fitter, steps, _sft_figures)

        return fit(job, self, "fine-tuning", make)

    @property
    def _on_gpu(self) -> bool:
        return not device_settings(self.device, None)["use_cpu"]

    def _passes(
        self, job: TrainingJob, tokenizer: Any, rows: Sequence[TrainingRow], answers: int, **more: Any
    ) -> Passes:
        """How an update's answers are gone through, by what fits; see ``chosen_passes``."""
        given = {"micro": self.micro_batch, "checkpointing": self.gradient_checkpointing, "lora": self.lora, **more}
        asleep = RUNTIME if self.rollout == "vllm" and self._on_gpu else 0.0
        return chosen_passes(job, tokenizer, rows, answers, gpu=self._on_gpu, taken=asleep, **given)

    def _sampling(
        self, job: TrainingJob, algorithm: PolicyGradient, tokenizer: Any, rows: Sequence[TrainingRow]
    ) -> dict[str, Any]:
        """TRL's settings of vLLM, by the longest of all prompts, those of the validation included."""
        every = [row for some in (rows, job.validation) for row in guarded(some, tokenizer)]
        prompt = max(prompt_lengths(tokenizer, every, "all"))
        if (context := context_of(job)) is not None:
            prompt = min(prompt, context - job.max_tokens)
        share = self.rollout_memory
        if share is None:
            _, gib = plan.where(self)
            if job.sizes is None or gib is None:
                share = 0.3  # TRL's own
            else:
                memory = PassMemory(
                    job.sizes, prompt, job.max_tokens, self._on_gpu, lora=self.lora, reference=algorithm.kl > 0
                )
                share, held, _ = plan.vllm_share(memory, algorithm.answers_per_step, gib)
                _log.info("trainer.rollout_memory: %.2f, a cache for %d whole answers by estimate", share, held)
        return vllm_arguments(algorithm, longest=prompt + job.max_tokens, share=share, on_cpu=not self._on_gpu)

    def _policy_settings(
        self, job: TrainingJob, algorithm: PolicyGradient, steps: int, passes: Passes, sampling: Mapping[str, Any]
    ) -> Any:
        import trl

        # One update is what HF's trainer counts as a step: everything by step is times the updates in one of ours.
        updates, micro = algorithm.minibatches, passes.micro_batch
        return trl.GRPOConfig(
            max_steps=steps * updates,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=algorithm.answers_per_update // micro,
            steps_per_generation=algorithm.answers_per_step // micro,
            num_generations=algorithm.group_size,
            max_completion_length=job.max_tokens,
            learning_rate=algorithm.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=algorithm.warmup_steps * updates,
            weight_decay=algorithm.weight_decay,
            beta=algorithm.kl,
            epsilon=algorithm.clip,
            epsilon_high=algorithm.clip_high,
            temperature=algorithm.temperature,
            top_p=algorithm.top_p,
            scale_rewards="group" if algorithm.advantage == "group" else "none",
            loss_type=_LOSSES[algorithm.loss],
            importance_sampling_level=algorithm.ratio,
            num_iterations=algorithm.updates,
            max_grad_norm=algorithm.max_grad_norm,
            save_steps=self.save_every * updates,
            logging_steps=updates,
            **sampling,
            **self._settings(job, passes),
        )

    def _sft_settings(self, job: TrainingJob, sft: Sft, steps: int, passes: Passes) -> Any:
        import trl

        return trl.SFTConfig(
            max_steps=steps,
            per_device_train_batch_size=passes.micro_batch,
            gradient_accumulation_steps=sft.batch // passes.micro_batch,
            learning_rate=sft.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=sft.warmup_steps,
            max_length=None,  # rows that exceed the context were left out; a cut answer would teach half an order
            completion_only_loss=True,
            save_steps=self.save_every,
            logging_steps=1,
            **self._settings(job, passes),
        )

    def _settings(self, job: TrainingJob, passes: Passes) -> dict[str, Any]:
        """Of both of TRL's trainers."""
        return {
            "output_dir": str(job.folder / "checkpoints"),
            "save_total_limit": self.keep,
            "disable_tqdm": True,
            "report_to": "none",
            "seed": job.seed,
            "gradient_checkpointing": passes.checkpointing,
            "dataloader_pin_memory": False,
            **device_settings(self.device, job.revision, lora=self.lora is not None),
        }


def _figures(logs: Mapping[str, Any], updates: int = 1) -> dict[str, float]:
    """TRL's log of a step of so many ``updates`` under our names; nothing of the summary at the end."""
    ours = ("rollout/", "train/reward/", "train/rollout_gap", "train/corrected")
    named = {_CURVES.get(n, n): value for n, value in logs.items() if n in _CURVES or n.startswith(ours)}
    if "train/reward/total" not in named:
        return {}
    figures = {n: float(v) for n, v in named.items() if v is not None}
    if "train/seconds" in figures:
        figures["train/seconds"] *= updates  # the mean of an update's
    return figures | memory_used()


def _sft_figures(logs: Mapping[str, Any]) -> dict[str, float]:
    """As ``_figures``, of fine-tuning."""
    named = {_SFT_CURVES[name]: float(value) for name, value in logs.items() if name in _SFT_CURVES}
    return named if "train/loss" in named else {}


def _columns(**columns: list[Any]) -> Any:
    import datasets

    return datasets.Dataset.from_dict(columns)
