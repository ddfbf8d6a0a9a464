"""``task=pipeline``: prepare, train, evaluate, report; each step picks up what it finds done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rearank.tasks.evaluate import evaluate
from rearank.tasks.experiment import Run
from rearank.tasks.report import report_at_end
from rearank.tasks.tracked_results import track_report
from rearank.tasks.train import sft, train


@dataclass(frozen=True)
class PipelineTask:
    """The main job: from judged candidates to a trained, measured reranker.

    Args:
        method: ``rl``; ``sft`` on the ideal orders instead; or ``sft_then_rl``, which starts from that checkpoint.
    """

    method: Literal["rl", "sft", "sft_then_rl"] = "rl"
    needs: ClassVar[tuple[str, ...]] = ("dataset", "model", "trainer", "algorithm", "tracking", "benchmark", "engine")

    def __post_init__(self) -> None:
        if self.method not in ("rl", "sft", "sft_then_rl"):
            raise ValueError(f"task.method must be rl, sft or sft_then_rl, not {self.method!r}")

    def run(self, run: Run) -> None:
        """Rows, training, evaluation, report."""
        if self.method != "rl":
            sft(run)
        if self.method != "sft":
            train(run)
        evaluate(run)
        report_at_end(run)
        track_report(run)
        print(f"everything is in {run.folder}; the curves: {run.folder / 'training' / 'figures'}", flush=True)
