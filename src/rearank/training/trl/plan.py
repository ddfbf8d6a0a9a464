"""What a training with ``trainer=trl`` will take of its one GPU, or of the machine's memory: for ``task=preflight``.

Nothing heavy is imported and nothing loaded: the model's sizes and the config's bounds are enough. A phase is a moment
of a step with everything that is in memory then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rearank.algorithms import PolicyGradient
from rearank.engines.model import Architecture
from rearank.engines.vllm.capacity import GIB, Split, bytes_per_token, gpus_seen
from rearank.training.base import Lora, TrainingForecast
from rearank.training.cost import StepCost
from rearank.training.footprint import GRAPHS, RUNTIME, Parts, describe, total
from rearank.training.memory import SPARE
from rearank.training.trl.passes import SHARE, Passes, PassMemory, fitting, free_gib
from rearank.training.trl.settings import TrlSettings

_BATCHED = 4096  # tokens of one of vLLM's passes, as TRL starts it
_SHARES = tuple(percent / 100 for percent in range(15, 75, 5))
SAMPLING = "sampling"
PROMPT = 3072
"""Tokens that the longest prompt is taken to have where nothing bounds it: what ``trainer=verl`` allows."""


@dataclass(frozen=True)
class OneMachinePlan:
    """GiB by phase and part; ``share``: of the GPU for vLLM, where it samples."""

    memory: PassMemory
    passes: Passes
    gib: float
    phases: Mapping[str, Parts]
    share: float | None
    kv_answers: int | None
    """Answers of full length that vLLM's cache holds, each with a prompt of its own."""

    @property
    def fits(self) -> bool:
        """Whether nothing keeps it from running."""
        return not self.faults()

    def faults(self) -> list[str]:
        """What keeps it from running: a phase that takes too much, or a cache that holds no answer."""
        found = [
            f"{phase} takes {total(parts):.1f} GiB by estimate ({describe(parts)}), and {_room(phase, self.gib):.1f} "
            f"of {self.gib:.1f} are counted on"
            for phase, parts in self.phases.items()
            if total(parts) > _room(phase, self.gib)
        ]
        if not found and self.kv_answers == 0:
            found = [f"trainer.rollout_memory={self.share:g} leaves vLLM no cache for one prompt with its answer"]
        return found


def _room(phase: str, gib: float) -> float:
    """That a phase may take: what vLLM takes is set, and activations are a coarser estimate."""
    return ((1 - SPARE) if phase == SAMPLING else SHARE) * gib


def vllm_share(memory: PassMemory, answers: int, gib: float) -> tuple[float, int, Parts]:
    """The share of a GPU of ``gib`` for vLLM beside the training's state, which stays there while answers are sampled.

    The smallest whose cache holds all ``answers`` of a step, or else the largest that fits.

    Returns:
        The share, the answers of full length that the cache then holds, and GiB by part while answers are sampled.
    """
    tried = [_with_share(memory, answers, gib, share) for share in _SHARES]
    return next(
        (one for one in tried if one[1] >= answers and _leaves_room(one, gib)),
        next((one for one in reversed(tried) if _leaves_room(one, gib)), tried[0]),
    )


def _leaves_room(one: tuple[float, int, Parts], gib: float) -> bool:
    return total(one[2]) <= _room(SAMPLING, gib) and one[1] > 0


def _with_share(memory: PassMemory, answers: int, gib: float, share: float) -> tuple[float, int, Parts]:
    a, whole = memory.a, memory.prompt + memory.answer
    weights = 2 * a.parameters / GIB
    # Of the answers under way: logits in bfloat16, and in float32 twice, to draw from.
    working = (2 * _BATCHED * (3 * a.intermediate + 4 * a.hidden) + 10 * answers * a.vocabulary) / GIB
    cache = max(0.0, share * gib - weights - working - GRAPHS)
    held = int(cache * GIB / bytes_per_token(a, Split(), "bfloat16")) // whole
    at_rest = {name: size for name, size in memory.state.items() if name != "gradients"}
    vllm = {"vllm weights": weights, "vllm activations": working, "cuda graphs": GRAPHS, "kv cache": cache}
    return share, held, {**at_rest, **vllm, "runtime": RUNTIME}


def planned(trainer: TrlSettings, memory: PassMemory, algorithm: PolicyGradient, gib: float) -> OneMachinePlan:
    """With what is open in ``trainer`` chosen for ``gib`` GiB."""
    aside = RUNTIME if memory.gpu else 0.0  # CUDA's contexts and what a sleeping vLLM keeps
    chosen = fitting(
        memory, algorithm.answers_per_update, gib - aside, trainer.micro_batch, trainer.gradient_checkpointing
    )
    memory = replace(memory, checkpointing=chosen.checkpointing)
    phases = {"an update": {**memory.peak(chosen.micro_batch), **({"runtime": aside} if aside else {})}}
    if trainer.rollout == "transformers":
        return OneMachinePlan(memory, chosen, gib, phases, None, None)
    answers = algorithm.answers_per_step
    if trainer.rollout_memory is None:
        share, held, parts = vllm_share(memory, answers, gib)
    else:
        share, held, parts = _with_share(memory, answers, gib, trainer.rollout_memory)
    return OneMachinePlan(memory, chosen, gib, {SAMPLING: parts, **phases}, share, held)


def examine(
    trainer: TrlSettings, algorithm: PolicyGradient, answer: int, sizes: Architecture | None
) -> TrainingForecast:
    """What a training would not fit, and what it would take.

    Args:
        trainer: the node.
        algorithm: the node.
        answer: ``model.max_tokens``.
        sizes: of the model; ``None`` where they are not known, which a note then says.
    """
    report = TrainingForecast()
    if sizes is None:
        report.notes.append("memory: not estimated, the model's sizes are not known (model.architecture)")
        return report
    gpu, gib = where(trainer)
    room = sizes.context - answer
    if room < 1:
        return report  # the training says so, and what to lower
    prompt = min(trainer.max_prompt_tokens or PROMPT, room)
    group = algorithm.group_size if trainer.shares_prompts else 1
    memory = PassMemory(sizes, prompt, answer, gpu, False, trainer.lora, algorithm.kl > 0, group)
    cost = StepCost(sizes, algorithm.prompts_per_step, algorithm.group_size, prompt, answer, passes_of(algorithm))
    if gib is None:
        report.notes.append("memory: not estimated, this machine's free memory is not known")
    else:
        plan = planned(trainer, memory, algorithm, gib)
        cost = replace(cost, again=plan.passes.checkpointing)
        _report(report, trainer, plan, algorithm)
    shared = group > 1 and not cost.again
    bound = "" if trainer.max_prompt_tokens else f", as trainer.max_prompt_tokens sets no bound below {room}"
    report.notes.append(f"prompts of {prompt} tokens are planned for{bound}, and answers of {answer}")
    report.notes.append(f"cost: {cost.describe(shared=shared)}")
    return report


def passes_of(algorithm: PolicyGradient) -> int:
    """Forward passes over all answers besides the update's: old log-probabilities, the reference model's."""
    old = algorithm.minibatches > 1 or algorithm.updates > 1 or algorithm.correction != "none"
    return int(old) + int(algorithm.kl > 0)


def where(trainer: TrlSettings) -> tuple[bool, float | None]:
    """Whether a GPU trains, and GiB there: of ``trainer.gpu_gib``, of the GPU seen here, or the memory that is free."""
    seen = [] if trainer.device == "cpu" else gpus_seen()
    gib = None if trainer.device == "cpu" else trainer.gpu_gib or (seen[0] if seen else None)
    if gib is not None or trainer.device == "cuda":
        return True, gib
    return False, free_gib(gpu=False)


def _report(report: TrainingForecast, trainer: TrlSettings, plan: OneMachinePlan, algorithm: PolicyGradient) -> None:
    gpu, work = plan.memory.gpu, plan.passes
    what = "memory a GPU" if gpu else "memory that is free here"
    for phase, parts in plan.phases.items():
        report.notes.append(f"{what}, computed: {phase} {total(parts):.1f} of {plan.gib:.1f} GiB ({describe(parts)})")
    checkpointing = str(work.checkpointing).lower()
    settings = f"trainer.micro_batch={work.micro_batch} trainer.gradient_checkpointing={checkpointing}"
    if plan.share is not None:
        settings += f" trainer.rollout_memory={plan.share:g}"
        report.notes.append(
            f"vLLM's cache holds {plan.kv_answers} whole answers of a step's {algorithm.answers_per_step}"
        )
    report.notes.append(f"settings: {settings}")
    lines = [f"{fault}: {_remedy(trainer, plan, algorithm)}" for fault in plan.faults()]
    (report.problems if gpu else report.warnings).extend(lines)


def _remedy(trainer: TrlSettings, plan: OneMachinePlan, algorithm: PolicyGradient) -> str:
    """The changes that would do, each by itself; or what always helps."""
    open_ones = replace(trainer, micro_batch=None, gradient_checkpointing=None, rollout_memory=None)
    adapted = replace(plan.memory, checkpointing=False, lora=Lora())
    tried = {
        "leave trainer.micro_batch, gradient_checkpointing and rollout_memory open (null)": (open_ones, plan.memory),
        "set trainer.lora='{_target_: rearank.training.base.Lora, rank: 32}'": (open_ones, adapted),
    }
    cures = [
        text
        for text, (settings, memory) in tried.items()
        if planned(settings, memory, algorithm, plan.gib).fits and (settings, memory) != (trainer, plan.memory)
    ]
    always = "lower model.max_tokens or trainer.max_prompt_tokens, or take a smaller model (model=...)"
    return ", or ".join([*cures, always])
