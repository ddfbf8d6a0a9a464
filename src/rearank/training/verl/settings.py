"""What ``trainer=verl`` and the config's section ``cluster`` say: values alone, which everything here reads.

``node`` puts the verbs on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Interval

from rearank.algorithms import PolicyGradient
from rearank.checks import check_fields
from rearank.runs import INCIDENTAL
from rearank.training.base import Lora, TrainingError
from rearank.training.guard import Guard
from rearank.training.verl.hiding import check_variables, values_of

Positive = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class Cluster:
    """The Ray cluster that a training runs on.

    Args:
        address: ``null`` starts a Ray of the run's own on this machine and stops it at the end; ``auto`` joins the
            cluster this machine belongs to; ``ray://host:10001`` one elsewhere. A Ray that was there is left as it was.
        nodes: machines that train.
        gpus_per_node: GPUs of each.
        gpu_gib: memory of each, to plan by; ``null`` for what is seen here, or 79 (an 80 GB GPU) where none is.
        shard_within_node: hold a whole copy of the training's state on every machine, spread over its own GPUs (HSDP):
            between machines only gradients travel. Otherwise the state is spread over all GPUs.
        cpus: cores that a Ray of our own counts; ``null`` for the machine's, or more where verl's actors ask for more.
        runtime_env: Ray's, for an existing cluster whose machines lack this code: ``{working_dir: ...}``, ``env_vars``.
            Its values, too, are written to no file and not to W&B.
        env: environment variables of every process of the run, on every machine: ``{NCCL_SOCKET_IFNAME: eth0}``;
            ``null`` takes this process's own value. Values are written to no file and not to W&B: see ``hiding``.
        seconds_to_sync: for a transfer of weights to the rollout engines; a dead one ends the run after it.
    """

    address: str | None = None
    nodes: Positive = 1
    gpus_per_node: Positive = 8
    gpu_gib: float | None = None
    shard_within_node: bool = False
    cpus: Positive | None = None
    runtime_env: dict[str, Any] = field(default_factory=dict, repr=False)
    env: dict[str, Any] = field(default_factory=dict, repr=False)
    seconds_to_sync: Annotated[float, Gt(0)] = 120.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.address is None and self.nodes > 1:
            raise ValueError(
                f"nodes={self.nodes} needs a Ray cluster over these machines: start one (ray start) and set "
                "cluster.address=auto on its head, or cluster.address=ray://host:10001"
            )
        check_variables(self.env, self.runtime_env)

    def environment(self) -> dict[str, str]:
        """``env`` and ``runtime_env.env_vars``, as every process of the run gets them.

        Raises ``TrainingError`` for a ``null`` without a value in this process's environment.
        """
        if missing := self.preflight():
            raise TrainingError("\n".join(missing))
        return {name: value for name, value in values_of(self.env, self.runtime_env).items() if value is not None}

    def preflight(self) -> list[str]:
        """Variables that are to be taken from this process's environment, and aren't in it."""
        return [
            f"cluster: the environment variable {name} is to have this process's own value (null), and there is none "
            f"here; export it, or give a value (+cluster.env.{name}=...)"
            for name, value in values_of(self.env, self.runtime_env).items()
            if value is None
        ]

    @property
    def gpus(self) -> int:
        """Of all nodes."""
        return self.nodes * self.gpus_per_node

    @property
    def shards(self) -> int:
        """Over how many GPUs a copy of the training's state is spread (verl's ``fsdp_size``)."""
        return self.gpus_per_node if self.shard_within_node else self.gpus


@dataclass(frozen=True)
class Lengths:
    """In tokens: the longest prompt and the longest answer that are allowed."""

    prompt: int
    answer: int

    @property
    def total(self) -> int:
        """Of both."""
        return self.prompt + self.answer


@dataclass(frozen=True)
class VerlSettings:
    """Of verl on a Ray cluster, with vLLM rollouts on the same GPUs.

    Args:
        cluster: where.
        lora: adapters instead of all weights; ``null`` trains all.
        tensor_parallel: GPUs a rollout engine spans. This and the next four: ``null`` for the fastest that fits the
            GPUs by ``rearank.training.memory``, given those that are set.
        tokens_per_pass: prompt and answer tokens a GPU takes in one forward and backward pass.
        offload: what leaves the GPU while answers are sampled: ``none``, the ``optimizer``, or ``all`` of the training.
        rollout_memory: share of a GPU's memory for the rollout engine, weights included.
        max_sequences: answers a rollout engine works on at once.
        max_prompt_tokens: longer prompts are left out, and counted before anything starts.
        gradient_checkpointing: keep only each layer's input for the backward pass: less memory, a third more time.
        shared_prompt: compute the prompt that a group's answers share once, in one row with all of them, for the update
            and for log-probabilities; a group stays on one GPU, and in one pass where it fits (``tokens_per_pass``
            counts its prompt once). ``auto`` does so where the model allows it, ``true`` fails where it doesn't. Its
            attention on GPUs is ``flex_attention``, which is tried against torch's own before the first step, or, with
            ``attention=sdpa``, torch's own with a mask of tokens x tokens.
        fused_kernels: compute log-probabilities and entropy without holding the logits (verl's ``use_fused_kernels``).
        liger: Liger's kernels for norms, rotation and MLP (package liger-kernel; GPUs only).
        lora_base: precision of the frozen weights under ``lora``; adapters are trained in float32.
        layered_summon: under ``lora``, gather adapters a layer at a time (verl's ``rollout.layered_summon``). FSDP2
            gathers each by itself anyway, so that little is saved.
        attention: ``auto``: flash-attention where it is installed, torch's own otherwise.
        save_every: steps between two checkpoints to resume from; at a validation between them only weights are written.
        keep: how many of them stay, the best one aside.
        validate_every: steps between two validations (and before the first).
        validate_on: ``windows``; whole ``lists`` (as ``trainer=trl`` has them) are refused.
        rollout_samples: sampled answers written down at every validation.
        rollout_workers: processes that feed the rollout engines.
        reward_workers: processes that score; scoring runs while other answers are still being sampled.
        guard: when to stop early.
        seed_answers: give every sampled answer a seed of its own, so that a resumed run draws what was lost again;
            ``null`` does so on CPUs, since vLLM serves seeded requests one by one and a GPU would wait.
        device: ``cuda``, or ``cpu`` for tests and trials (extra ``cluster-cpu``).
        verl: any key of verl's own config, as a tree: ``+trainer.verl.actor_rollout_ref.actor.ppo_epochs=2``.
    """

    cluster: Cluster = field(metadata=INCIDENTAL)
    lora: Lora | None = None
    tensor_parallel: Positive | None = field(default=None, metadata=INCIDENTAL)
    tokens_per_pass: Positive | None = field(default=None, metadata=INCIDENTAL)
    offload: Literal["none", "optimizer", "all"] | None = field(default=None, metadata=INCIDENTAL)
    rollout_memory: Annotated[float, Interval(gt=0, lt=1)] | None = field(default=None, metadata=INCIDENTAL)
    gradient_checkpointing: bool | None = field(default=None, metadata=INCIDENTAL)
    max_sequences: Positive = field(default=256, metadata=INCIDENTAL)
    max_prompt_tokens: Positive = 3072
    shared_prompt: Literal["auto", True, False] = "auto"
    fused_kernels: bool = False
    liger: bool = False
    lora_base: Literal["float32", "bfloat16"] = "float32"
    layered_summon: bool = field(default=False, metadata=INCIDENTAL)
    attention: Literal["auto", "sdpa", "flash_attention_2"] = "auto"
    save_every: Positive = field(default=20, metadata=INCIDENTAL)
    keep: Positive = field(default=2, metadata=INCIDENTAL)
    validate_every: Positive = 10
    validate_on: Literal["windows", "lists"] = "windows"
    rollout_samples: Annotated[int, Ge(0)] = field(default=4, metadata=INCIDENTAL)
    rollout_workers: Positive = field(default=8, metadata=INCIDENTAL)
    reward_workers: Positive = field(default=8, metadata=INCIDENTAL)
    guard: Guard = field(default_factory=Guard)
    seed_answers: bool | None = None
    device: Literal["cuda", "cpu"] = "cuda"
    verl: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.validate_on == "lists":
            raise ValueError(
                "validate_on=lists needs trainer=trl: verl answers its validation rows in one go, and a list's windows "
                "wait for each other; set trainer.validate_on=windows, or trainer=trl"
            )
        if self.lora is None and (self.lora_base != "float32" or self.layered_summon):
            raise ValueError(
                "lora_base and layered_summon are about adapters: set "
                "trainer.lora='{_target_: rearank.training.base.Lora, rank: 32}', or leave them out"
            )
        if self.shared_prompt is True and self.fused_kernels:
            raise ValueError(
                "shared_prompt=true and fused_kernels=true exclude each other: set trainer.shared_prompt=auto, or "
                "trainer.fused_kernels=false"
            )
        if self.cluster.gpus_per_node % (self.tensor_parallel or 1):
            raise ValueError(
                f"tensor_parallel ({self.tensor_parallel}) must divide cluster.gpus_per_node "
                f"({self.cluster.gpus_per_node})"
            )

    def lengths(self, max_tokens: int) -> Lengths:
        """Of prompts and answers, as the config bounds them."""
        return Lengths(self.max_prompt_tokens, max_tokens)

    def cautious(self, lengths: Lengths) -> Self:
        """With what is still open settled for GPUs of 80 GB and a model that is small for them."""
        choices: dict[str, Any] = {
            "tensor_parallel": 1,
            "tokens_per_pass": max(16384, lengths.total),
            "offload": "none",
            "rollout_memory": 0.6,
            "gradient_checkpointing": True,
        }
        return replace(self, **{name: value for name, value in choices.items() if getattr(self, name) is None})

    @property
    def on_cpu(self) -> bool:
        """Whether this is a trial without GPUs."""
        return self.device == "cpu"

    @property
    def attention_kernel(self) -> str:
        """transformers' name of it."""
        if self.attention != "auto":
            return self.attention
        return "flash_attention_2" if not self.on_cpu and find_spec("flash_attn") else "sdpa"

    @property
    def mask_form(self) -> str:
        """Of a row that holds a prompt with its answers: ``dense`` or ``flex`` (``training.shared_prompt.packed``)."""
        return "dense" if self.on_cpu or self.attention == "sdpa" else "flex"

    def check_model(self) -> None:
        """Whether verl can train with these adapters and kernels; raises ``TrainingError`` naming the keys."""
        if self.liger and (self.on_cpu or find_spec("liger_kernel") is None):
            raise TrainingError(
                "trainer.liger=true needs a GPU and the package liger-kernel (pip install liger-kernel): install it or "
                "set trainer.liger=false"
            )
        if self.lora is not None and self.lora.dropout:
            raise TrainingError(
                f"trainer=verl has no dropout in adapters: set trainer.lora.dropout=0, not {self.lora.dropout}"
            )

    def check(self, algorithm: PolicyGradient) -> None:
        """Whether verl can run it and the batch divides over the GPUs; raises ``TrainingError`` naming the keys."""
        self.check_model()
        gpus = self.cluster.gpus
        if (update := algorithm.answers_per_update) % gpus:
            raise TrainingError(
                f"an update's answers must divide over the GPUs: algorithm.prompts_per_step / algorithm.minibatches x "
                f"algorithm.group_size = {update}, cluster.nodes x cluster.gpus_per_node = {gpus}"
            )


@dataclass(frozen=True)
class Files:
    """Where a run's rows are and its checkpoints go; ``validation`` is ``None`` where there are no such rows."""

    train: Path
    validation: Path | None
    checkpoints: Path


@dataclass(frozen=True)
class Weights:
    """The model a training starts from."""

    path: str
    lengths: Lengths
    reward: str
    """The reward's config node as JSON."""
    seed: int
    name: str = "rearank"
    largest: int = 0
    """Parameters of the largest weight, as far as it is known: the embedding."""
    opened: str = ""
    """The ``<think>`` with which the chat template begins each answer, if it does."""


@dataclass(frozen=True)
class Watch:
    """What the trainer in the cluster gets besides verl's config."""

    settings: VerlSettings
    rows: Path
    """The training rows: answers are shown with the row they answer."""
    history: Sequence[Mapping[str, Any]]
    """Lines logged before a stop, up to the checkpoint that is resumed."""
