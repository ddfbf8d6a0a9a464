"""What this machine lacks for a run, all of it at once, before anything heavy starts or anything is downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rearank.choices import as_trained
from rearank.data import DataError, HoldsRows
from rearank.data.irds import Irds
from rearank.data.opening import opened
from rearank.engines import CompletionStore, NoEngine, OpenAINode, ScriptedNode
from rearank.engines.base import SplitsModels
from rearank.engines.store import StoreError
from rearank.engines.template import example, own_template, refusal
from rearank.experiment import Run
from rearank.ranking import misfits
from rearank.reranker.setup import Parts
from rearank.runs.environment import program
from rearank.runs.layout import STORE, SUMMARY, misplaced
from rearank.sections import STANDARD
from rearank.tasks.answers_to_learn import lacking_answers, lettered
from rearank.tasks.distill import DistillTask
from rearank.tasks.overlap import OverlapError, measured_queries, refuse_overlap
from rearank.tasks.pipeline import PrepareTask, SftTask, rows_stage, teachers_file, validates_on_lists
from rearank.tasks.prepare import Rows
from rearank.tasks.rerank import RerankTask
from rearank.tasks.rerank.looking import problems_of
from rearank.tasks.rerank_cost import cost_lines
from rearank.training.base import ChecksAlgorithm, Examines, TrainingError
from rearank.training.rows import RowError, TrainingRow


class PreflightError(RuntimeError):
    """The run can't start here; the message lists every reason with its remedy."""


@dataclass(frozen=True)
class PreflightTask:
    """Say whether the pipeline could start here and what it would take, and start nothing.

    Where the rows are prepared their prompts are measured with the model's tokenizer, too.
    """

    needs: ClassVar[tuple[str, ...]] = ("dataset", "model", "trainer", "algorithm", "tracking", "benchmark", "engine")

    def run(self, run: Run) -> None:
        """Reached only where nothing is missing."""
        print("preflight: nothing is missing")


def preflight(run: Run) -> None:
    """Raises ``PreflightError`` where something that the task needs is missing."""
    experiment, found = run.experiment, []
    notes: list[str] = []
    needs = _needs(run)
    for need in (*needs, "validation") if "dataset" in needs else needs:
        if need == "model":
            found += experiment.model.preflight(
                as_trained(run.choices.get("prompt"), experiment.model.prompt),
                *(run.choices.get(group) for group in ("strategy", "engine")),
                served=isinstance(experiment.engine, OpenAINode),
                trained="trainer" in needs,
            )
        elif hasattr(node := getattr(experiment, need), "preflight") and not (need == "engine" and _elsewhere(run)):
            found += node.preflight()
    found += _in_the_folder(run)
    problems, warnings = _opened(run)
    found += problems
    if "engine" in needs and isinstance(experiment.engine, OpenAINode) and not experiment.engine.preflight():
        problems, doubts = experiment.engine.examine_server(experiment.model.path)
        found += problems
        warnings += doubts
    found += _measured(run)
    found += _misfits(run)
    found += _prefill_misfits(run)
    found += _refused_by_template(run)
    found += _wording_misfits(run)
    found += _splits(run)
    found += _answers_to_learn(run)
    found += _lists_to_validate(run)
    if "algorithm" in needs:
        problems, costly, notes = _examine_training(run)
        found += problems
        warnings += costly
    if "rerank" in needs:
        problems, notes = _rerank(run, found)
        found += problems
    print("".join(f"preflight: WARNING: {warning}\n" for warning in warnings), end="", flush=True)
    if isinstance(experiment.task, PreflightTask):
        print("\n".join(f"preflight: {note}" for note in notes), flush=True)
    if found:
        lines = "\n".join(f"  - {line}" for line in dict.fromkeys(found))
        elsewhere = run.choices.get("experiment") != "quickstart"
        hint = (
            f"\nTo see the whole pipeline here, without a GPU or a download: {program()} experiment=quickstart"
            if elsewhere
            else ""
        )
        raise PreflightError(f"this run can't start on this machine:\n{lines}{hint}")


def _needs(run: Run) -> tuple[str, ...]:
    """The nodes that are used; ``task=preflight`` is for what the command would rerank, where it says that."""
    given = run.experiment.rerank
    reranks = isinstance(run.experiment.task, PreflightTask) and (given.input or given.output) is not None
    return RerankTask.needs if reranks else run.experiment.task.needs


def _asks(run: Run) -> bool:
    """Whether answers are asked for, and kept in the run's folder."""
    needs = _needs(run)
    distills = isinstance(run.experiment.task, DistillTask)
    return "engine" in needs and (distills or "benchmark" in needs or "rerank" in needs)


def _elsewhere(run: Run) -> bool:
    """Whether other machines have the engine: each of them says what it lacks."""
    chosen = run.experiment
    joined = chosen.cluster.address is not None and chosen.rerank.runner == "ray"
    return joined and isinstance(chosen.task, RerankTask | PreflightTask) and chosen.rerank.output is not None


def _rerank(run: Run, found: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands in the way of reranking lists, and how much there is to do."""
    chosen, settings = run.experiment, run.experiment.rerank
    if isinstance(chosen.task, PreflightTask) and settings.output is None:
        settings = replace(settings, output=STANDARD)  # a cost is of any output
    if run.sweep is not None:  # whose jobs are known by what they measure or train, not by their input and output
        return ["task=rerank is no job of a sweep; leave out -m, and give a command for each output"], []
    problems = problems_of(settings, chosen.benchmark, chosen.engine, chosen.cluster)
    if problems or found or not isinstance(chosen.task, PreflightTask):
        return problems, []
    return [], cost_lines(
        settings, chosen.benchmark, Parts(chosen.model, chosen.prompt, chosen.strategy, chosen.engine)
    )


def _in_the_folder(run: Run) -> list[str]:
    """What the run's folder holds that the run would meet at its end only."""
    found, store = misplaced(run.folder), run.folder / STORE
    if _asks(run) and store.is_file():
        try:
            CompletionStore(store).close()
        except StoreError as error:
            found.append(str(error))
    return found


def _opened(run: Run) -> tuple[list[str], list[str]]:
    """What keeps data from being read, and what keeps one benchmark of several, which is then left out."""
    problems: list[str] = []
    warnings: list[str] = []
    for key in ("dataset", "validation", "benchmark"):
        wanted = key if key != "validation" else "dataset"
        node = getattr(run.experiment, key)
        if wanted not in _needs(run) or node is None:
            continue
        lines = [opened(f"{key}={one.name}", one.collection, one.retriever) for one in _leaves(node)]
        left_out = key == "benchmark" and not all(lines)
        (warnings if left_out else problems).extend(line for found in lines for line in found)
    return problems, warnings


def _measured(run: Run) -> list[str]:
    """Training queries that the benchmarks have, too: found before rows are made of them."""
    experiment, needs = run.experiment, _needs(run)
    if experiment.prepare.overlap != "error" or not {"dataset", "benchmark"} <= set(needs):
        return []
    local = [one for one in _leaves(experiment.dataset) if not isinstance(one.collection, Irds)]
    benchmarks = [one for one in _leaves(experiment.benchmark) if not isinstance(one.collection, Irds)]
    try:
        training = [query for queries in measured_queries(local).values() for query in queries]
        refuse_overlap(training, measured_queries(benchmarks), "error")
    except OverlapError as error:
        return [str(error)]
    except DataError:  # which is reported where the data is opened
        return []
    return []


def _leaves(node: Any) -> Iterator[Any]:
    """The sources or benchmarks that a node is or is made of; a dataset that holds rows has none."""
    for member in getattr(node, "members", {}).values():
        yield from _leaves(member)
    if hasattr(node, "collection"):
        yield node


def _misfits(run: Run) -> list[str]:
    """A prompt that asks for something else than the strategy reads, or the rewards grade."""
    experiment, needs = run.experiment, _needs(run)
    asks, found = experiment.prompt.asks, []
    # Fine-tuning learns orders, whatever the reward; rows that hold their own prompts don't show this one.
    graded = experiment.reward.asks if "algorithm" in needs else "ranking"
    if "trainer" in needs and asks != graded and not isinstance(experiment.dataset, HoldsRows):
        what = {"ranking": "the order of all passages", "best": "the best passage alone"}.get(graded, graded)
        found.append(
            f"training grades {what} and the prompt asks for something else (asks: {asks}); choose a prompt with asks: "
            f"{graded}, another reward, or task=evaluate"
        )
    if "algorithm" in needs:
        found += experiment.algorithm.misfits(experiment.reward)
    if isinstance(experiment.task, DistillTask):
        shown = not isinstance(experiment.dataset, HoldsRows)  # rows that hold their own prompts don't show this one
        if (shown and asks != "ranking") or lettered(experiment.dataset, experiment.prompt):
            found.append(
                "task=distill takes orders of numbered passages; choose a prompt with asks: ranking and labels: numbers"
            )
    elif _asks(run) and not isinstance(experiment.engine, NoEngine):
        found += misfits(experiment.strategy, asks, experiment.model.temperature)
    return found


def _prefill_misfits(run: Run) -> list[str]:
    """An answer that the prompt begins, where nobody would go on from there."""
    experiment, prefill = run.experiment, getattr(run.experiment.prompt, "prefill", "")
    if not prefill:
        return []
    found = []
    if "trainer" in _needs(run) or isinstance(experiment.task, PrepareTask):
        found.append(
            f"training grades answers that the model writes from their start, and prompt.prefill={prefill!r} begins "
            "them; choose a prompt without prefill (prompt=compact, say) to train with, and this one for task=evaluate"
        )
    if "engine" in _needs(run) and isinstance(experiment.engine, OpenAINode):
        found += experiment.engine.prefill_misfits(prefill)
    return found


def _refused_by_template(run: Run) -> list[str]:
    """A prompt that the model's own chat template can't render, where the model lies in a folder here."""
    experiment, needs = run.experiment, _needs(run)
    asked = "engine" in needs and not isinstance(experiment.engine, NoEngine | ScriptedNode | OpenAINode)
    folder = Path(experiment.model.location)
    if "model" not in needs or not (asked or "trainer" in needs) or not folder.is_dir():
        return []
    if (render := own_template(folder)) is None:
        return []
    prompt: Any = experiment.prompt
    if getattr(prompt, "max_tokens", None) is not None:  # a cut changes no turns, and there is no tokenizer yet
        prompt = replace(prompt, max_tokens=None)
    why = refusal(render, example(prompt))
    return [f"model.path={experiment.model.path}: {why}"] if why is not None else []


def _wording_misfits(run: Run) -> list[str]:
    """Rows that show one prompt, together with windows that are to be shown another one."""
    experiment, needs = run.experiment, _needs(run)
    if "trainer" not in needs and not isinstance(experiment.task, PrepareTask):
        return []
    sources = {"dataset": experiment.dataset, "dataset@validation": experiment.validation}
    rendered = [key for key, node in sources.items() if node is not None and not isinstance(node, HoldsRows)]
    rendered += ["benchmark"] if "benchmark" in needs else []
    if (chosen := run.choices.get("prompt")) is None:
        return []
    return [
        f"{key}={node.name} shows its own prompts, worded as prompt={node.prompt}, and {' and '.join(rendered)} would "
        f"show prompt={chosen}: set prompt={node.prompt}, or {key.removeprefix('dataset@')}.prompt=null to mix them"
        for key, node in sources.items()
        if isinstance(node, HoldsRows) and node.prompt and rendered and as_trained(chosen, node.prompt) != node.prompt
    ]


def _splits(run: Run) -> list[str]:
    """Where the engine is to spread the model over GPUs in a way that its heads or layers don't allow."""
    engine, model = run.experiment.engine, run.experiment.model
    if "engine" not in _needs(run) or not isinstance(engine, SplitsModels):
        return []
    try:
        sizes = model.sizes
    except ValueError:  # a kind whose sizes can't be read; vLLM has the last word
        return []
    return engine.misfits(sizes) if sizes is not None else []


def _answers_to_learn(run: Run) -> list[str]:
    """Fine-tuning on answers that nobody gives."""
    chosen = run.experiment
    if not isinstance(chosen.task, SftTask) and getattr(chosen.task, "method", "rl") == "rl":
        return []
    return lacking_answers(chosen.sft, chosen.dataset, chosen.prompt, teachers_file(run))


def _lists_to_validate(run: Run) -> list[str]:
    """Validation on whole lists that the dataset or the strategy can't give."""
    chosen = run.experiment
    if "trainer" not in _needs(run) or not validates_on_lists(run):
        return []
    found = [f"trainer.validate_on=lists: {line}" for line in misfits(chosen.strategy, chosen.prompt.asks, 0.0)]
    source = chosen.validation or chosen.dataset
    if isinstance(source, HoldsRows):
        found.append(
            f"trainer.validate_on=lists: dataset {source.name} holds windows and no candidate lists; name a "
            "dataset@validation that has them, or set trainer.validate_on=windows"
        )
    return found


def _examine_training(run: Run) -> tuple[list[str], list[str], list[str]]:
    """What the trainer would fail at, what will cost much, and what it expects."""
    trainer, model, algorithm = run.experiment.trainer, run.experiment.model, run.experiment.algorithm
    if isinstance(trainer, Examines):
        try:
            report = trainer.examine(algorithm, model, run.folder)
        except ValueError as error:  # a config.json that doesn't say
            return [str(error)], [], []
        if isinstance(run.experiment.task, PreflightTask):
            try:
                rows, why_not = _prepared_rows(run)
            except RowError as error:
                rows, why_not = {}, ""
                report.problems.append(str(error))
            if rows:
                trainer.measure(report, model, rows)
            elif why_not:
                report.notes.append(why_not)
        return report.problems, report.warnings, report.notes
    if isinstance(trainer, ChecksAlgorithm):
        try:
            trainer.check(algorithm)
        except TrainingError as error:
            return [str(error)], [], []
    return [], [], []


def _prepared_rows(run: Run) -> tuple[dict[str, list[TrainingRow]], str]:
    """The rows that these settings prepared in this folder, or why there are none."""
    stage = rows_stage(run)
    if not (stage.folder / SUMMARY).is_file() or stage.changed():
        return {}, f"prompts: not measured, no rows are prepared in {run.folder} yet (task=prepare)"
    rows = Rows(stage.folder, run.experiment.dataset.name, stage.identity)
    return {"training": rows.train(), "validation": rows.validation()}, ""
