"""Bytes of everything that a training with verl puts on a GPU; the package says where each figure comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rearank.engines.model import Architecture

Offload: TypeAlias = Literal["none", "optimizer", "all"]
Precision: TypeAlias = Literal["float32", "bfloat16"]
Parts: TypeAlias = Mapping[str, float]
"""Name -> GiB."""

OFFLOADS: tuple[Offload, ...] = ("none", "optimizer", "all")
GIB = 2**30
GPU_GIB = 79.0
"""What CUDA reports of an "80 GB" A100 or H100: 79.1 to 79.6."""
RUNTIME = 3.0
"""GiB: two CUDA contexts, NCCL's buffers, vLLM's CUDA graphs, which stay while it sleeps."""
GRAPHS = 1.7
"""GiB of those graphs, which vLLM sets aside inside its share before it counts the KV cache."""
SPARE = 0.05
"""Share of the GPU that the allocator can't use."""

_FLOAT, _HALF = 4, 2  # bytes of float32, bfloat16
_MASK = 3  # bytes a pair of tokens: torch's attention over a packed batch takes it as bool and as bfloat16
_ENTROPY_SLICE = 2048  # tokens: entropy_from_logits_chunk_size
_FUSED_SLICE = 512  # tokens: chunk_size of FusedLinearForPPO
_FUSED_FORWARD, _FUSED_BACKWARD = 12, 20  # bytes of a slice's token and vocabulary entry, measured
_BUCKET = 2.0  # GiB: rollout.checkpoint_engine.update_weights_bucket_megabytes
_ROLLOUT_TOKENS = 8192  # of one vLLM pass: rollout.max_num_batched_tokens


@dataclass(frozen=True)
class Workload:
    """What is trained, on how much, and how. The lengths are the paper's.

    Args:
        gpus: of all machines together.
        shards: GPUs that weights, gradients and optimiser are split over; fewer than ``gpus`` where every machine has
            all of them (``cluster.shard_within_node``); ``None`` for all.
        tensor_parallel: GPUs that one vLLM engine spans.
        prompt_tokens: of the longest prompt.
        answer_tokens: of the longest answer.
        tokens_per_pass: of one forward and backward pass on one GPU (verl's ``ppo_max_token_len_per_gpu``).
        lora_rank: of the adapters; ``None`` trains all weights.
        lora_base: precision of the frozen weights under them.
        reference: a reference model is held for the KL; under LoRA none is.
        critic: a value model is trained as well (PPO).
        offload: what moves to the host while vLLM generates: ``none``, the ``optimizer`` state, or ``all``.
        rollout_memory: vLLM's share of the GPU (``gpu_memory_utilization``).
        gpu_gib: of one GPU, as CUDA reports it.
        temperature: of the rollouts; 1 spares a copy of the logits.
        max_sequences: answers that one vLLM engine works on at once.
        gradient_checkpointing: only each layer's input is kept for the backward pass.
        fused_kernels: logits are made and used up in slices, forward and backward.
        liger: Liger's kernels for norms, rotation and MLP, which keep less for the backward pass.
        whole_gradients: they are summed unsplit until an update's last pass (verl's
            ``use_no_sync_for_gradient_accumulation``, off in its files).
        flash_attention: the package flash-attn is installed.
    """

    gpus: int = 8
    shards: int | None = None
    tensor_parallel: int = 1
    prompt_tokens: int = 3072
    answer_tokens: int = 2048
    tokens_per_pass: int = 16384
    lora_rank: int | None = None
    lora_base: Precision = "float32"
    reference: bool = True
    critic: bool = False
    offload: Offload = "none"
    rollout_memory: float = 0.6
    gpu_gib: float = GPU_GIB
    temperature: float = 1.0
    max_sequences: int = 256
    gradient_checkpointing: bool = True
    fused_kernels: bool = False
    liger: bool = False
    whole_gradients: bool = False
    flash_attention: bool = True

    def __post_init__(self) -> None:
        for name in ("gpus", "tensor_parallel", "prompt_tokens", "answer_tokens", "tokens_per_pass", "max_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.lora_rank is not None and self.lora_rank < 1:
            raise ValueError(f"lora_rank must be at least 1, not {self.lora_rank}")
        if self.shards is not None and (self.shards < 1 or self.gpus % self.shards):
            raise ValueError(f"shards ({self.shards}) must divide gpus ({self.gpus})")
        if self.offload not in OFFLOADS:
            raise ValueError(f"offload must be one of {', '.join(OFFLOADS)}, not {self.offload!r}")
        if not 0 < self.rollout_memory < 1:
            raise ValueError(f"rollout_memory is a share of the GPU, between 0 and 1; not {self.rollout_memory}")
        if self.gpu_gib <= 0 or self.temperature <= 0:
            raise ValueError("gpu_gib and temperature must be above 0")

    @property
    def whole_answer(self) -> int:
        """Tokens of the longest prompt with the longest answer."""
        return self.prompt_tokens + self.answer_tokens

    @property
    def split(self) -> int:
        """GPUs that hold the weights together."""
        return self.shards or self.gpus

    @property
    def replicas(self) -> int:
        """Such groups of GPUs."""
        return self.gpus // self.split

    @property
    def weight_bytes(self) -> int:
        """Of one of the policy's parameters; under LoRA, of the frozen ones."""
        return _HALF if self.lora_rank is not None and self.lora_base == "bfloat16" else _FLOAT


def lora_parameters(architecture: Architecture, rank: int) -> int:
    """Of adapters on every linear layer but the output (peft's ``all-linear``)."""
    a = architecture
    attention = 2 * (a.hidden + a.query_width) + 2 * (a.hidden + a.key_width)
    return rank * a.layers * (attention + 3 * (a.hidden + a.intermediate))


def value_parameters(architecture: Architecture) -> int:
    """Of the model with a head of one number, weights and bias, in place of its output layer."""
    output = 0 if architecture.tied_embeddings else architecture.embedding_parameters
    return architecture.parameters - output + architecture.hidden + 1


def saved_by_a_layer(architecture: Architecture, *, liger: bool = False) -> int:
    """Bytes a token that torch keeps for the backward pass of one layer in bfloat16 with a fused attention kernel.

    Two norms: their input in float32, the normalised values and the output. Attention: queries, keys, values, output;
    with ``qk_norm`` also the input in float32 and the normalised values of queries and keys. MLP: gate, activated gate,
    up, and their product. Liger keeps a norm's input as it came and its output, and computes the activated gate again.
    """
    a, widths = architecture, architecture.query_width + architecture.key_width
    norms = 2 * (2 * _HALF if liger else _FLOAT + 2 * _HALF) * a.hidden
    attention = 2 * _HALF * widths
    if a.qk_norm:
        attention += (_HALF if liger else _FLOAT + _HALF) * widths
    return norms + attention + (3 if liger else 4) * _HALF * a.intermediate


class State:
    """Weights, gradients and optimiser of policy and critic: GiB of one GPU, at each moment of a step."""

    def __init__(self, architecture: Architecture, workload: Workload) -> None:
        adapters = _adapters(architecture, workload)
        trained = adapters or architecture.parameters
        valued = value_parameters(architecture) if workload.critic else 0
        self.lora = workload.lora_rank is not None
        self.offload = workload.offload
        size, split = workload.weight_bytes, workload.split
        self.weights = _gib((size * architecture.parameters + _FLOAT * adapters) / split)
        self.gradients = _gib(_FLOAT * trained / split)  # adapters are float32 over any base
        self.critic_weights = _gib(_FLOAT * valued / split)
        # torch sums them in the precision they are reduced in, whatever the weights' is.
        self.whole_gradients = _gib(_FLOAT * trained) if workload.whole_gradients else 0.0
        self.moments, self.critic_moments = 2 * self.gradients, 2 * self.critic_weights

    def updating(self) -> dict[str, float]:
        """In the policy's update; of the critic what was not offloaded."""
        parts = {"weights": self.weights, "gradients": self.gradients, "optimiser": self.moments}
        parts |= {"whole gradients": self.whole_gradients} if self.whole_gradients else {}
        return parts | self._critic_at_rest()

    def updating_critic(self) -> dict[str, float]:
        """In the critic's update, its gradients included; of the policy what was not offloaded."""
        return self._policy_at_rest() | {"critic": 2 * self.critic_weights + self.critic_moments}

    def measuring(self) -> dict[str, float]:
        """In a pass of the policy that trains nothing: an offloaded optimiser is not loaded for it."""
        return {"weights": self.weights} | self._policy_at_rest() | self._critic_at_rest()

    def handing_over(self) -> dict[str, float]:
        """While vLLM is given the weights: one at a time, but LoRA loads them all to give its adapters."""
        loaded = {"weights": self.weights} if self.lora else {}
        return loaded | self.resting()

    def resting(self) -> dict[str, float]:
        """While vLLM generates."""
        return self._policy_at_rest() | self._critic_at_rest()

    def offloaded(self) -> float:
        """GiB of the host, while vLLM generates."""
        moments = 0.0 if self.offload == "none" else self.moments + self.critic_moments
        return moments + (self.weights + self.critic_weights if self.offload == "all" else 0.0)

    def _policy_at_rest(self) -> dict[str, float]:
        weights = {} if self.offload == "all" else {"weights": self.weights}
        return weights | ({"optimiser": self.moments} if self.offload == "none" else {})

    def _critic_at_rest(self) -> dict[str, float]:
        weights = 0.0 if self.offload == "all" else self.critic_weights
        held = weights + (self.critic_moments if self.offload == "none" else 0.0)
        return {"critic": held} if held else {}


def training_phases(a: Architecture, workload: Workload, state: State) -> dict[str, Parts]:
    """The moments of a step in which the trainer has the GPU, in their order."""
    tokens, everything = workload.tokens_per_pass, workload.lora_rank is None
    runtime = {"runtime": RUNTIME}
    masks = {} if workload.flash_attention else {"attention mask": _gib(_MASK * tokens**2)}
    kept, working = _activations(a, workload)
    phases: dict[str, Parts] = {
        "log-probabilities": {
            **state.measuring(),
            "gathered": _gib(_HALF * a.embedding_parameters),
            "activations": _gib(_HALF * a.hidden * tokens),
            "logits": _logits(a, workload, training=False),
            **masks,
            **runtime,
        }
    }
    if workload.critic:
        layer = {"gathered": _gathered(a, workload, trained=True), "activations": kept + working, **masks}
        phases["critic update"] = {**state.updating_critic(), **layer, **runtime}
        phases["critic step"] = {**state.updating_critic(), "step": state.critic_weights, **runtime}
    phases["update at the logits"] = {
        **state.updating(),
        # The output layer's weights, and its gradient before it is sharded.
        "gathered": _gib(_HALF * a.embedding_parameters * (2 if everything else 1)),
        "activations": kept,
        "logits": _logits(a, workload, training=True),
        **masks,
        **runtime,
    }
    layer = {"gathered": _gathered(a, workload, trained=everything), "activations": kept + working, **masks}
    phases["update in a layer"] = {**state.updating(), **layer, **runtime}
    phases["optimiser step"] = {**state.updating(), "step": state.gradients, **runtime}
    return phases


def rollout_phases(a: Architecture, workload: Workload, state: State) -> tuple[dict[str, Parts], int]:
    """The moments in which vLLM has the GPU, and the tokens that the KV cache of one engine (all its GPUs) holds."""
    size = workload.tensor_parallel
    adapters = _adapters(a, workload)
    weights = _gib(_HALF * (a.parameters + adapters) / size)
    tokens = max(_ROLLOUT_TOKENS, workload.whole_answer)
    layer = _HALF * tokens * (3 * a.intermediate / size + 4 * a.hidden)
    # Logits of the answers under way: bfloat16, and float32 twice to draw from.
    activations = _gib(layer + (_HALF + 2 * _FLOAT) * workload.max_sequences * a.vocabulary)
    cache = max(0.0, workload.rollout_memory * workload.gpu_gib - weights - activations - GRAPHS)
    heads = -(-a.kv_heads // size)  # more GPUs than key heads: each has a copy
    per_token = 2 * _HALF * a.layers * heads * a.head_dim
    phases: dict[str, Parts] = {
        "weights to vLLM": {
            **state.handing_over(),
            "vllm weights": weights,
            # A parameter is put together in float32 and handed over in a buffer, or beside it where it is larger
            # (_direct_send_large_weight). Adapters come from the host, and vLLM's side copies them twice.
            "transfer": _BUCKET + _gib(2 * _FLOAT * adapters if adapters else _FLOAT * a.embedding_parameters),
            "runtime": RUNTIME,
        },
        "generation": {
            **state.resting(),
            "vllm weights": weights,
            "vllm activations": activations,
            "cuda graphs": GRAPHS,
            "kv cache": cache,
            "runtime": RUNTIME,
        },
    }
    return phases, int(cache * GIB / per_token)


def host_phases(a: Architecture, workload: Workload, state: State) -> dict[str, Parts]:
    """GiB in the memory of all machines together: while weights are loaded, and from then on."""
    reference = workload.reference and workload.lora_rank is None
    held = {"reference": _gib(_FLOAT * a.parameters * workload.replicas)} if reference else {}
    # Whole, by one process of each group of GPUs; by every one where embeddings are tied (init without meta tensors).
    who, copies = ("each process", workload.gpus) if a.tied_embeddings else ("one process", workload.replicas)
    loaded = {f"loaded by {who}": _gib(workload.weight_bytes * a.parameters * copies)}
    training = {"offloaded": workload.gpus * state.offloaded(), **held}
    if workload.lora_rank is not None:
        # Asleep, vLLM forgets its weights; under LoRA, where only adapters are sent again, it moves them here.
        training["vllm asleep"] = _gib(_HALF * a.parameters * workload.gpus / workload.tensor_parallel)
    phases = {"loading": {**loaded, **held}, "training": training}
    return {phase: {name: gib for name, gib in parts.items() if gib} for phase, parts in phases.items()}


def _activations(a: Architecture, workload: Workload) -> tuple[float, float]:
    """GiB kept from forward to backward pass, and of the layer whose turn it is: saved values, passing gradients."""
    saved = saved_by_a_layer(a, liger=workload.liger)
    backward = _HALF * (2 * a.intermediate + 2 * a.hidden)
    kept = a.layers * (_HALF * a.hidden if workload.gradient_checkpointing else saved)
    working = backward + (saved if workload.gradient_checkpointing else 0)
    return _gib(kept * workload.tokens_per_pass), _gib(working * workload.tokens_per_pass)


def _gathered(a: Architecture, workload: Workload, *, trained: bool) -> float:
    """GiB around one layer of a backward pass: this layer and the next in bfloat16 and the buffer they arrive in; where
    they are trained also the gradient, and its float32 copy that is summed over the GPUs. A tied embedding stays, and
    so must an output layer that fused kernels read."""
    layer = 3 * _HALF + (_HALF + _FLOAT if trained else 0)
    stays = a.tied_embeddings or workload.fused_kernels
    embedding = _HALF * (2 if trained else 1) if stays else 0
    return _gib(layer * a.layer_parameters + embedding * a.embedding_parameters)


def _logits(a: Architecture, workload: Workload, *, training: bool) -> float:
    """GiB of them, and of what is made of them, in the update or in the pass before it."""
    tokens = workload.tokens_per_pass
    if workload.fused_kernels:
        each, tokens = _FUSED_BACKWARD if training else _FUSED_FORWARD, min(_FUSED_SLICE, tokens)
        # A slice's share of the output layer's gradient, before it is added to the others'.
        gradient = _HALF * a.embedding_parameters if training and workload.lora_rank is None else 0
        return _gib(each * tokens * a.vocabulary + gradient)
    if not training:
        return _gib((_HALF * tokens + 3 * _FLOAT * min(_ENTROPY_SLICE, tokens)) * a.vocabulary)
    if not workload.flash_attention:
        return _gib(8 * tokens * a.vocabulary)
    return _gib((_HALF if workload.temperature == 1 else 2 * _HALF) * tokens * a.vocabulary)


def _adapters(a: Architecture, workload: Workload) -> int:
    return 0 if workload.lora_rank is None else lora_parameters(a, workload.lora_rank)


def _gib(size: float) -> float:
    return size / GIB
