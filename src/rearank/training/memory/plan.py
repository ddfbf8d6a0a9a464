"""A plan of a GPU's memory, the settings that make one fit, and what to change where none does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from rearank.engines.model import Architecture
from rearank.training.memory.parts import (
    OFFLOADS,
    SPARE,
    Parts,
    State,
    Workload,
    host_phases,
    rollout_phases,
    training_phases,
)

LORA_RANK = 32
MACHINE = 8
"""GPUs at most in one machine."""

_PASSES = (32768, 24576, 16384, 12288, 10240, 8192, 7168, 6144)  # tokens, where memory is plenty
_CAREFUL_PASSES = (16384, 8192)  # and where it isn't: the GPU is busy with these, longer ones only save gathers
_ROOMS = (0.1, 0.03, 0.0)  # of what a GPU can give, to stay free
# verl advises .5 to .7, and waking up has run out of memory above (NVIDIA-NeMo/RL#3280): what the trainer's allocator
# still holds then is known to it alone. More is the user's to set.
_SHARES = tuple(percent / 100 for percent in range(70, 15, -5))
_ANSWERS = (32, 8, 1)  # of full length in a KV cache: rollouts that are quick, slow, possible at all


@dataclass(frozen=True)
class MemoryPlan:
    """GiB of one GPU by phase and part, in the order of a step; ``host``: of all machines' memory together."""

    architecture: Architecture
    workload: Workload
    training: Mapping[str, Parts]
    rollouts: Mapping[str, Parts]
    host: Mapping[str, Parts]
    kv_tokens: int
    """That the KV cache of one vLLM engine holds."""

    @property
    def phases(self) -> dict[str, Parts]:
        """All of them."""
        return {**self.training, **self.rollouts}

    @property
    def kv_answers(self) -> int:
        """Answers of full length, each with a prompt of its own, that fit the KV cache; groups share their prompt."""
        return self.kv_tokens // self.workload.whole_answer

    @property
    def peak_phase(self) -> str:
        """The phase that takes most."""
        return _largest(self.phases)

    @property
    def peak(self) -> float:
        """GiB of that phase."""
        return _takes(self.phases)

    @property
    def capacity(self) -> float:
        """GiB that may be used of a GPU."""
        return self.workload.gpu_gib * (1 - SPARE)

    @property
    def host_peak(self) -> float:
        """GiB of all machines together."""
        return _takes(self.host)

    @property
    def fits(self) -> bool:
        """Whether nothing keeps it from running."""
        return not self._faults()

    def gib(self, phase: str) -> float:
        """All parts of ``phase``."""
        return sum(self.phases[phase].values())

    def settings(self) -> tuple[str, ...]:
        """The trainer's settings as overrides of our config."""
        work = self.workload
        return (
            *([_lora(work.lora_rank)] if work.lora_rank else []),
            f"trainer.offload={work.offload}",
            f"trainer.gradient_checkpointing={str(work.gradient_checkpointing).lower()}",
            f"trainer.tokens_per_pass={work.tokens_per_pass}",
            f"trainer.rollout_memory={work.rollout_memory:g}",
            f"trainer.tensor_parallel={work.tensor_parallel}",
        )

    def problems(self) -> list[str]:
        """What keeps it from running, each with what mends it; empty where it fits."""
        return [f"{text}: {_remedy(self, topic)}" for topic, text in self._faults().items()]

    def _faults(self) -> dict[str, str]:
        work, heads, found = self.workload, self.architecture.heads, {}
        if work.whole_answer > self.architecture.context:
            found["context"] = (
                f"a prompt of {work.prompt_tokens} tokens and an answer of {work.answer_tokens} are more than the "
                f"model's context of {self.architecture.context}"
            )
        if work.gpus % work.tensor_parallel or heads % work.tensor_parallel:
            found["tensor parallel"] = (
                f"trainer.tensor_parallel={work.tensor_parallel} must divide the GPUs ({work.gpus}) and the model's "
                f"heads ({heads})"
            )
        if work.tokens_per_pass < work.whole_answer:
            found["tokens"] = (
                f"trainer.tokens_per_pass={work.tokens_per_pass} is less than one prompt with its answer "
                f"({work.whole_answer}), which verl refuses"
            )
        for topic, phases in (("training", self.training), ("rollouts", self.rollouts)):
            phase = _largest(phases)
            if self.gib(phase) > self.capacity:
                found[topic] = (
                    f"{phase} takes {self.gib(phase):.1f} GiB and a GPU has {self.capacity:.1f} to give "
                    f"({describe(phases[phase])})"
                )
        if "rollouts" not in found and self.kv_answers < 1:
            found["kv cache"] = (
                f"trainer.rollout_memory={work.rollout_memory:g} leaves a KV cache of {self.kv_tokens} tokens, less "
                f"than one prompt with its answer ({work.whole_answer})"
            )
        return found


def estimate(architecture: Architecture, workload: Workload) -> MemoryPlan:
    """GiB by phase and part on each GPU, and on the hosts."""
    state = State(architecture, workload)
    rollouts, kv_tokens = rollout_phases(architecture, workload, state)
    return MemoryPlan(
        architecture=architecture,
        workload=workload,
        training=training_phases(architecture, workload, state),
        rollouts=rollouts,
        host=host_phases(architecture, workload, state),
        kv_tokens=kv_tokens,
    )


def recommend(architecture: Architecture, given: Workload, fixed: Mapping[str, Any] | None = None) -> MemoryPlan:
    """The fastest plan that fits; where none does, the one that misses by least: see its ``fits`` and ``problems()``.

    Faster is, in this order:

    1. a KV cache for many answers, because a step waits for its rollouts first;
    2. engines on few GPUs, which have less to tell each other;
    3. nothing offloaded;
    4. no gradient checkpointing: four fifths of a step are training, and a layer computed again is a quarter of the
       update's work. Short passes are no loss beside it while gathers stay inside a machine, where they hide behind
       the computation; where weights are split over several machines long passes go first;
    5. long passes: fewer gathers, and less of a pass left empty. Without flash-attention short ones: each token is then
       compared with every other of its pass.

    4 and passes above 16,384 tokens are only taken where training leaves a tenth of the GPU free. So does everything
    else where that costs no answers, or at least a thirtieth. These times are estimates; nobody has measured them.

    Args:
        architecture: the model's sizes.
        given: the run; its ``tensor_parallel``, ``offload``, ``gradient_checkpointing``, ``tokens_per_pass`` and
            ``rollout_memory`` are chosen anew...
        fixed: ...but those that are not ``None`` here.
    """
    return _fastest(architecture, given, fixed or {})


def describe(parts: Parts) -> str:
    """``weights 3.5, gradients 3.5``: GiB, in their order; what rounds to nothing is left out."""
    return ", ".join(f"{name} {gib:.1f}" for name, gib in parts.items() if gib >= 0.05)


def _fastest(architecture: Architecture, given: Workload, fixed: Mapping[str, Any]) -> MemoryPlan:
    bold, careful = (list(_candidates(architecture, given, fixed, careful=careful)) for careful in (False, True))
    for answers in _ANSWERS:
        for room in _ROOMS:
            for plan in (*bold, *careful):
                if plan.kv_answers >= answers and plan.peak <= plan.capacity * (1 - room) and plan.fits:
                    return plan
    return min(careful, key=lambda plan: (len(plan._faults()), plan.peak))


def _candidates(
    architecture: Architecture, given: Workload, fixed: Mapping[str, Any], *, careful: bool
) -> Iterator[MemoryPlan]:
    """Fast ones first; ``careful`` leaves out what takes memory for speed alone."""

    def choices(name: str, of: Sequence[Any]) -> Sequence[Any]:
        return of if fixed.get(name) is None else [fixed[name]]

    whole = _whole_pass(given)
    longer = (_CAREFUL_PASSES if careful else _PASSES) if given.flash_attention else ()
    passes = sorted({whole, *(tokens for tokens in longer if tokens > whole)}, reverse=True)
    checkpointing = choices("gradient_checkpointing", [True] if careful else [False, True])
    ways = list(product(checkpointing, choices("tokens_per_pass", passes)))
    if given.split > MACHINE:
        ways.sort(key=lambda way: -way[1])
    for tensor_parallel in choices("tensor_parallel", _tensor_parallel_sizes(architecture, given.gpus)):
        for offload in choices("offload", OFFLOADS):
            for checkpointed, tokens in ways:
                work = replace(
                    given,
                    tensor_parallel=tensor_parallel,
                    offload=offload,
                    gradient_checkpointing=checkpointed,
                    tokens_per_pass=tokens,
                )
                plan = estimate(architecture, work)
                if careful or _takes(plan.training) <= plan.capacity * (1 - _ROOMS[0]):
                    shares = choices("rollout_memory", _SHARES)
                    yield from sorted((_with_share(plan, share) for share in shares), key=_idle)


def _with_share(plan: MemoryPlan, share: float) -> MemoryPlan:
    """As ``estimate``; training does not depend on it."""
    work = replace(plan.workload, rollout_memory=share)
    rollouts, kv_tokens = rollout_phases(plan.architecture, work, State(plan.architecture, work))
    return replace(plan, workload=work, rollouts=rollouts, kv_tokens=kv_tokens)


def _idle(plan: MemoryPlan) -> tuple[bool, float]:
    """Sorts the smallest KV cache that is never full first, then the others, large ones first."""
    share = plan.workload.rollout_memory
    never_full = plan.kv_answers >= plan.workload.max_sequences
    return not never_full, share if never_full else -share


def _remedy(plan: MemoryPlan, topic: str) -> str:
    work = plan.workload
    if topic == "context":
        return "lower model.max_tokens or trainer.max_prompt_tokens"
    if topic == "tensor parallel":
        sizes = _tensor_parallel_sizes(plan.architecture, work.gpus)
        return f"set trainer.tensor_parallel={' or '.join(map(str, sizes))}"
    if topic == "tokens":
        return (
            f"set trainer.tokens_per_pass={_whole_pass(work)}, or lower model.max_tokens or trainer.max_prompt_tokens"
        )
    cures = [cure for changes in _changes(plan) if (cure := _first_cure(plan.architecture, changes, topic))]
    if cures:
        return f"set {', or '.join(cures)}; or take a smaller model (model=...)"
    return "take more GPUs (cluster.nodes, cluster.gpus_per_node) or a smaller model (model=...)"


def _first_cure(architecture: Architecture, changes: Iterable[tuple[str, Workload]], topic: str) -> str | None:
    # Room for vLLM that leaves it no KV cache is no cure, nor is the reverse.
    related = {topic} if topic == "training" else {"rollouts", "kv cache"}
    for text, work in changes:
        if not related & estimate(architecture, work)._faults().keys():
            return text
    return None


def _changes(plan: MemoryPlan) -> Iterator[Sequence[tuple[str, Workload]]]:
    """Settings to try, kind by kind; of each kind what changes least comes first."""
    work = plan.workload
    if not work.gradient_checkpointing:
        yield [("trainer.gradient_checkpointing=true", replace(work, gradient_checkpointing=True))]
    shorter = range(work.tokens_per_pass // 1024 * 1024, _whole_pass(work) - 1, -1024)
    yield [(f"trainer.tokens_per_pass={tokens}", replace(work, tokens_per_pass=tokens)) for tokens in shorter]
    shares = sorted(_SHARES, key=lambda share: abs(share - work.rollout_memory))
    yield [(f"trainer.rollout_memory={share:g}", replace(work, rollout_memory=share)) for share in shares]
    stronger = OFFLOADS[OFFLOADS.index(work.offload) + 1 :]
    yield [(f"trainer.offload={offload}", replace(work, offload=offload)) for offload in stronger]
    if work.lora_rank is None:
        lora, least = replace(work, lora_rank=LORA_RANK), _whole_pass(work)
        both = f"{_lora(LORA_RANK)} trainer.tokens_per_pass={least}"
        yield [(_lora(LORA_RANK), lora), (both, replace(lora, tokens_per_pass=least))]
    wider = [n for n in _tensor_parallel_sizes(plan.architecture, work.gpus) if n > work.tensor_parallel]
    yield [(f"trainer.tensor_parallel={n}", replace(work, tensor_parallel=n)) for n in wider]
    if work.replicas > 1:
        yield [("cluster.shard_within_node=false", replace(work, shards=None))]
        return
    more = [n for n in (2, 4, 8, 16, 32, 64) if n > work.gpus]
    yield [(_gpus(n), replace(work, gpus=n, shards=None)) for n in more]


def _lora(rank: int) -> str:
    return f"'trainer.lora={{_target_: rearank.training.base.Lora, rank: {rank}}}'"


def _gpus(number: int) -> str:
    here = f"cluster.gpus_per_node={min(number, MACHINE)}"
    return here if number <= MACHINE else f"cluster.nodes={number // MACHINE} {here}"


def _tensor_parallel_sizes(architecture: Architecture, gpus: int) -> list[int]:
    return [n for n in range(1, min(gpus, MACHINE) + 1) if gpus % n == 0 and architecture.heads % n == 0]


def _whole_pass(workload: Workload) -> int:
    """The shortest pass that holds a prompt with its answer: a multiple of 1,024 tokens."""
    return -(-workload.whole_answer // 1024) * 1024


def _largest(phases: Mapping[str, Parts]) -> str:
    return max(phases, key=lambda phase: sum(phases[phase].values()))


def _takes(phases: Mapping[str, Parts]) -> float:
    return max(sum(parts.values()) for parts in phases.values())
