"""What a step of verl's made: its answers, and figures of them under our names. Imported in the cluster only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
import transfer_queue as tq
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.utils.seqlen_balancing import log_seqlen_unbalance
from verl.utils.tensordict_utils import get_tensordict

from rearank.engines.chat import opening
from rearank.engines.tokens import decoded
from rearank.parsing import ParseStatus
from rearank.rewards import RewardBreakdown, RewardFunction, score_groups
from rearank.tracking.names import rollout_name
from rearank.training.base import describe, spreads_of
from rearank.training.rows import TrainingRow
from rearank.training.verl.reward import CountedText, scores_of
from rearank.training.verl.sharing.groups import over_ranks

WIDE = 0.1
"""How far from 1 the ratio of a token's two probabilities (trainer's, rollout engine's) is called wide."""

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
    "actor/tokens_computed": "perf/tokens_computed",
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
class SampledAnswer:
    """A sampled answer."""

    key: str
    """In verl's queue."""
    group: str
    row: int
    tokens: torch.Tensor
    extras: Mapping[str, Any]
    """verl's, with what the reward function returned."""
    prompt: int
    """Tokens of the prompt."""

    @property
    def scores(self) -> Mapping[str, Any]:
        """What the reward function returned."""
        scores: Mapping[str, Any] = self.extras["reward_extra_info"]
        return scores

    @property
    def breakdown(self) -> RewardBreakdown:
        """The same as the reward's own type."""
        return breakdown_of(self.scores)

    @property
    def cached(self) -> int:
        """Of the prompt's tokens, those that the rollout engine had read before."""
        return self.extras.get("num_cached_tokens") or 0


def breakdown_of(scores: Mapping[str, Any]) -> RewardBreakdown:
    """What ``compute_score`` returned, as the reward's own type."""
    names = (name for name in RewardBreakdown.__dataclass_fields__ if name not in ("total", "status"))
    values = {name: float(scores[name]) for name in names}
    return RewardBreakdown(total=float(scores["score"]), status=ParseStatus(scores["status"]), **values)


def column(data: Any, name: str) -> list[Any]:
    """A column of plain values, whichever of tensordict's containers it came in."""
    return [getattr(value, "data", value) for value in data[name]]


def answers_of(batch: Any) -> list[SampledAnswer]:
    """Every answer of the step, without those that verl pads it with."""
    tags = _real(batch)
    data = _get(batch, tags, "uid", "index", "responses", "extra_fields")
    uids, rows = map(str, column(data, "uid")), map(int, column(data, "index"))
    prompts = [tag["prompt_len"] for tag in tags.values()]
    return list(map(SampledAnswer, tags, uids, rows, data["responses"].unbind(), column(data, "extra_fields"), prompts))


def text_of(answer: SampledAnswer, tokenizer: Any) -> str:
    """What is read of an answer: the ``<think>`` that the chat template opened for it, and its own text."""
    return opening(tokenizer) + decoded(tokenizer, answer.tokens.tolist())


class ReadingManager(NaiveRewardManager):  # type: ignore[misc]
    """verl's manager of rules that score, over the text that is read everywhere else.

    verl decodes without special tokens, and with them go the marks of a reasoning that some models make of such tokens
    (Mistral's ``[THINK]``).
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **more: Any) -> None:
        super().__init__(config, _Decoder(tokenizer), compute_score, **more)


@dataclass(frozen=True)
class _Decoder:
    """Of a tokenizer, the one method that the manager calls."""

    tokenizer: Any

    def decode(self, tokens: torch.Tensor, skip_special_tokens: bool) -> str:
        """The text of an answer; ``skip_special_tokens`` is always true."""
        return CountedText.of(decoded(self.tokenizer, tokens.tolist()), len(tokens))


def score_together(batch: Any, reward: RewardFunction, rows: Mapping[int, TrainingRow], tokenizer: Any) -> None:
    """Score the answers of each group anew, all at once, in verl's queue: for a reward that looks at its group."""
    answers = answers_of(batch)
    texts = [text_of(answer, tokenizer) for answer in answers]
    judged = [rows[answer.row].judged for answer in answers]
    tokens = [len(answer.tokens) for answer in answers]
    found = score_groups(reward, list(zip(texts, judged, strict=True)), [answer.group for answer in answers], tokens)
    totals, extras = [], []
    for answer, breakdown in zip(answers, found, strict=True):
        total = torch.zeros(len(answer.tokens))
        total[-1] = breakdown.total
        totals.append(total)
        scores = {**scores_of(breakdown), "seconds": answer.scores["seconds"]}
        extras.append({**answer.extras, "reward_extra_info": scores})
    fields = {"rm_scores": torch.nested.as_nested_tensor(totals, layout=torch.jagged), "extra_fields": extras}
    keys = [answer.key for answer in answers]
    tq.kv_batch_put(keys=keys, partition_id=batch.partition_id, fields=get_tensordict(fields))


def keep_groups(batch: Any, keys: Sequence[str], metrics: dict[str, Any], *, ranks: int, update: int) -> None:
    """Reorder verl's batch so that a group's answers are on one rank; verl's figures of the balance follow.

    ``keys``: of the answers in verl's queue, group by group; ``ranks`` and ``update`` as in ``over_ranks``.
    """
    now = {key: index for index, key in enumerate(batch.keys)}
    tags = [batch.tags[now[key]] for key in keys]
    prompts = [tag["prompt_len"] for tag in tags]
    answers = [tag["seq_len"] - tag["prompt_len"] for tag in tags]
    order = over_ranks([key.split("_")[0] for key in keys], prompts, answers, ranks, update)
    batch.reorder([now[keys[index]] for index in order])
    lengths, each = [tag["seq_len"] for tag in batch.tags], len(keys) // ranks
    parts = [list(range(begin, begin + each)) for begin in range(0, len(keys), each)]
    metrics |= log_seqlen_unbalance(lengths, parts, "global_seqlen")


def figures_of(
    answers: Sequence[SampledAnswer], metrics: Mapping[str, Any], timing: Mapping[str, float], limit: int
) -> dict[str, float]:
    """verl's figures of a step under our names, its own behind ``verl/``, and ours of the answers.

    ``limit``: tokens that an answer may have.
    """
    figures = {ours: float(metrics[theirs]) for theirs, ours in _CURVES.items() if theirs in metrics}
    figures |= {f"time/{ours}": float(timing[theirs]) for theirs, ours in _TIMES.items() if theirs in timing}
    if {"perf/mfu", "perf/tokens_computed"} <= figures.keys():
        figures["perf/mfu"] *= figures["perf/tokens_computed"]  # verl counts a prompt for each answer
    breakdowns = [answer.breakdown for answer in answers]
    figures |= {rollout_name(name): value for name, value in describe(breakdowns).items()}
    figures |= spreads_of([one.total for one in breakdowns], [answer.group for answer in answers])
    lengths = [len(answer.tokens) for answer in answers]
    seconds = sum(answer.scores["seconds"] for answer in answers)
    return figures | {
        "rollout/length": fmean(lengths),
        "rollout/length_max": float(max(lengths)),
        "rollout/cut_off": fmean(length >= limit for length in lengths),
        "rollout/prefill_shared": sum(a.cached for a in answers) / sum(a.prompt for a in answers),
        "rollout/reward_seconds": seconds,
        "rollout/reward_share": seconds / figures["time/step"],
        "train/seconds": figures["time/step"],
        **{f"verl/{name}": float(v) for name, v in metrics.items() if isinstance(v, (int, float))},
    }


def token_means(batch: Any, *, reference: bool) -> dict[str, float]:
    """Entropy and, with a ``reference``, KL, nats a token, of the policy that sampled; and where its engines disagree.

    verl's own figures are weighed as its loss is (``loss_agg_mode``), which depends on the algorithm.
    """
    names = ["entropy", "old_log_probs", "rollout_log_probs", *(["ref_log_prob"] if reference else [])]
    data = _get(batch, _real(batch), *names)
    flat = {name: torch.cat(list(data[name].unbind())) for name in names}
    ratio = (flat["old_log_probs"] - flat["rollout_log_probs"]).exp()
    figures = {
        "train/entropy": float(flat["entropy"].mean()),
        "train/rollout_gap_wide": float(((ratio - 1).abs() > WIDE).float().mean()),
    }
    if reference:
        gap = flat["ref_log_prob"] - flat["old_log_probs"]
        figures["train/kl"] = float((gap.exp() - gap - 1).mean())  # unbiased, of low variance (Schulman's k3)
    return figures


def _real(batch: Any) -> dict[str, Mapping[str, Any]]:
    """Keys and tags of a batch's answers, without those that verl pads it with."""
    return {key: tag for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)}


def _get(batch: Any, keys: Iterable[str], *fields: str) -> Any:
    return tq.kv_batch_get(keys=list(keys), partition_id=batch.partition_id, select_fields=list(fields))
