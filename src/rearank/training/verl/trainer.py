"""verl's synchronous PPO trainer with this project's figures, checkpoints, guard and failures.

Imported in the cluster only. verl's loop is not changed: what is ours hangs on the methods it calls at each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import ray
import torch
import transfer_queue as tq
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from rearank.rewards import RewardError, SeesGroup
from rearank.training.base import ROLLOUT_COLUMNS, TrainingError, describe, rollout_line
from rearank.training.guard import Watchdog
from rearank.training.local import is_complete, mark_complete, prune
from rearank.training.rows import read_rows
from rearank.training.verl.events import Reporter
from rearank.training.verl.reward import reward_of
from rearank.training.verl.rollouts import GroupClient
from rearank.training.verl.settings import Watch
from rearank.training.verl.step import (
    SampledAnswer,
    answers_of,
    breakdown_of,
    column,
    figures_of,
    keep_groups,
    score_together,
    text_of,
    token_means,
)

POLL = 0.1
"""Seconds between two looks for finished answers; verl's own 2.0 s is most of a small step."""

REPLACED = 20
"""Batches that dynamic sampling may draw for one step."""


@dataclass(frozen=True)
class _Checkpoint:
    """One on disk that doesn't count yet."""

    path: Path
    weights_only: bool


class WatchedTrainer(PPOTrainerSync):  # type: ignore[misc]
    """verl's trainer, watched."""

    global_steps: int  # verl's: the step under way
    total_training_steps: int

    def __init__(self, config: Any, watch: Watch) -> None:
        self._watch = watch.settings
        self._reporter = Reporter()
        self._reward = reward_of(config.reward.custom_reward_function.reward_kwargs.reward)
        self._dog = Watchdog(watch.settings.guard)
        self._rows = {row.index: row for row in read_rows(watch.rows)}
        self._best_step, self._best_ndcg = -1, float("-inf")
        self._best_when_whole = -1  # the best step at the last checkpoint to go on from
        self._validation: dict[str, float] = {}
        self._validation_length = self._validation_cut = 0.0
        self._scores: dict[str, dict[str, Any]] = {}
        self._shown_answers: list[list[str]] = []
        self._saved: _Checkpoint | None = None
        self._replaced = self._logged = 0
        self._windows: Any = None  # the data loader's state before this step
        self.stopped: str | None = None
        self._remember(watch.history)
        self._best_when_whole = self._best_step
        super().__init__(config)

    @property
    def best(self) -> tuple[int, float | None]:
        """(step, nDCG) of the best validation so far; step -1 where there was none."""
        return self._best_step, self._best_ndcg if self._best_step >= 0 else None

    def _remember(self, history: Sequence[Mapping[str, Any]]) -> None:
        self._dog.replay(history)
        for line in history:
            if "val/ndcg@10" in line:
                self._better(line["step"], line["val/ndcg@10"])

    def _better(self, step: int, ndcg: float) -> bool:
        if ndcg <= self._best_ndcg + 1e-12:
            return False
        self._best_step, self._best_ndcg = step, ndcg
        return True

    # What verl's trainer calls.

    def get_llm_client(self) -> Any:
        """verl's, which keeps a group's answers on one rollout engine."""
        return self.llm_server_manager.get_client(client_cls=GroupClient)

    def _build_replay_buffer(self) -> Any:
        """verl's, which looks for finished answers more often and ends the run at the first that failed."""
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = POLL
        look = buffer._sync_metadata_from_transfer_queue

        def look_for_failures() -> None:
            self._reporter.check()
            look()
            if any(buffer.failure_keys.values()):
                if buffer.failure_keys["train"] and self._reporter.harmless():
                    self.checkpoint_manager.abort_replicas(reject_request=True)
                    self.checkpoint_manager.sleep_replicas()
                    self._save_step_before()
                raise TrainingError(self._reporter.failure() or "an answer failed and no cause was reported")

        buffer._sync_metadata_from_transfer_queue = look_for_failures
        return buffer

    def on_step_begin(self) -> None:
        """Nothing was replaced yet, and no window of this step was drawn."""
        super().on_step_begin()
        self._replaced = 0
        if self.global_steps > 1 and not is_complete(self._place(self.global_steps - 1)):
            self._windows = self.train_dataloader.state_dict()

    def _add_prompts_to_generate(self, num_prompts: int) -> Any:
        """Dynamic sampling asks for windows in place of those whose answers all earned the same; verl sets no limit."""
        self._replaced += num_prompts
        limit = REPLACED * self.config.data.train_batch_size
        if self._replaced > limit:
            raise TrainingError(
                f"step {self.global_steps}: {limit} windows were drawn and too few of them have answers that earn "
                "different rewards; set algorithm.dynamic_sampling=false, or sample hotter (algorithm.temperature)"
            )
        return super()._add_prompts_to_generate(num_prompts)

    def on_train_begin(self) -> None:
        """Validate before the first step; a resumed run has done so."""
        super().on_train_begin()
        done = self.global_steps - 1  # verl has moved on to the step to come
        self._reporter.put("begin", None)
        if done == 0 and self.config.trainer.test_freq > 0:
            self.global_steps = 0
            self._validate()
            self.global_steps = 1
            figures = self._take_validation(0)
            self._dog.validated(figures["val/ndcg@10"])
            self._log(0, figures)
            self._check_first(figures, "val", self._validation_cut)

    def _save_checkpoint(self) -> None:
        """Only at the steps that are due; it counts once the step's figures are logged.

        Where only a validation is due the weights are enough, a third of the whole: the step may be the best one.
        """
        step = self.global_steps
        if step % self._watch.save_every == 0 or step >= self.total_training_steps:
            self._save(weights_only=False)
        elif self.config.trainer.test_freq > 0 and step % self._watch.validate_every == 0:
            self._save(weights_only=True)

    def _save_step_before(self) -> None:
        """A checkpoint of the steps that are done, where there is none yet: this step draws the same windows again."""
        if self.global_steps <= 1 or is_complete(self._place(self.global_steps - 1)):
            return
        self.global_steps -= 1
        self._save(weights_only=False)
        torch.save(self._windows, self._place(self.global_steps) / "data.pt")
        self._reporter.wait_for_driver(self._logged)
        mark_complete(self._place(self.global_steps))
        self.global_steps += 1

    def _place(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return Path(self.config.trainer.default_local_dir) / f"global_step_{step}"

    def _save(self, *, weights_only: bool) -> None:
        place = self._place(self.global_steps)
        contents = ["model"] if weights_only else list(self.config.actor_rollout_ref.actor.checkpoint.save_contents)
        ray.get([worker.__ray_call__.remote(_save_only, contents) for worker in self.actor_rollout_wg.workers])
        if weights_only:
            self.actor_rollout_wg.save_checkpoint(str(place / "actor"), None, self.global_steps, max_ckpt_to_keep=None)
        else:
            super()._save_checkpoint()
        self._saved = _Checkpoint(place, weights_only)

    def _maybe_log_val_generations(self, inputs: Any, outputs: Sequence[str], scores: Any) -> None:
        """Called with every validation answer: how long they are."""
        super()._maybe_log_val_generations(inputs=inputs, outputs=outputs, scores=scores)
        ids = self.tokenizer(list(outputs), add_special_tokens=False)["input_ids"]
        self._validation_length = fmean(len(tokens) + 1 for tokens in ids)  # and the end token
        self._validation_cut = fmean(len(tokens) >= self.config.data.max_response_length for tokens in ids)

    def _val_metrics_update(
        self, data_sources: Any, sample_uids: Any, reward_extra_infos_dict: Any, sample_turns: Any, **_: Any
    ) -> dict[str, float]:
        """Instead of verl's statistics per source: the figures every trainer logs."""
        infos = {name: list(values) for name, values in reward_extra_infos_dict.items()}
        answers = [dict(zip(infos, values, strict=True)) for values in zip(*infos.values(), strict=True)]
        figures = {f"val/{name}": value for name, value in describe([breakdown_of(a) for a in answers]).items()}
        self._validation = {**figures, "val/length": self._validation_length}
        return dict(self._validation)

    def _dump_generations(self, *, reward_extra_infos_dict: dict[str, Any], **kwargs: Any) -> None:
        """verl's files of every rollout (``trainer.rollout_data_dir``), with the reward's components."""
        scores = [self._scores.get(key) for key in reward_extra_infos_dict.get("uid", ())]
        if scores and all(scores):
            names = [name for name in scores[0] or {} if name not in reward_extra_infos_dict]
            reward_extra_infos_dict |= {name: [one[name] for one in scores if one] for name in names}
        super()._dump_generations(reward_extra_infos_dict=reward_extra_infos_dict, **kwargs)

    def _balance_batch(self, batch: Any, metrics: Any, *rest: Any, **more: Any) -> Any:
        """By row and sample first, then as verl spreads it over ranks; where groups share prompts, by whole groups.

        verl takes answers in the order in which they were ready, so that which of them share a minibatch was chance.
        """
        found = tq.kv_batch_get(keys=list(batch.keys), partition_id=batch.partition_id, select_fields=["index"])
        samples = ([int(number) for number in key.split("_")[1:]] for key in batch.keys)
        places = list(zip(map(int, column(found, "index")), samples, strict=True))
        batch.reorder(sorted(range(len(places)), key=places.__getitem__))
        keys = list(batch.keys)
        batch = super()._balance_batch(batch, metrics, *rest, **more)
        if not self._watch.shared_prompt or len(batch.keys) > len(keys):  # filled up: the last groups aren't whole
            return batch
        role = self.config.actor_rollout_ref
        keep_groups(
            batch,
            keys,
            metrics,
            ranks=max(self.actor_rollout_wg._dispatch_info["actor"]) + 1,
            update=role.actor.ppo_mini_batch_size * role.rollout.n,
        )
        return batch

    def _compute_advantage(self, batch: Any, metrics: Any) -> Any:
        """verl's, once a reward that looks at its whole group has been asked."""
        if isinstance(self._reward, SeesGroup):
            try:
                score_together(batch, self._reward, self._rows, self.tokenizer)
            except RewardError:
                self._save_step_before()
                raise
        return super()._compute_advantage(batch, metrics)

    def _compute_metrics(self, batch: Any, metrics: Any, timing_raw: Any, global_steps: int, epoch: int) -> None:
        """verl's figures of the step, then ours; then the guard; then the checkpoint counts."""
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        figures = self._step_figures(batch, metrics, timing_raw)
        reason = self._dog.step(figures)
        if self._validation:
            figures |= self._take_validation(global_steps)
            reason = reason or self._dog.validated(figures["val/ndcg@10"])
        self._log(global_steps, figures)
        if global_steps == 1 and self.config.trainer.test_freq <= 0:
            self._check_first(figures, "rollout", figures["rollout/cut_off"])
        self._warn_of_no_spread(global_steps, figures)
        if reason is not None and (self._saved is None or self._saved.weights_only):
            self.checkpoint_manager.sleep_replicas()  # verl saves while the rollout engines have let go of the GPU
            self._save(weights_only=False)
        if self._saved is not None:
            self._reporter.wait_for_driver(self._logged)
            mark_complete(self._saved.path, weights_only=self._saved.weights_only)
            if not self._saved.weights_only:
                self._best_when_whole = self._best_step
            best = (self._best_step, self._best_when_whole)
            prune(self._saved.path.parent, "global_step_*", self._watch.keep, best)
            self._saved = None
        if reason is not None:
            self.stopped = reason
            self._reporter.put("stopped", reason)
            self.total_training_steps = global_steps  # verl's loop ends here

    def _check_first(self, figures: Mapping[str, float], of: str, cut: float) -> None:
        """Raises ``TrainingError`` where the model's first answers can't be read."""
        if (reason := self._dog.begin(figures, of, cut)) is not None:
            raise TrainingError(reason)

    def _warn_of_no_spread(self, step: int, figures: Mapping[str, float]) -> None:
        """Not of answers that are compared with no other, or with the whole batch."""
        alone = self.config.actor_rollout_ref.rollout.n == 1 or figures.get("verl/critic/advantages/max", 0.0) > 0
        if not alone and (warning := self._dog.no_spread(figures)) is not None:
            self._reporter.put("warning", f"step {step}: {warning}")

    def _take_validation(self, step: int) -> dict[str, float]:
        figures, self._validation = self._validation, {}
        self._better(step, figures["val/ndcg@10"])
        return figures

    def _log(self, step: int, figures: Mapping[str, float]) -> None:
        self._logged = self._reporter.put("log", (step, dict(figures)))
        if self._shown_answers:
            self._logged = self._reporter.put("table", ("rollouts", ROLLOUT_COLUMNS, self._shown_answers, step))
            self._shown_answers = []

    def _step_figures(self, batch: Any, metrics: Mapping[str, Any], timing: Mapping[str, float]) -> dict[str, float]:
        answers = answers_of(batch)
        self._scores = {answer.key: dict(answer.scores) for answer in answers}
        if self.global_steps % self._watch.validate_every == 0 or self.global_steps >= self.total_training_steps:
            self._keep_some(answers)
        figures = figures_of(answers, metrics, timing, self.config.data.max_response_length)
        return figures | token_means(batch, reference=self.use_reference_policy)

    def _keep_some(self, answers: Sequence[SampledAnswer]) -> None:
        """The first answer of the first few groups, to be read by a person."""
        first = {answer.group: answer for answer in reversed(answers)}
        chosen = sorted(first.values(), key=lambda one: one.row)[: self._watch.rollout_samples]
        self._shown_answers = [
            rollout_line(
                self._rows[answer.row],
                text_of(answer, self.tokenizer),
                answer.breakdown,
            )
            for answer in chosen
        ]


def _save_only(worker: Any, contents: list[str]) -> None:
    """In a worker: what the policy's next checkpoints hold."""
    for role in worker.worker_dict.values():
        if (actor := getattr(role, "actor", None)) is not None:
            actor.engine.checkpoint_manager.checkpoint_save_contents = contents
