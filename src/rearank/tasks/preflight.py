"""What this machine lacks for a run, all of it at once, before anything heavy starts or anything is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from rearank.tasks.experiment import Run
from rearank.training.base import TrainingError

QUICKSTART = "python run.py experiment=quickstart"


class PreflightError(RuntimeError):
    """The run can't start here; the message lists every reason with its remedy."""


@dataclass(frozen=True)
class PreflightTask:
    """Say whether the pipeline could start here, and start nothing."""

    needs: ClassVar[tuple[str, ...]] = ("dataset", "model", "trainer", "tracking", "benchmark", "engine")

    def run(self, run: Run) -> None:
        """Reached only where nothing is missing."""
        print("preflight: nothing is missing")


@runtime_checkable
class ChecksAlgorithm(Protocol):
    """A trainer that knows which algorithm settings it can't run."""

    def check(self, algorithm: Any) -> None: ...


def preflight(run: Run) -> None:
    """Raises ``PreflightError`` where something that the task needs is missing."""
    experiment, found = run.experiment, []
    for need in experiment.task.needs:
        if need == "model":
            found += experiment.model.preflight(run.choices.get("prompt"))
        elif hasattr(node := getattr(experiment, need), "preflight"):
            found += node.preflight()
    if "trainer" in experiment.task.needs and isinstance(experiment.trainer, ChecksAlgorithm):
        try:
            experiment.trainer.check(experiment.algorithm)
        except TrainingError as error:
            found.append(str(error))
    if found:
        lines = "\n".join(f"  - {line}" for line in dict.fromkeys(found))
        elsewhere = run.choices.get("experiment") != "quickstart"
        hint = f"\nTo see the whole pipeline here, without a GPU or a download: {QUICKSTART}" if elsewhere else ""
        raise PreflightError(f"this run can't start on this machine:\n{lines}{hint}")
