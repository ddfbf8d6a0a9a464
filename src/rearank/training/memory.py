"""The memory plan of a run with ``trainer=verl``: whether it fits its GPUs, with which settings, and what to change.

``estimate`` a plan of given settings · ``recommend`` the fastest that fits · ``MemoryPlan.problems`` what to change
where none does · ``python -m rearank.training.memory`` a table of all nodes in ``conf/model``. What is counted, and
how, is in ``rearank.training.footprint``. Nothing heavy is imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Any, get_args

from rearank.engines.model import Architecture, Model
from rearank.training.footprint import GPU_GIB, Footprint, Offload, Parts, Workload, describe, largest, total

__all__ = ["GPU_GIB", "MemoryPlan", "Workload", "describe", "estimate", "recommend"]

LORA_RANK = 32
MACHINE = 8  # GPUs at most in one machine
SPARE = 0.05  # share of the GPU that the allocator can't use: an allowance

_OFFLOADS: tuple[Offload, ...] = get_args(Offload)  # what takes most of the GPU first
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
        """All of one GPU."""
        return {**self.training, **self.rollouts}

    @property
    def kv_answers(self) -> int:
        """Answers of full length, each with a prompt of its own, that fit the KV cache; groups share their prompt."""
        return self.kv_tokens // self.workload.whole_answer

    @property
    def peak_phase(self) -> str:
        """The phase that takes most."""
        return largest(self.phases)

    @property
    def peak(self) -> float:
        """GiB of that phase."""
        return max(map(total, self.phases.values()))

    @property
    def capacity(self) -> float:
        """GiB that may be used of a GPU."""
        return self.workload.gpu_gib * (1 - SPARE)

    @property
    def host_peak(self) -> float:
        """GiB of all machines together."""
        return max(map(total, self.host.values()))

    @property
    def fits(self) -> bool:
        """Whether nothing keeps it from running."""
        return not self.faults()

    def gib(self, phase: str) -> float:
        """All parts of ``phase``."""
        return total(self.phases[phase])

    def settings(self) -> tuple[str, ...]:
        """The trainer's settings as overrides of our config."""
        names = ("offload", "gradient_checkpointing", "tokens_per_pass", "rollout_memory", "tensor_parallel")
        lora = ("lora_rank",) if self.workload.lora_rank else ()
        return tuple(_override(name, getattr(self.workload, name)) for name in (*lora, *names))

    def problems(self) -> list[str]:
        """What keeps it from running, each with a remedy; empty where it fits."""
        return [f"{text}: {_remedy(self, topic)}" for topic, text in self.faults().items()]

    def faults(self) -> dict[str, str]:
        """What keeps it from running: topic -> text."""
        work, heads, found = self.workload, self.architecture.heads, {}
        whole = f"one prompt with its answer ({work.whole_answer})"
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
            given = f"trainer.tokens_per_pass={work.tokens_per_pass}"
            found["tokens"] = f"{given} is less than {whole}, which verl refuses"
        for topic, phases in (("training", self.training), ("rollouts", self.rollouts)):
            parts = phases[phase := largest(phases)]
            if total(parts) > self.capacity:
                sums = f"{phase} takes {total(parts):.1f} GiB and a GPU has {self.capacity:.1f} to give"
                found[topic] = f"{sums} ({describe(parts)})"
        if "rollouts" not in found and self.kv_answers < 1:
            share = f"trainer.rollout_memory={work.rollout_memory:g}"
            found["kv cache"] = f"{share} leaves a KV cache of {self.kv_tokens} tokens, less than {whole}"
        return found


def estimate(architecture: Architecture, workload: Workload) -> MemoryPlan:
    """GiB by phase and part on each GPU, and on the hosts."""
    taken = Footprint(architecture, workload)
    rollouts = taken.rollouts()
    kv_tokens = taken.kv_tokens(rollouts["generation"]["kv cache"])
    return MemoryPlan(architecture, workload, taken.training(), rollouts, taken.host(), kv_tokens)


def recommend(architecture: Architecture, given: Workload, fixed: Mapping[str, Any] | None = None) -> MemoryPlan:
    """The fastest plan that fits; where none does, the one that misses by least: see its ``fits`` and ``problems()``.

    Faster is, in this order (by estimate; nobody has measured these times):

    1. a KV cache for many answers, because a step waits for its rollouts first;
    2. engines on few GPUs, which exchange less with each other;
    3. nothing offloaded;
    4. no gradient checkpointing: training is four fifths of a step, and a layer computed again is a quarter of the
       update's work. Where weights are split over several machines long passes go first, since gathers between
       machines don't hide behind the computation;
    5. long passes: fewer gathers, and less of a pass left empty. Without flash-attention short ones: each token is then
       compared with every other of its pass.

    4 and passes above 16,384 tokens are only taken where training leaves a tenth of the GPU free; so does the rest
    where that costs no answers, or at least a thirtieth.

    Args:
        architecture: the model's sizes.
        given: the run; its ``tensor_parallel``, ``offload``, ``gradient_checkpointing``, ``tokens_per_pass`` and
            ``rollout_memory`` are chosen anew...
        fixed: ...but those that are not ``None`` here.
    """
    bold, careful = (list(_candidates(architecture, given, fixed or {}, careful=c)) for c in (False, True))
    for answers, room in product(_ANSWERS, _ROOMS):
        for plan in (*bold, *careful):
            if plan.kv_answers >= answers and plan.peak <= plan.capacity * (1 - room) and plan.fits:
                return plan
    return min(careful, key=lambda plan: (len(plan.faults()), plan.peak))


def _candidates(
    architecture: Architecture, given: Workload, fixed: Mapping[str, Any], *, careful: bool
) -> Iterator[MemoryPlan]:
    """Fast ones first; ``careful`` leaves out what takes memory for speed alone."""

    def choices(name: str, of: Sequence[Any]) -> Sequence[Any]:
        return of if fixed.get(name) is None else [fixed[name]]

    longer = (_CAREFUL_PASSES if careful else _PASSES) if given.flash_attention else ()
    passes = sorted({given.whole_pass, *(tokens for tokens in longer if tokens > given.whole_pass)}, reverse=True)
    checkpointing = choices("gradient_checkpointing", [True] if careful else [False, True])
    ways = list(product(checkpointing, choices("tokens_per_pass", passes)))
    if given.split > MACHINE:
        ways.sort(key=lambda way: -way[1])
    engines = choices("tensor_parallel", _tensor_parallel_sizes(architecture, given.gpus))
    for size, offload, (checkpointed, tokens) in product(engines, choices("offload", _OFFLOADS), ways):
        work = replace(given, tensor_parallel=size, offload=offload, tokens_per_pass=tokens)
        plan = estimate(architecture, replace(work, gradient_checkpointing=checkpointed))
        if careful or max(map(total, plan.training.values())) <= plan.capacity * (1 - _ROOMS[0]):
            works = [replace(plan.workload, rollout_memory=share) for share in choices("rollout_memory", _SHARES)]
            yield from sorted((estimate(architecture, work) for work in works), key=_idle)


def _idle(plan: MemoryPlan) -> tuple[bool, float]:
    """Sorts the smallest KV cache that is never full first, then the others, large ones first."""
    share, never_full = plan.workload.rollout_memory, plan.kv_answers >= plan.workload.max_sequences
    return not never_full, share if never_full else -share


def _remedy(plan: MemoryPlan, topic: str) -> str:
    work, lengths = plan.workload, "lower model.max_tokens or trainer.max_prompt_tokens"
    if topic == "context":
        return lengths
    if topic == "tensor parallel":
        sizes = _tensor_parallel_sizes(plan.architecture, work.gpus)
        return f"set trainer.tensor_parallel={' or '.join(map(str, sizes))}"
    if topic == "tokens":
        return f"set trainer.tokens_per_pass={work.whole_pass}, or {lengths}"
    cures = []
    for kind in _changes(plan):
        # Room for vLLM that leaves it no KV cache is no cure, nor is the reverse.
        related = {topic} if topic == "training" else {"rollouts", "kv cache"}
        cured = (text for text, changed in kind if not related & estimate(plan.architecture, changed).faults().keys())
        cures += list(islice(cured, 1))
    if cures:
        return f"set {', or '.join(cures)}; or take a smaller model (model=...)"
    return "take more GPUs (cluster.nodes, cluster.gpus_per_node) or a smaller model (model=...)"


def _changes(plan: MemoryPlan) -> Iterator[list[tuple[str, Workload]]]:
    """Settings to try, kind by kind; of each kind what changes least comes first."""
    work = plan.workload

    def kind(name: str, values: Sequence[Any]) -> list[tuple[str, Workload]]:
        return [(_override(name, value), replace(work, **{name: value})) for value in values]

    yield kind("gradient_checkpointing", [] if work.gradient_checkpointing else [True])
    yield kind("tokens_per_pass", range(work.tokens_per_pass // 1024 * 1024, work.whole_pass - 1, -1024))
    yield kind("rollout_memory", sorted(_SHARES, key=lambda share: abs(share - work.rollout_memory)))
    yield kind("offload", _OFFLOADS[_OFFLOADS.index(work.offload) + 1 :])
    if work.lora_rank is None:
        [(lora, adapted)], least = kind("lora_rank", [LORA_RANK]), work.whole_pass
        both = f"{lora} {_override('tokens_per_pass', least)}"
        yield [(lora, adapted), (both, replace(adapted, tokens_per_pass=least))]
    sizes = _tensor_parallel_sizes(plan.architecture, work.gpus)
    yield kind("tensor_parallel", [size for size in sizes if size > work.tensor_parallel])
    if work.split < work.gpus:
        yield [("cluster.shard_within_node=false", replace(work, shards=None))]
    else:
        more = [number for number in (2, 4, 8, 16, 32, 64) if number > work.gpus]
        yield [(_gpus(number), replace(work, gpus=number, shards=None)) for number in more]


def _override(name: str, value: Any) -> str:
    if name == "lora_rank":
        return f"'trainer.lora={{_target_: rearank.training.base.Lora, rank: {value}}}'"
    shown = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
    return f"trainer.{name}={shown}"


def _gpus(number: int) -> str:
    here = f"cluster.gpus_per_node={min(number, MACHINE)}"
    return here if number <= MACHINE else f"cluster.nodes={number // MACHINE} {here}"


def _tensor_parallel_sizes(architecture: Architecture, gpus: int) -> list[int]:
    return [n for n in range(1, min(gpus, MACHINE) + 1) if gpus % n == 0 and architecture.heads % n == 0]


def models(folder: Path) -> list[tuple[Model, Architecture]]:
    """The nodes in ``folder`` whose sizes are known, small ones first; of those of the same sizes the first by name.

    Raises ``ValueError`` where ``folder`` holds none.
    """
    from omegaconf import OmegaConf

    from rearank.config import build

    found: dict[Architecture, Model] = {}
    for file in sorted(folder.glob("*.yaml")):
        node: Any = OmegaConf.load(file)
        if "_target_" not in node or OmegaConf.is_missing(node, "path"):
            continue  # others' weights with another prompt, or nobody's yet
        node.pop("defaults", None)  # what it chooses in other groups
        model: Model = build(node, "model")
        if sizes := model.sizes:
            found.setdefault(sizes, model)
    if not found:
        raise ValueError(f"{folder} holds no model whose sizes are known; run this in the project's folder")
    return sorted(((found[sizes], sizes) for sizes in found), key=lambda pair: (pair[1].parameters, pair[0].name))


def table(found: Sequence[tuple[Model, Architecture]], prompt_tokens: int, gpus: Sequence[int] = (1, MACHINE)) -> str:
    """Markdown: a row for every model, number of GPUs, and way to train; under it a remedy for each that doesn't fit.

    Answers are as long as the model's ``max_tokens``; prompts as long as its context then lets them be, and
    ``prompt_tokens`` at most.
    """
    from rearank.evaluation import render_table

    rows, remedies = [], []
    for (model, sizes), number, rank in product(found, gpus, (None, LORA_RANK)):
        prompt = max(1, min(prompt_tokens, sizes.context - model.max_tokens))
        work = Workload(number, prompt_tokens=prompt, answer_tokens=model.max_tokens, lora_rank=rank)
        plan = recommend(sizes, work)
        rows.append(_row(model.name, plan))
        where = f"{model.name}, {number} GPU{'s' if number > 1 else ''}, {rows[-1]['trained']}"
        remedies += [f"- {where}: {problem}" for problem in plan.problems()]
    return "\n".join([render_table(rows), *(["", *remedies] if remedies else [])])


def _row(name: str, plan: MemoryPlan) -> dict[str, str | int]:
    work, size = plan.workload, plan.architecture.parameters
    training = largest(plan.training)
    row: dict[str, str | int] = {
        "model": name,
        "parameters": f"{size / 1e9:.2f}B" if size >= 1e8 else f"{size / 1e6:.1f}M",
        "GPUs": work.gpus,
        "trained": "all" if work.lora_rank is None else f"LoRA {work.lora_rank}",
        "offload": work.offload,
        "checkpointing": "yes" if work.gradient_checkpointing else "no",
        "tokens per pass": str(work.tokens_per_pass),
        "rollout memory": f"{work.rollout_memory:.2f}",
        "tensor parallel": str(work.tensor_parallel),
        "training's largest phase": training,
        "its GiB by part": describe(plan.training[training]),
        "training GiB": f"{plan.gib(training):.1f}",
        "generation GiB": f"{plan.gib('generation'):.1f}",
        "KV tokens": str(plan.kv_tokens),
        "whole answers": str(plan.kv_answers),
        "host GiB": f"{plan.host_peak:.0f}",
        "fits": "yes" if plan.fits else "no",
    }
    chosen = ("offload", "checkpointing", "tokens per pass", "rollout memory", "tensor parallel")
    return row if plan.fits else row | dict.fromkeys((*chosen, "KV tokens", "whole answers"), "-")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the expected GPU memory of training each model with verl, by part."""
    from omegaconf import OmegaConf

    parser = argparse.ArgumentParser(prog="python -m rearank.training.memory", description=main.__doc__)
    parser.add_argument("--models", type=Path, default=Path("conf/model"), help="folder of model nodes")
    parser.add_argument("--prompt-tokens", type=int, help="of the longest prompt; trainer=verl's, where not given")
    parser.add_argument("--into", type=Path, help="a Markdown file: put the table in place of the one at its end")
    chosen = parser.parse_args(arguments)
    if chosen.into is not None and not chosen.into.is_file():
        parser.error(f"--into {chosen.into}: no such file; it must hold the text above the table")
    trainer = chosen.models.parent / "trainer" / "verl.yaml"
    try:
        found = models(chosen.models)
        printed = table(found, chosen.prompt_tokens or int(OmegaConf.load(trainer).max_prompt_tokens))
    except OSError as error:
        parser.error(f"{trainer}: can't be read ({error.strerror}); set --prompt-tokens")
    except ValueError as error:
        parser.error(str(error))
    if chosen.into is None:
        print(printed)
    else:
        text = chosen.into.read_text().partition("\n| model ")[0]
        chosen.into.write_text(f"{text}\n{printed}\n")


if __name__ == "__main__":
    main()
