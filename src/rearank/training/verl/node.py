"""The node behind ``trainer=verl``: its settings and, on top of them, what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rearank.algorithms import PolicyGradient
from rearank.engines.model import Model
from rearank.training.base import TrainingError, TrainingForecast, TrainingJob, TrainingResult
from rearank.training.lengths import prompt_lengths
from rearank.training.local import load_tokenizer
from rearank.training.rows import TrainingRow
from rearank.training.sft import Sft
from rearank.training.verl import launch, preflight
from rearank.training.verl.machine import problems
from rearank.training.verl.settings import VerlSettings


@dataclass(frozen=True)
class VerlTrainer(VerlSettings):
    """verl on a Ray cluster, with vLLM rollouts on the same GPUs; its fields are those of ``Settings``."""

    def preflight(self) -> list[str]:
        """What this machine lacks: packages, a driver, GPUs and more; see ``machine``."""
        return [*self.cluster.preflight(), *problems(self)]

    def examine(self, algorithm: PolicyGradient, model: Model, folder: Path) -> TrainingForecast:
        """What training ``model`` into ``folder`` would fail at, and what it will take; see ``preflight``."""
        return preflight.examine(self, algorithm, self.lengths(model.max_tokens), model.sizes, folder)

    def measure(self, report: TrainingForecast, model: Model, rows: Mapping[str, Sequence[TrainingRow]]) -> None:
        """Add to ``report`` what the rows' prompts say, measured with the model's own tokenizer."""
        try:
            tokenizer = load_tokenizer(model.location, model.revision)
            measured = {what: prompt_lengths(tokenizer, some, what) for what, some in rows.items() if some}
        except TrainingError as error:
            report.problems.append(str(error))
            return
        for what, found in measured.items():
            preflight.examine_lengths(report, found, what, self.lengths(model.max_tokens))

    def train(self, job: TrainingJob, algorithm: PolicyGradient) -> TrainingResult:
        """By reinforcement; raises ``TrainingError`` with the root cause, wherever in the cluster it was."""
        return launch.train(self, job, algorithm)

    def fine_tune(self, job: TrainingJob, sft: Sft, *, tags: bool = True) -> TrainingResult:
        """As ``train``, on the rows' ideal answers."""
        return launch.fine_tune(self, job, sft, tags=tags)
