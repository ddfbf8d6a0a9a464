"""``task=pipeline``: prepare, train, evaluate, report; each step picks up what it finds done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rearank.tasks.evaluate import evaluate
from rearank.tasks.experiment import Run
from rearank.tasks.report import report_at_end
from rearank.tasks.tracked_results import track_report
from rearank.tasks.train import train


@dataclass(frozen=True)
class PipelineTask:
    """The main job: from judged candidates to a trained, measured reranker."""

    needs: ClassVar[tuple[str, ...]] = ("dataset", "model", "trainer", "algorithm", "tracking", "benchmark", "engine")

    def run(self, run: Run) -> None:
        """Rows, training, evaluation, report."""
        train(run)
        evaluate(run)
        report_at_end(run)
        track_report(run)
        print(f"everything is in {run.folder}; the curves: {run.folder / 'training' / 'figures'}", flush=True)
