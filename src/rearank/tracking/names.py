"""Every name under which a figure is logged, with its meaning and unit: the same from both trainers.

``train/`` what the optimiser is given and does · ``rollout/`` the answers it samples · ``val/`` greedy answers to the
held-out windows, or to those that whole lists take (``trainer.validate_on``) · ``test/`` benchmarks · ``data/`` the
rows · ``sweep/`` a sweep's arms · ``time/``, ``perf/`` and ``verl/`` mostly the cluster's own. ``step`` counts batches
of rollouts. Stable: a name that changes is read under its new one (``RENAMED``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from rearank.parsing import ParseStatus

By = Literal["both", "trl", "verl"]
"""Which trainer logs a figure."""


@dataclass(frozen=True, slots=True)
class Name:
    """A figure. ``name`` may hold parts in angle brackets, which stand for anything: ``test/<benchmark>/<system>``.

    ``always``: at every step (validation, evaluation) of a GRPO run; others depend on the settings or are of other
    tasks, and ``meaning`` says which. A trainer's name: at every step of that one, which the other logs by settings.
    """

    name: str
    unit: str
    meaning: str
    by: By = "both"
    always: bool | Literal["trl", "verl"] = True

    def matches(self, logged: str) -> bool:
        """Whether ``logged`` is this figure."""
        parts = re.split(r"(<[^>]+>)", self.name)
        pattern = "".join(".+" if part.startswith("<") else re.escape(part) for part in parts)
        return re.fullmatch(pattern, logged) is not None


def rollout_name(figure: str) -> str:
    """Where a figure of sampled answers (``rearank.training.base.describe``) is logged while training."""
    return f"train/{figure}" if figure.startswith("reward/") else f"rollout/{figure}"


_REWARD = {
    "reward/total": "the reward: what the optimiser maximises, mean over answers",
    "reward/rank": "its ranking term alone",
    "reward/format_tags": "its term for tags",
    "reward/format_list": "its term for a list that can be read",
}
_QUALITY = {
    "ndcg@10": "nDCG@10 of the windows in the answers' order",
    "ndcg@10_given": "nDCG@10 of the same windows as they were given",
}
_STATUS = {
    ParseStatus.EMPTY: "are empty",
    ParseStatus.UNCLOSED_THINK: "never end their reasoning",
    ParseStatus.NO_ANSWER_TAG: "have no answer tag",
    ParseStatus.OUT_OF_RANGE: "name a passage that isn't there",
    ParseStatus.DUPLICATES: "name a passage twice",
    ParseStatus.PARTIAL: "leave passages out",
    ParseStatus.OK: "name every passage once",
}


def _described(where: str) -> Iterator[Name]:
    """What ``describe`` gives, under ``rollout`` or ``val``."""
    for figure, meaning in (*_REWARD.items(), *_QUALITY.items()):
        unit = "0 to 1" if figure.startswith("ndcg") else "reward"
        if where == "val" and figure in _QUALITY:
            meaning += "; trainer.validate_on=lists: of whole lists, ranked and as retrieved"
        yield Name(rollout_name(figure) if where == "rollout" else f"val/{figure}", unit, meaning)
    for status, meaning in _STATUS.items():
        yield Name(f"{where}/parse/{status.value}", "share", f"answers that {meaning}")


NAMES: tuple[Name, ...] = (
    *_described("rollout"),
    Name("train/reward/length", "reward", "what reward.length takes off, mean; where it takes any", always=False),
    Name("rollout/length", "tokens", "an answer, mean, its end token included"),
    Name("rollout/length_max", "tokens", "the longest answer"),
    Name("rollout/cut_off", "share", "answers that reach the token limit"),
    Name("rollout/reward_spread", "reward", "standard deviation of the rewards within a group, mean over groups"),
    Name("rollout/groups_without_spread", "share", "groups whose answers all earn the same, which teach nothing"),
    Name("rollout/reward_seconds", "s", "computing the rewards of a step, all processes together"),
    Name("rollout/reward_share", "share", "of the step's time, as if one process computed them", "verl"),
    Name("rollout/prompt_length", "tokens", "a prompt, mean", "verl"),
    Name("rollout/prefill_shared", "share", "prompt tokens that the rollout engine had read before", "verl"),
    Name("rollout/groups_replaced", "answers", "thrown away by dynamic sampling", "verl", always=False),
    Name("train/loss", "", "the policy's loss (task=sft: cross-entropy, nats a token)"),
    Name("train/grad_norm", "", "norm of the gradient before clipping"),
    Name("train/learning_rate", "", "of this step"),
    Name("train/entropy", "nats a token", "of the policy on its own answers"),
    Name("train/clip_ratio", "share", "tokens whose probability ratio is clipped"),
    Name("train/kl", "nats a token", "from the policy to the model it started from; algorithm.kl > 0", always=False),
    Name("train/seconds", "s", "the step"),
    Name("train/value_loss", "", "the critic's loss; algorithm=ppo", "verl", always=False),
    Name("train/token_accuracy", "share", "answer tokens that are the likeliest; task=sft", "trl", always=False),
    # From trainer=verl always, from trainer=trl with trainer.rollout=vllm and algorithm.correction.
    Name("train/rollout_gap_max", "probability", "largest gap between vLLM's and the trainer's token", always="verl"),
    Name("train/rollout_gap_mean", "probability", "mean gap between vLLM's and the trainer's token", always="verl"),
    Name("train/rollout_gap_wide", "share", "tokens whose probabilities differ by more than a tenth", always="verl"),
    Name("train/corrected", "share", "tokens (or answers) cut at algorithm.correction_cap", always=False),
    Name("train/correction_weight", "", "mean weight of a token; algorithm.correction", always=False),
    *_described("val"),
    Name("val/reward/length", "reward", "what reward.length takes off, mean; where it takes any", always=False),
    Name("val/length", "tokens", "an answer, mean, its end token included"),
    Name("val/loss", "nats a token", "cross-entropy of the ideal answers; task=sft", "verl", always=False),
    Name("test/<benchmark>/<system>", "0 to 1", "the benchmark's main measure; base: the model before training"),
    Name("test/<benchmark>/<system>/<measure>", "0 to 1", "its further measures, by trec_eval's name", always=False),
    Name("data/training_queries", "queries", "that windows are drawn of"),
    Name("data/validation_queries", "queries", "held out"),
    Name("data/training_windows", "windows", "to train on"),
    Name("data/validation_windows", "windows", "to validate on"),
    Name("data/queries_dropped_as_measured", "queries", "left out as a benchmark has them, too", always=False),
    Name("data/dropped/<reason>", "windows", "left out by the filter", always=False),
    Name("sweep/<benchmark>/<arm>", "0 to 1", "the main measure, mean over seeds and queries"),
    Name("time/<part>", "s", "of a step: rollouts, old_log_prob, update, weight_sync, validation, step...", "verl"),
    Name("perf/memory_gib", "GiB", "the most that PyTorch held on a GPU so far", always=False),
    Name("perf/tokens_per_second_per_gpu", "tokens/s", "of the whole step, prompts included", "verl", always=False),
    Name("perf/mfu", "", "model FLOPs utilisation of the update", "verl", always=False),
    Name(
        "perf/tokens_computed", "share", "an update's tokens, with prompts shared, of all rows'", "verl", always=False
    ),
    Name("verl/<name>", "", "verl's own figures under its own names: those of its version, not stable", "verl"),
)
RENAMED = {f"rollout/{figure}": f"train/{figure}" for figure in _REWARD}
"""Names of earlier versions, whose files are read and continued all the same."""

TABLES = {
    "rollouts": "some sampled answers at each validation: prompt, reasoning, answer, reward by component",
    "queries": "every query of a benchmark before and after: measure, change, calls",
    "traces": "some evaluated windows: what was asked, what was answered, how it was read, tokens, seconds",
    "ablation": "a sweep's table: arms, seeds, means, spread, intervals, tests",
}
"""Tables that are logged, in W&B under these names and in JSONL files that end in them."""


def undocumented(names: Iterable[str]) -> list[str]:
    """Those that the table lacks."""
    return [name for name in names if not any(known.matches(name) for known in NAMES)]


def expected(by: Literal["trl", "verl"], groups: Iterable[str] = ("train/", "rollout/", "val/")) -> set[str]:
    """Names that a GRPO run of this trainer always logs, of these groups."""
    starts = tuple(groups)
    return {
        one.name for one in NAMES if one.always in (True, by) and one.by in ("both", by) and one.name.startswith(starts)
    }


def as_markdown() -> str:
    """The table for readers."""
    lines = ["| name | unit | meaning | logged by |", "| --- | --- | --- | --- |"]
    lines += [f"| `{one.name}` | {one.unit} | {one.meaning} | {one.by} |" for one in NAMES]
    return "\n".join(lines)
