"""What a run on the cluster would fail at, all of it at once, before Ray starts; and what it will take.

With rows (``task=preflight`` once they are prepared, and every training just before it starts) prompts are measured
with the model's own tokenizer; without them everything else is checked.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import OmegaConf

from rearank.algorithms import PolicyGradient
from rearank.engines.model import Architecture
from rearank.engines.vllm.capacity import gpus_seen
from rearank.training.base import TrainingError, TrainingForecast, result_of
from rearank.training.cost import StepCost
from rearank.training.machine_memory import memory_bytes
from rearank.training.memory import GPU_GIB, MemoryPlan, Workload, describe, estimate, recommend
from rearank.training.verl import machine
from rearank.training.verl.compose import ppo_config
from rearank.training.verl.settings import Files, Lengths, VerlSettings, Weights

_GIB = 1 << 30
_STATE = 12  # bytes a trained parameter in a checkpoint: float32 weights and Adam's two moments
_FLOAT32, _BFLOAT16 = 4, 2
_PLANNED = ("tensor_parallel", "tokens_per_pass", "offload", "rollout_memory", "gradient_checkpointing")
_HOST_CURES = {  # part of the machine's memory -> what makes it smaller
    "loaded by each process": "use fewer of its GPUs (cluster.gpus_per_node)",
    "reference": "do without the reference (algorithm.kl=0)",
    "offloaded": "set trainer.offload=none",
    "vllm asleep": "set trainer.tensor_parallel higher",
}
_WHOLE_GRADIENTS = "actor_rollout_ref.actor.fsdp_config.use_no_sync_for_gradient_accumulation"


def examine(
    trainer: VerlSettings, algorithm: PolicyGradient, lengths: Lengths, sizes: Architecture | None, folder: Path
) -> TrainingForecast:
    """Everything that can be examined without the rows.

    Args:
        trainer: the node.
        algorithm: the node.
        lengths: of prompts and answers, as the config bounds them.
        sizes: of the model; ``None`` where they are not known, which a note then says.
        folder: where checkpoints will go.
    """
    report = TrainingForecast(warnings=machine.warnings(trainer))
    gib = gpu_gib(trainer)
    trainer = settled(trainer, algorithm, lengths, sizes, gib)
    try:
        trainer.check(algorithm)
    except TrainingError as error:
        report.problems.append(str(error))
    _examine_keys(report, trainer, algorithm, lengths)
    if (trainer.tokens_per_pass or 0) < lengths.total:
        report.problems.append(
            f"trainer.tokens_per_pass ({trainer.tokens_per_pass}) is less than one prompt with its answer "
            f"(trainer.max_prompt_tokens + model.max_tokens = {lengths.total}): raise it, or lower one of these"
        )
    if sizes is None:
        report.notes.append("memory and disk: not estimated, the model's sizes are not known (model.architecture)")
        return report
    if lengths.total > sizes.context:
        report.problems.append(too_long(lengths, sizes.context))
    if not trainer.on_cpu:
        work = Workload(**_work(trainer, algorithm, lengths, gib), **_planned(trainer))
        _examine_memory(report, trainer, estimate(sizes, work), assumed=not gib)
    again, passes = bool(trainer.gradient_checkpointing), 1 + int(algorithm.kl > 0)
    shape = (algorithm.prompts_per_step, algorithm.group_size, lengths.prompt, lengths.answer)
    shared = trainer.shared_prompt is not False
    report.notes.append(f"cost: {StepCost(sizes, *shape, passes, again).describe(shared=shared)}")
    _examine_disk(report, trainer, algorithm, sizes, folder)
    return report


def too_long(lengths: Lengths, context: int) -> str:
    """What is wrong with prompts and answers that together are longer than the model's ``context``."""
    return (
        f"trainer.max_prompt_tokens ({lengths.prompt}) and model.max_tokens ({lengths.answer}) together exceed the "
        f"model's context of {context}; lower one of them"
    )


def examine_lengths(report: TrainingForecast, measured: Sequence[int], what: str, lengths: Lengths) -> None:
    """Add what the prompts' lengths in tokens say about a run."""
    over = sum(length > lengths.prompt for length in measured)
    report.notes.append(
        f"{what} prompts: {len(measured)}, of {min(measured)} to {max(measured)} tokens, mean {fmean(measured):.0f}; "
        f"{over / len(measured):.1%} over trainer.max_prompt_tokens={lengths.prompt}"
    )
    if over == len(measured):
        report.problems.append(
            f"every {what} prompt is longer than trainer.max_prompt_tokens ({lengths.prompt}; the shortest has "
            f"{min(measured)}): raise it, or shorten passages (prompt.max_characters) or windows (augmentation.size)"
        )


def _examine_keys(report: TrainingForecast, trainer: VerlSettings, algorithm: PolicyGradient, lengths: Lengths) -> None:
    """Our keys and the user's against the installed verl, where there is one."""
    if find_spec("verl") is None:
        return  # reported by the trainer's own preflight
    try:
        weights, files = Weights("model", lengths, "{}", 0), Files(Path("rows"), None, Path("checkpoints"))
        ppo_config(trainer, algorithm, weights, files, 1)
    except TrainingError as error:
        report.problems.append(str(error))


def settled(
    trainer: VerlSettings, algorithm: PolicyGradient, lengths: Lengths, sizes: Architecture | None, gib: float | None
) -> VerlSettings:
    """``trainer`` with every setting that it left open chosen by the memory plan.

    Where the model's sizes are not known the choice is a cautious one.
    """
    open_ones = [name for name in _PLANNED if getattr(trainer, name) is None]
    if not open_ones:
        return trainer
    if sizes is None:
        return trainer.cautious(lengths)
    plan = recommend(sizes, Workload(**_work(trainer, algorithm, lengths, gib)), _planned(trainer))
    return replace(trainer, **{name: getattr(plan.workload, name) for name in open_ones})


def _work(trainer: VerlSettings, algorithm: PolicyGradient, lengths: Lengths, gib: float | None) -> dict[str, Any]:
    """What the memory plan must know of a run, but for what it may choose."""
    return {
        "gpus": trainer.cluster.gpus,
        "shards": trainer.cluster.gpus_per_node if trainer.cluster.shard_within_node else None,
        "gpu_gib": gib or GPU_GIB,
        "prompt_tokens": lengths.prompt,
        "answer_tokens": lengths.answer,
        "lora_rank": trainer.lora.rank if trainer.lora is not None else None,
        "lora_base": trainer.lora_base,
        "reference": algorithm.kl > 0,
        "critic": algorithm.critic,
        "temperature": algorithm.temperature,
        "max_sequences": trainer.max_sequences,
        "fused_kernels": trainer.fused_kernels,
        "liger": trainer.liger,
        "whole_gradients": bool(OmegaConf.select(OmegaConf.create(trainer.verl), _WHOLE_GRADIENTS)),
        "flash_attention": trainer.attention_kernel == "flash_attention_2",
    }


def _planned(trainer: VerlSettings) -> dict[str, Any]:
    return {name: getattr(trainer, name) for name in _PLANNED}


def gpu_gib(trainer: VerlSettings) -> float | None:
    """Memory of a GPU: what the config says, or is seen here; ``None`` on CPUs and for clusters elsewhere."""
    if trainer.on_cpu:
        return None
    return trainer.cluster.gpu_gib or (min(gpus_seen(), default=None) if trainer.cluster.address is None else None)


def _examine_memory(report: TrainingForecast, trainer: VerlSettings, plan: MemoryPlan, *, assumed: bool) -> None:
    said = ("model's context", "trainer.tokens_per_pass=")  # examined above, whatever the device
    report.problems += [line for line in plan.problems() if not any(text in line.split(":")[0] for text in said)]
    how = " (assumed; cluster.gpu_gib says otherwise)" if assumed else ""
    report.notes.append(
        f"memory a GPU, computed: {plan.peak:.1f} of {plan.capacity:.1f} GiB{how}, most in {plan.peak_phase} "
        f"({describe(plan.phases[plan.peak_phase])}); the KV cache holds {plan.kv_answers} whole answers"
    )
    report.notes.append(f"settings: {' '.join(plan.settings())}")
    nodes = trainer.cluster.nodes
    phase, parts = max(plan.host.items(), key=lambda item: sum(item[1].values()))
    needed, here = sum(parts.values()) / nodes, host_gib() if trainer.cluster.address is None else None
    report.notes.append(
        f"memory a machine, computed: {needed:.0f}{f' of {here:.0f}' if here else ''} GiB, "
        f"most in {phase} ({describe({name: gib / nodes for name, gib in parts.items()})})"
    )
    if here and needed > here:
        cures = [cure for part, cure in _HOST_CURES.items() if part in parts] + ["take a smaller model (model=...)"]
        report.problems.append(
            f"this machine has {here:.0f} GiB of memory and {phase} takes {needed:.0f}: {', or '.join(cures)}"
        )


def _examine_disk(
    report: TrainingForecast, trainer: VerlSettings, algorithm: PolicyGradient, sizes: Architecture, folder: Path
) -> None:
    """The checkpoints that are kept, the best one, the one being written, and the exported model: an upper bound.

    Some hold weights alone. Where weights are not split over all GPUs, every copy is saved.
    """
    parameters = sizes.parameters
    base = _BFLOAT16 if trainer.lora_base == "bfloat16" else _FLOAT32
    one = parameters * (base if trainer.lora is not None else _STATE)
    if algorithm.critic:
        one += parameters * _STATE
    one *= trainer.cluster.nodes if trainer.cluster.shard_within_node else 1
    needed = (trainer.keep + 2) * one + 2 * parameters * _BFLOAT16
    training = folder / "training"
    if result_of(training) is not None:
        return  # trained already: nothing more will be written
    needed = max(0, needed - _size(training / "checkpoints"))  # a run that goes on has some of them
    place = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    report.notes.append(
        f"disk: at most {needed / _GIB:.1f} GiB for {trainer.keep + 2} checkpoints of {one / _GIB:.1f} and the model; "
        f"{free / _GIB:.1f} free in {place}"
    )
    if free < needed:
        report.problems.append(
            f"{place}: {free / _GIB:.1f} GiB free and {needed / _GIB:.1f} needed for {trainer.keep + 2} checkpoints "
            "and the model; free some, keep fewer (trainer.keep), train adapters (trainer.lora) or write elsewhere "
            "(paths.outputs=...)"
        )


def _size(folder: Path) -> int:
    """Bytes of every file below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def host_gib() -> float | None:
    """Memory of this machine; ``None`` where its system doesn't say."""
    total = memory_bytes("MemTotal")
    return None if total is None else total / _GIB
