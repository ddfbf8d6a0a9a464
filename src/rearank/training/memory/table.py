"""The recommended settings for every node of ``conf/model``, as Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rearank.engines.model import Architecture, Model
from rearank.training.memory.parts import Workload
from rearank.training.memory.plan import LORA_RANK, MACHINE, MemoryPlan, describe, recommend


def models(folder: Path) -> list[tuple[Model, Architecture]]:
    """The nodes in ``folder`` whose sizes are known, small ones first; of those of the same sizes the first by name.

    Raises ``ValueError`` where ``folder`` holds none.
    """
    from omegaconf import DictConfig, OmegaConf

    from rearank.config import build

    found: dict[Architecture, Model] = {}
    for file in sorted(folder.glob("*.yaml")):
        node = OmegaConf.load(file)
        if not isinstance(node, DictConfig) or "_target_" not in node or OmegaConf.is_missing(node, "path"):
            continue  # others' weights with another prompt, or nobody's yet
        node.pop("defaults", None)  # what it chooses in other groups
        model: Model = build(node, "model")
        if sizes := model.sizes:
            found.setdefault(sizes, model)
    if not found:
        raise ValueError(f"{folder} holds no model whose sizes are known; run this in the project's folder")
    return sorted(
        ((model, sizes) for sizes, model in found.items()), key=lambda pair: (pair[1].parameters, pair[0].name)
    )


def table(
    found: Sequence[tuple[Model, Architecture]],
    prompt_tokens: int,
    gpus: Sequence[int] = (1, MACHINE),
) -> str:
    """Markdown: a row for every model, number of GPUs, and way to train; under it what mends those that don't fit.

    Answers are as long as the model's ``max_tokens``; prompts as long as its context lets them be beside one, and
    ``prompt_tokens`` at most.
    """
    from rearank.evaluation import render_table

    rows, remedies = [], []
    for model, architecture in found:
        prompt = max(1, min(prompt_tokens, architecture.context - model.max_tokens))
        for number in gpus:
            for rank in (None, LORA_RANK):
                work = Workload(number, prompt_tokens=prompt, answer_tokens=model.max_tokens, lora_rank=rank)
                plan = recommend(architecture, work)
                rows.append(_row(model.name, plan))
                where = f"{model.name}, {number} GPU{'s' if number > 1 else ''}, {rows[-1]['trained']}"
                remedies += [f"- {where}: {problem}" for problem in plan.problems()]
    return "\n".join([render_table(rows), *(["", *remedies] if remedies else [])])


def _row(name: str, plan: MemoryPlan) -> dict[str, str | int]:
    work, size = plan.workload, plan.architecture.parameters
    training = max(plan.training, key=plan.gib)
    settled = plan.fits
    return {
        "model": name,
        "parameters": f"{size / 1e9:.2f}B" if size >= 1e8 else f"{size / 1e6:.1f}M",
        "GPUs": work.gpus,
        "trained": "all" if work.lora_rank is None else f"LoRA {work.lora_rank}",
        "offload": work.offload if settled else "-",
        "checkpointing": ("yes" if work.gradient_checkpointing else "no") if settled else "-",
        "tokens per pass": str(work.tokens_per_pass) if settled else "-",
        "rollout memory": f"{work.rollout_memory:.2f}" if settled else "-",
        "tensor parallel": str(work.tensor_parallel) if settled else "-",
        "training's largest phase": training,
        "its GiB by part": describe(plan.training[training]),
        "training GiB": f"{plan.gib(training):.1f}",
        "generation GiB": f"{plan.gib('generation'):.1f}",
        "KV tokens": str(plan.kv_tokens) if settled else "-",
        "whole answers": str(plan.kv_answers) if settled else "-",
        "host GiB": f"{plan.host_peak:.0f}",
        "fits": "yes" if settled else "no",
    }


def _longest_prompt(trainer: Path) -> int:
    from omegaconf import OmegaConf

    try:
        return int(OmegaConf.select(OmegaConf.load(trainer), "max_prompt_tokens"))
    except OSError as error:
        raise ValueError(f"{trainer}: can't be read ({error.strerror}); set --prompt-tokens") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the expected GPU memory of training each model with verl, by part."""
    parser = argparse.ArgumentParser(prog="python -m rearank.training.memory", description=main.__doc__)
    parser.add_argument("--models", type=Path, default=Path("conf/model"), help="folder of model nodes")
    parser.add_argument("--prompt-tokens", type=int, help="of the longest prompt; trainer=verl's, where not given")
    parser.add_argument("--into", type=Path, help="a Markdown file: put the table in place of the one at its end")
    chosen = parser.parse_args(arguments)
    if chosen.into is not None and not chosen.into.is_file():
        parser.error(f"--into {chosen.into}: no such file; it must hold the text above the table")
    try:
        found = models(chosen.models)
        prompt = chosen.prompt_tokens or _longest_prompt(chosen.models.parent / "trainer" / "verl.yaml")
        printed = table(found, prompt)
    except ValueError as error:
        parser.error(str(error))
    if chosen.into is None:
        print(printed)
    else:
        text = chosen.into.read_text().partition("\n| model ")[0]
        chosen.into.write_text(f"{text}\n{printed}\n")
