"""verl's synchronous PPO trainer with this project's figures, checkpoints, guard and failures.

Imported in the cluster only. verl's loop is not changed: what is ours hangs on the methods it calls at each step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import ray
import torch
import transfer_queue as tq
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from rearank.parsing import ParseStatus
from rearank.rewards import RewardBreakdown
from rearank.tracking.names import rollout_name
from rearank.training.base import ROLLOUT_COLUMNS, TrainingError, describe, rollout_line
from rearank.training.guard import Guard, Watchdog
from rearank.training.local import mark_complete, prune
from rearank.training.rows import read_rows
from rearank.training.verl.events import Reporter
from rearank.training.verl.rollouts import GroupClient

POLL = 0.1
"""Seconds between two looks for finished answers; verl's own 2.0 s is most of a small step."""

WIDE = 0.1
"""How far from 1 the ratio of a token's two probabilities (trainer's, rollout engine's) is called wide."""

REPLACED = 20
"""Batches that dynamic sampling may draw for one step."""

# verl's names -> ours, which are the same for every trainer.
_CURVES = {
    "actor/pg_loss": "train/loss",
    "actor/grad_norm": "train/grad_norm",
    "actor/lr": "train/learning_rate",
    "actor/pg_clipfrac": "train/clip_ratio",
    "critic/vf_loss": "train/value_loss",
    "prompt_length/mean": "rollout/prompt_length",
    "training/rollout_probs_diff_max": "train/rollout_gap_max",
    "training/rollout_probs_diff_mean": "train/rollout_gap_mean",
    "rollout_corr/rollout_is_ratio_fraction_high": "train/corrected",
    "rollout_corr/rollout_is_mean": "train/correction_weight",
    "training/filter_groups/evicted_samples": "rollout/groups_replaced",
    "perf/throughput": "perf/tokens_per_second_per_gpu",
    "perf/mfu/actor": "perf/mfu",
    "actor/perf/max_memory_allocated_gb": "perf/memory_gib",
}
_TIMES = {
    "gen": "rollouts",
    "old_log_prob": "old_log_prob",
    "ref": "reference",
    "values": "values",
    "adv": "advantage",
    "update_critic": "update_critic",
    "update_actor": "update",
    "update_weights": "weight_sync",
    "save_checkpoint": "checkpoint",
    "testing": "validation",
    "step": "step",
}


@dataclass(frozen=True)
class Watch:
    """What the trainer does beside verl's loop."""

    guard: Guard
    save_every: int
    validate_every: int
    keep: int
    rollout_samples: int
    rows: Path
    """The training rows: answers are shown beside the row they answer."""
    history: Sequence[Mapping[str, Any]]
    """Lines logged before a stop, up to the checkpoint that is resumed."""


class _Answer(NamedTuple):
    """A sampled answer: its group, its row, its tokens, the reward function's scores, and its prompt's tokens."""

    group: str
    row: int
    tokens: torch.Tensor
    scores: Mapping[str, Any]
    prompt: int
    cached: int
    """Of the prompt's tokens, those that the rollout engine had read before."""


@dataclass(frozen=True)
class _Checkpoint:
    """One on disk that doesn't count yet."""

    path: Path
    weights_only: bool


class Trainer(PPOTrainerSync):  # type: ignore[misc]
    """verl's trainer, watched."""

    global_steps: int  # verl's: the step under way
    total_training_steps: int

    def __init__(self, config: Any, watch: Watch) -> None:
        self._watch = watch
        self._reporter = Reporter()
        self._dog = Watchdog(watch.guard)
        self._rows = {row.index: row for row in read_rows(watch.rows)}
        self._best_step, self._best_ndcg = -1, float("-inf")
        self._best_when_whole = -1  # the best step at the last checkpoint to go on from
        self._validation: dict[str, float] = {}
        self._validation_length = 0.0
        self._scores: dict[str, dict[str, Any]] = {}
        self._shown_answers: list[list[str]] = []
        self._saved: _Checkpoint | None = None
        self._replaced = 0
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
                raise TrainingError(self._reporter.failure() or "an answer failed and nobody said why")

        buffer._sync_metadata_from_transfer_queue = look_for_failures
        return buffer

    def on_step_begin(self) -> None:
        """Nothing was replaced yet."""
        super().on_step_begin()
        self._replaced = 0

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

    def _save_checkpoint(self) -> None:
        """Only at the steps that are due; it counts once the step's figures are logged.

        Where only a validation is due the weights are enough, a third of the whole: the step may be the best one.
        """
        step = self.global_steps
        if step % self._watch.save_every == 0 or step >= self.total_training_steps:
            self._save(weights_only=False)
        elif self.config.trainer.test_freq > 0 and step % self._watch.validate_every == 0:
            self._save(weights_only=True)

    def _save(self, *, weights_only: bool) -> None:
        place = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
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

    def _balance_batch(self, batch: Any, *rest: Any, **more: Any) -> Any:
        """By row and sample first, then as verl spreads it over ranks.

        verl takes answers in the order in which they were ready, so that which of them share a minibatch was chance.
        """
        found = tq.kv_batch_get(keys=list(batch.keys), partition_id=batch.partition_id, select_fields=["index"])
        samples = ([int(number) for number in key.split("_")[1:]] for key in batch.keys)
        places = list(zip(map(int, _column(found, "index")), samples, strict=True))
        batch.reorder(sorted(range(len(places)), key=places.__getitem__))
        return super()._balance_batch(batch, *rest, **more)

    def _compute_metrics(self, batch: Any, metrics: Any, timing_raw: Any, global_steps: int, epoch: int) -> None:
        """verl's figures of the step, then ours; then the guard; then the checkpoint counts."""
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        figures = self._step_figures(batch, metrics, timing_raw)
        reason = self._dog.step(figures)
        if self._validation:
            figures |= self._take_validation(global_steps)
            reason = reason or self._dog.validated(figures["val/ndcg@10"])
        number = self._log(global_steps, figures)
        if reason is not None and (self._saved is None or self._saved.weights_only):
            self.checkpoint_manager.sleep_replicas()  # verl saves while the rollout engines have let go of the GPU
            self._save(weights_only=False)
        if self._saved is not None:
            self._reporter.wait_for_driver(number)
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

    def _take_validation(self, step: int) -> dict[str, float]:
        figures, self._validation = self._validation, {}
        self._better(step, figures["val/ndcg@10"])
        return figures

    def _log(self, step: int, figures: Mapping[str, float]) -> int:
        number = self._reporter.put("log", (step, dict(figures)))
        if self._shown_answers:
            number = self._reporter.put("table", ("rollouts", ROLLOUT_COLUMNS, self._shown_answers, step))
            self._shown_answers = []
        return number

    def _step_figures(self, batch: Any, metrics: Mapping[str, Any], timing: Mapping[str, float]) -> dict[str, float]:
        """A step under our names, verl's own behind ``verl/``."""
        figures = {ours: float(metrics[theirs]) for theirs, ours in _CURVES.items() if theirs in metrics}
        figures |= {f"time/{ours}": float(timing[theirs]) for theirs, ours in _TIMES.items() if theirs in timing}
        answers = self._answers(batch)
        breakdowns = [breakdown_of(answer.scores) for answer in answers]
        figures |= {rollout_name(name): value for name, value in describe(breakdowns).items()}
        groups: dict[str, list[float]] = defaultdict(list)
        for answer, breakdown in zip(answers, breakdowns, strict=True):
            groups[answer.group].append(breakdown.total)
        spreads = [pstdev(rewards) for rewards in groups.values()]
        lengths = [len(answer.tokens) for answer in answers]
        limit = self.config.data.max_response_length
        figures["rollout/length"], figures["rollout/length_max"] = fmean(lengths), float(max(lengths))
        figures["rollout/cut_off"] = fmean(length >= limit for length in lengths)
        figures["rollout/reward_spread"] = fmean(spreads)
        figures["rollout/groups_without_spread"] = fmean(spread == 0 for spread in spreads)
        figures["rollout/prefill_shared"] = sum(a.cached for a in answers) / sum(a.prompt for a in answers)
        figures["rollout/reward_seconds"] = sum(answer.scores["seconds"] for answer in answers)
        figures["rollout/reward_share"] = figures["rollout/reward_seconds"] / figures["time/step"]
        figures["train/seconds"] = figures["time/step"]
        figures |= self._token_means(batch)
        if self.global_steps % self._watch.validate_every == 0 or self.global_steps >= self.total_training_steps:
            self._keep_some(answers)
        figures |= {f"verl/{name}": float(v) for name, v in metrics.items() if isinstance(v, (int, float))}
        return figures

    def _answers(self, batch: Any) -> list[_Answer]:
        """Every answer of the step."""
        tags = _real(batch)
        data = tq.kv_batch_get(
            keys=list(tags),
            partition_id=batch.partition_id,
            select_fields=["uid", "index", "responses", "extra_fields"],
        )
        extras = _column(data, "extra_fields")
        scores = [extra["reward_extra_info"] for extra in extras]
        self._scores = dict(zip(tags, scores, strict=True))
        uids, rows = map(str, _column(data, "uid")), map(int, _column(data, "index"))
        prompts = [tag["prompt_len"] for tag in tags.values()]
        cached = [extra.get("num_cached_tokens") or 0 for extra in extras]
        return list(map(_Answer, uids, rows, data["responses"].unbind(), scores, prompts, cached))

    def _token_means(self, batch: Any) -> dict[str, float]:
        """Entropy and KL, nats a token, of the policy that sampled; and where its two engines disagree.

        verl's own figures are weighed as its loss is (``loss_agg_mode``), which depends on the algorithm.
        """
        names = ["entropy", "old_log_probs", "rollout_log_probs"]
        names += ["ref_log_prob"] if self.use_reference_policy else []
        data = tq.kv_batch_get(keys=list(_real(batch)), partition_id=batch.partition_id, select_fields=names)
        flat = {name: torch.cat(list(data[name].unbind())) for name in names}
        ratio = (flat["old_log_probs"] - flat["rollout_log_probs"]).exp()
        figures = {
            "train/entropy": float(flat["entropy"].mean()),
            "train/rollout_gap_wide": float(((ratio - 1).abs() > WIDE).float().mean()),
        }
        if self.use_reference_policy:
            gap = flat["ref_log_prob"] - flat["old_log_probs"]
            figures["train/kl"] = float((gap.exp() - gap - 1).mean())  # unbiased, of low variance (Schulman's k3)
        return figures

    def _keep_some(self, answers: Sequence[_Answer]) -> None:
        """The first answer of the first few groups, to be read by a person."""
        first = {answer.group: answer for answer in reversed(answers)}
        chosen = sorted(first.values(), key=lambda one: one.row)[: self._watch.rollout_samples]
        self._shown_answers = [
            rollout_line(
                self._rows[answer.row],
                self.tokenizer.decode(answer.tokens, skip_special_tokens=True),
                breakdown_of(answer.scores),
            )
            for answer in chosen
        ]


def _real(batch: Any) -> dict[str, Mapping[str, Any]]:
    """Keys and tags of a batch's answers, without those that verl pads it with."""
    return {key: tag for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)}


def _save_only(worker: Any, contents: list[str]) -> None:
    """In a worker: what the policy's next checkpoints hold."""
    for role in worker.worker_dict.values():
        if (actor := getattr(role, "actor", None)) is not None:
            actor.engine.checkpoint_manager.checkpoint_save_contents = contents


def _column(data: Any, name: str) -> list[Any]:
    """A column of plain values, whichever of tensordict's containers it came in."""
    return [getattr(value, "data", value) for value in data[name]]


def breakdown_of(answer: Mapping[str, Any]) -> RewardBreakdown:
    """What ``compute_score`` returned, as the reward's own type."""
    names = (name for name in RewardBreakdown.__dataclass_fields__ if name not in ("total", "status"))
    values = {name: float(answer[name]) for name in names}
    return RewardBreakdown(total=float(answer["score"]), status=ParseStatus(answer["status"]), **values)
