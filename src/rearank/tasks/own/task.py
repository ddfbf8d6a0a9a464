"""``task=own``: the pipeline over one's own collection, then the gate, the model's card and the line that serves it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rearank.experiment import Run
from rearank.runs.layout import GATE, write_json
from rearank.runs.reader import TUNED, read_systems
from rearank.tasks.export.task import Command, export_run
from rearank.tasks.own.gate import Verdict, judge
from rearank.tasks.pipeline import PipelineTask
from rearank.training.traces import file_of


@dataclass(frozen=True)
class OwnTask(PipelineTask):
    """As the pipeline, by default with a cold start; what comes of it goes out through the gate."""

    method: Literal["rl", "sft", "sft_then_rl"] = "sft_then_rl"

    def run(self, run: Run) -> None:
        """Into ``<output_dir>``; ``gate.json`` has the verdict, ``export/`` the model that passed."""
        run = settled(run)
        super().run(run)
        verdict = self.verdict(run)
        write_json(run.folder / GATE, verdict.as_json())
        print(f"\n{verdict.shown()}", flush=True)
        wanted = run.experiment.own.export
        if wanted == "always" or (wanted == "gate" and verdict.passed):
            command = Command(run.choices.get("algorithm", ""), run.config.get("strategy"), rerun=run.experiment.rerun)
            print(export_run(run.folder, run.experiment.export, command, run.cache), flush=True)
            print("its README.md has the lines that serve it and use it", flush=True)
        elif wanted == "gate":
            print("nothing is exported; own.export=always exports it all the same", flush=True)

    def verdict(self, run: Run) -> Verdict:
        """Of what was measured in the run's folder."""
        own = run.experiment.own
        model = TUNED if self.method == "sft" else run.choices.get("algorithm", "trained")
        against = ("base", TUNED) if self.method == "sft_then_rl" else ("base",)
        systems = read_systems(run.folder)
        return judge(
            systems, model, against, alpha=own.alpha, seed=run.experiment.seed, taught=own.judged_by is not None
        )


def settled(run: Run) -> Run:
    """With a teacher's answers as what the cold start learns, where ``own.teacher`` names them."""
    if run.experiment.own.teacher is None:
        return run
    changes: dict[str, Any] = {"targets": "teacher", "traces": str(file_of(Path(run.experiment.own.teacher)))}
    experiment = replace(run.experiment, sft=replace(run.experiment.sft, **changes))
    return replace(run, experiment=experiment, config={**run.config, "sft": {**run.config["sft"], **changes}})
