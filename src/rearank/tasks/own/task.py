"""``task=own``: the pipeline over one's own collection, then the gate, the model's card and the line that serves it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from rearank.data.overlap import families
from rearank.experiment import Run
from rearank.runs.layout import EXPORTED, GATE, write_json
from rearank.runs.reader import FIRST, TUNED
from rearank.tasks.evaluate.measuring import first_stage_name
from rearank.tasks.export.origin import find_measured, find_origin
from rearank.tasks.export.task import Command, export_run
from rearank.tasks.own.gate import GateError, judge
from rearank.tasks.pipeline import PipelineTask


@dataclass(frozen=True)
class OwnTask(PipelineTask):
    """As the pipeline, by default with a cold start; what comes of it goes out through the gate."""

    method: Literal["rl", "sft", "sft_then_rl"] = "sft_then_rl"

    def run(self, run: Run) -> None:
        """Into ``<output_dir>``; ``gate.json`` has the verdict, ``export/`` the model that passed."""
        super().run(run)
        chosen, own = run.experiment, run.experiment.own
        which: Literal["best", "sft"] = "sft" if self.method == "sft" else "best"
        benchmark = chosen.benchmark.benchmarks[0]
        measured, left_out = find_measured(find_origin(run.folder, which, run.cache), run.cache)
        here = next((one for one in measured if one.own.benchmark == benchmark.name), None)
        if here is None:
            raise GateError(f"{benchmark.name}: these weights weren't measured; {'; '.join(left_out) or 'run again'}")
        verdict = judge(
            [one for one in here.rows if one.role != FIRST or one.name == first_stage_name(benchmark)],
            here.own.name,
            ("base", TUNED) if self.method == "sft_then_rl" else ("base",),
            alpha=own.alpha,
            seed=chosen.seed,
            taught=own.judged_by is not None,
            first_of=families({query: topic.text for query, topic in benchmark.collection.queries().items()}),
        )
        write_json(run.folder / GATE, verdict.as_json())
        print(f"\n{verdict.shown()}", flush=True)
        wanted = own.export
        if wanted == "always" or (wanted == "gate" and verdict.passed):
            command = Command(run.choices.get("algorithm", ""), run.config.get("strategy"), rerun=chosen.rerun)
            print(export_run(run.folder, replace(chosen.export, which=which), command, run.cache), flush=True)
            print("its README.md has the lines that serve it and use it", flush=True)
        elif wanted == "gate":
            older = (
                f"; what lies in {run.folder / EXPORTED} is an earlier model"
                if (run.folder / EXPORTED).exists()
                else ""
            )
            print(f"nothing is exported{older}; own.export=always exports it all the same", flush=True)
