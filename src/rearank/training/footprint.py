"""What is on a GPU in each phase of a training with verl, and in the machines' memory: GiB by part.

A phase is a moment of a step with everything that is on the GPU then; the largest is the peak. Counted for verl 0.9.1
with FSDP2 and vLLM on the same GPUs, one asleep while the other works. ``experiments/performance/memory.md`` lists
where verl's, vLLM's and torch's code shows each figure. Activations and logits are upper bounds; ``RUNTIME`` and
``GRAPHS`` are allowances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Lt

from rearank.checks import check_fields
from rearank.engines.architecture import Architecture

Offload: TypeAlias = Literal["none", "optimizer", "all"]
Parts: TypeAlias = Mapping[str, float]
"""Name -> GiB."""
Count: TypeAlias = Annotated[int, Ge(1)]

GIB = 2**30
GPU_GIB = 79.0  # what CUDA reports of an "80 GB" A100 or H100: 79.1 to 79.6
RUNTIME = 3.0  # GiB: two CUDA contexts, NCCL's buffers, vLLM's CUDA graphs, which stay while it sleeps
GRAPHS = 1.7  # GiB of those graphs, which vLLM sets aside inside its share before it counts the KV cache
ENTROPY_SLICE = 2048  # tokens: entropy_from_logits_chunk_size
FUSED_SLICE = 512  # tokens: chunk_size of FusedLinearForPPO
FUSED_FORWARD, FUSED_BACKWARD = 12, 20  # bytes of a slice's token and vocabulary entry, measured
BUCKET = 2.0  # GiB: rollout.checkpoint_engine.update_weights_bucket_megabytes

_ON_GPU: Mapping[Offload, Sequence[str]] = {"none": ("weights", "optimiser"), "optimizer": ("weights",), "all": ()}
_FLOAT, _HALF = 4, 2  # bytes of float32, bfloat16
_MASK = 3  # bytes a pair of tokens: torch's attention over a packed batch takes it as bool and as bfloat16
_ROLLOUT_TOKENS = 8192  # of one vLLM pass: rollout.max_num_batched_tokens


@dataclass(frozen=True)
class Workload:
    """What is trained, on how much, and how. The lengths are the paper's."""

    gpus: Count = 8  # of all machines together
    shards: Count | None = None  # GPUs that the state is split over; None for all of them
    tensor_parallel: Count = 1  # GPUs that one vLLM engine spans
    prompt_tokens: Count = 3072  # of the longest prompt
    answer_tokens: Count = 2048  # of the longest answer
    tokens_per_pass: Count = 16384  # of a forward and backward pass on one GPU (ppo_max_token_len_per_gpu)
    lora_rank: Count | None = None  # of the adapters; None trains all weights
    lora_base: Literal["float32", "bfloat16"] = "float32"  # precision of the frozen weights under them
    reference: bool = True  # a reference model is held for the KL; under LoRA none is
    critic: bool = False  # a value model is trained as well (PPO)
    offload: Offload = "none"  # what moves to the host while vLLM generates
    rollout_memory: Annotated[float, Gt(0), Lt(1)] = 0.6  # vLLM's share of the GPU (gpu_memory_utilization)
    gpu_gib: Annotated[float, Gt(0)] = GPU_GIB  # of one GPU, as CUDA reports it
    temperature: Annotated[float, Gt(0)] = 1.0  # of the rollouts; 1 spares a copy of the logits
    max_sequences: Count = 256  # answers that one vLLM engine works on at once
    gradient_checkpointing: bool = True  # only each layer's input is kept for the backward pass
    fused_kernels: bool = False  # logits are made and used up in slices, forward and backward
    liger: bool = False  # Liger's kernels for norms, rotation and MLP, which keep less for the backward pass
    whole_gradients: bool = False  # they stay unsplit until an update's last pass, which verl's files switch off
    flash_attention: bool = True  # the package flash-attn is installed

    def __post_init__(self) -> None:
        check_fields(self)
        if self.gpus % self.split:
            raise ValueError(f"shards ({self.shards}) must divide gpus ({self.gpus})")

    @property
    def whole_answer(self) -> int:
        """Tokens of the longest prompt with the longest answer."""
        return self.prompt_tokens + self.answer_tokens

    @property
    def whole_pass(self) -> int:
        """Tokens of the shortest pass that holds it: a multiple of 1,024."""
        return -(-self.whole_answer // 1024) * 1024

    @property
    def split(self) -> int:
        """GPUs that hold the weights together."""
        return self.shards or self.gpus


class Footprint:
    """Of a model with sizes ``a`` in the training ``work``: GiB by part in each phase, in the order of a step."""

    def __init__(self, a: Architecture, work: Workload) -> None:
        self.a, self.work = a, work
        self.lora = work.lora_rank is not None
        self.adapters = a.adapter_parameters(work.lora_rank) if work.lora_rank is not None else 0
        self.frozen = _HALF if self.lora and work.lora_base == "bfloat16" else _FLOAT  # bytes of a parameter
        trained = self.adapters or a.parameters
        # The optimiser's step takes the square roots of all second moments at once: as much as the gradients. Those of
        # adapters are float32 over any base.
        self.step = _gib(_FLOAT * trained / work.split)
        self.critic_step = _gib(_FLOAT * a.value_parameters / work.split) if work.critic else 0.0
        policy = {
            "weights": _gib((self.frozen * a.parameters + _FLOAT * self.adapters) / work.split),
            "gradients": self.step,
            "optimiser": 2 * self.step,
        }
        # torch sums them in the precision they are reduced in, whatever the weights' is.
        whole = {"whole gradients": _gib(_FLOAT * trained)} if work.whole_gradients else {}
        critic = {"weights": self.critic_step, "optimiser": 2 * self.critic_step}
        kept, weights = _ON_GPU[work.offload], {"weights": policy["weights"]}
        policy_at_rest = {name: policy[name] for name in kept}
        critic_at_rest = {"critic": sum(critic[name] for name in kept)} if work.critic and kept else {}
        self.generating = policy_at_rest | critic_at_rest
        # One weight at a time is handed over, but LoRA loads them all to give its adapters.
        self.handing_over = (weights if self.lora else {}) | self.generating
        self.measuring = weights | self.generating  # an offloaded optimiser is not loaded for a pass without update
        self.updating = policy | whole | critic_at_rest
        self.updating_critic = policy_at_rest | {"critic": 4 * self.critic_step}
        self.offloaded = sum(policy[name] + critic[name] for name in ("optimiser", "weights") if name not in kept)

    def training(self) -> dict[str, Parts]:
        """The phases in which the trainer has the GPU."""
        a, work, everything = self.a, self.work, not self.lora
        output = _gib(_HALF * a.embedding_parameters)
        masks = {} if work.flash_attention else {"attention mask": _gib(_MASK * work.tokens_per_pass**2)}
        rest = {**masks, "runtime": RUNTIME}
        kept, working = self._activations()

        def layer(*, trained: bool) -> Parts:
            return {"gathered": self._gathered(trained=trained), "activations": kept + working, **rest}

        phases: dict[str, Parts] = {
            "log-probabilities": {
                **self.measuring,
                "gathered": output,
                "activations": _gib(_HALF * a.hidden * work.tokens_per_pass),
                "logits": self._logits(training=False),
                **rest,
            }
        }
        if work.critic:
            phases["critic update"] = {**self.updating_critic, **layer(trained=True)}
            phases["critic step"] = {**self.updating_critic, "step": self.critic_step, "runtime": RUNTIME}
        phases["update at the logits"] = {
            **self.updating,
            "gathered": output * (2 if everything else 1),  # its gradient, too, before it is split
            "activations": kept,
            "logits": self._logits(training=True),
            **rest,
        }
        phases["update in a layer"] = {**self.updating, **layer(trained=everything)}
        phases["optimiser step"] = {**self.updating, "step": self.step, "runtime": RUNTIME}
        return phases

    def rollouts(self) -> dict[str, Parts]:
        """The phases in which vLLM has the GPU."""
        a, work, size = self.a, self.work, self.work.tensor_parallel
        weights = {"vllm weights": _gib(_HALF * (a.parameters + self.adapters) / size)}
        layer = _HALF * max(_ROLLOUT_TOKENS, work.whole_answer) * (3 * a.intermediate / size + 4 * a.hidden)
        # Logits of the answers under way: bfloat16, and float32 twice to draw from.
        activations = _gib(layer + (_HALF + 2 * _FLOAT) * work.max_sequences * a.vocabulary)
        cache = max(0.0, work.rollout_memory * work.gpu_gib - weights["vllm weights"] - activations - GRAPHS)
        # A parameter is put together in float32 and handed over in a buffer, or apart from it where it is larger
        # (_direct_send_large_weight). Adapters come from the host, and vLLM's side copies them twice.
        transfer = BUCKET + _gib(2 * _FLOAT * self.adapters if self.lora else _FLOAT * a.embedding_parameters)
        vllm = {**weights, "vllm activations": activations, "cuda graphs": GRAPHS, "kv cache": cache}
        return {
            "weights to vLLM": {**self.handing_over, **weights, "transfer": transfer, "runtime": RUNTIME},
            "generation": {**self.generating, **vllm, "runtime": RUNTIME},
        }

    def kv_tokens(self, cache: float) -> int:
        """That a KV cache of so many GiB a GPU holds; where GPUs are more than key heads, each has a copy of one."""
        heads = -(-self.a.kv_heads // self.work.tensor_parallel)
        return int(cache * GIB / (2 * _HALF * self.a.layers * heads * self.a.head_dim))

    def host(self) -> dict[str, Parts]:
        """GiB in the memory of all machines together: while weights are loaded, and from then on."""
        a, work, groups = self.a, self.work, self.work.gpus // self.work.split
        # FSDP2 keeps a model that only runs forward on the host.
        reference = _gib(_FLOAT * a.parameters * groups) if work.reference and not self.lora else 0.0
        # Whole, by one process of each group of GPUs; by all where embeddings are tied (init without meta tensors).
        who, copies = ("each process", work.gpus) if a.tied_embeddings else ("one process", groups)
        # Asleep, vLLM forgets its weights; under LoRA, where only adapters are sent again, it moves them here.
        asleep = _gib(_HALF * a.parameters * work.gpus / work.tensor_parallel) if self.lora else 0.0
        loaded = _gib(self.frozen * a.parameters * copies)
        phases = {
            "loading": {f"loaded by {who}": loaded, "reference": reference},
            "training": {"offloaded": work.gpus * self.offloaded, "reference": reference, "vllm asleep": asleep},
        }
        return {phase: {name: gib for name, gib in parts.items() if gib} for phase, parts in phases.items()}

    def _activations(self) -> tuple[float, float]:
        """GiB kept from forward to backward pass, and of the layer whose turn it is: saved values and gradients."""
        a, work = self.a, self.work
        saved, inputs = a.saved_by_a_layer(liger=work.liger), _HALF * a.hidden
        backward = _HALF * (2 * a.intermediate + 2 * a.hidden)
        kept, working = (inputs, backward + saved) if work.gradient_checkpointing else (saved, backward)
        return _gib(a.layers * kept * work.tokens_per_pass), _gib(working * work.tokens_per_pass)

    def _gathered(self, *, trained: bool) -> float:
        """GiB around one layer of a backward pass.

        This layer and the next in bfloat16 and the buffer they arrive in; where they are trained also the gradient, and
        its float32 copy that is summed over the GPUs. A tied embedding stays, and so must an output layer that fused
        kernels read.
        """
        layer = 3 * _HALF + (_HALF + _FLOAT if trained else 0)
        stays = self.a.tied_embeddings or self.work.fused_kernels
        embedding = _HALF * (2 if trained else 1) if stays else 0
        return _gib(layer * self.a.layer_parameters + embedding * self.a.embedding_parameters)

    def _logits(self, *, training: bool) -> float:
        """GiB of them, and of what is made of them, in the update or in the pass before it."""
        tokens, vocabulary = self.work.tokens_per_pass, self.a.vocabulary
        if self.work.fused_kernels:
            each, tokens = FUSED_BACKWARD if training else FUSED_FORWARD, min(FUSED_SLICE, tokens)
            # A slice's share of the output layer's gradient, before it is added to the others'.
            gradient = _HALF * self.a.embedding_parameters if training and not self.lora else 0
            return _gib(each * tokens * vocabulary + gradient)
        if not training:
            return _gib((_HALF * tokens + 3 * _FLOAT * min(ENTROPY_SLICE, tokens)) * vocabulary)
        if not self.work.flash_attention:
            return _gib(8 * tokens * vocabulary)
        return _gib((_HALF if self.work.temperature == 1 else 2 * _HALF) * tokens * vocabulary)


def total(parts: Parts) -> float:
    """GiB of all parts."""
    return sum(parts.values())


def largest(phases: Mapping[str, Parts]) -> str:
    """The phase that takes most."""
    return max(phases, key=lambda phase: total(phases[phase]))


def describe(parts: Parts) -> str:
    """``weights 3.5, gradients 3.5``: GiB, in their order; what rounds to nothing is left out."""
    return ", ".join(f"{name} {gib:.1f}" for name, gib in parts.items() if gib >= 0.05)


def _gib(size: float) -> float:
    return size / GIB
