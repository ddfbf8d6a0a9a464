"""Keys of verl's own config: set by us, or by a user under ``trainer.verl``.

A key of ours that the installed verl lacks is an error. So is one of the user's that it lacks, that is ours to decide
(``OURS``), or whose value this project can't serve (``REFUSED``): verl would take it in silence and crash later, or
do nothing.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rearank.training.base import TrainingError

_ROLE = "actor_rollout_ref"
_FSDP2 = "the export of checkpoints reads FSDP2's shards alone"

REFUSED: Mapping[str, tuple[Any, str]] = {
    "trainer.v1.trainer_mode": (
        "sync",
        "rearank's figures, guard and checkpoints hang on verl's synchronous trainer. Training is about 80% of a step "
        "here, so sampling beside it would save 15% at most",
    ),
    "algorithm.rollout_correction.bypass_mode": (
        False,
        "without a pass for the old log-probabilities there is no entropy, which the guard and the curves need; for "
        "verl's truncated importance sampling set algorithm.correction=token",
    ),
    f"{_ROLE}.actor.use_prefix_grouper": (False, "verl 0.9.1 accepts it, and its trainer (V1) never reads it"),
    f"{_ROLE}.actor.strategy": ("fsdp2", _FSDP2),
    f"{_ROLE}.ref.strategy": ("fsdp2", _FSDP2),
    "critic.strategy": ("fsdp2", _FSDP2),
    "engine.strategy": ("fsdp2", _FSDP2),  # of fine-tuning
    f"{_ROLE}.rollout.name": ("vllm", "seeds, routing and shutdown of the rollout engines are written for vLLM"),
    f"{_ROLE}.actor.checkpoint.async_save": (False, "a checkpoint counts once it is whole on disk"),
    f"{_ROLE}.actor.checkpoint.save_lora_only": (False, "the export puts adapters and their base together"),
    f"{_ROLE}.rollout.calculate_log_probs": (
        True,
        "the gap between rollout engine and trainer is logged at every step",
    ),
    "trainer.use_v1": (True, "rearank runs verl's V1 trainer"),
}
"""Key -> the one value that works, and why no other does."""

OURS: Mapping[str, str] = {
    "trainer.nnodes": "set cluster.nodes",
    "trainer.n_gpus_per_node": "set cluster.gpus_per_node",
    "trainer.device": "set trainer.device",
    "trainer.total_training_steps": "set algorithm.steps",
    "trainer.total_epochs": "set algorithm.epochs",
    "trainer.save_freq": "set trainer.save_every",
    "trainer.test_freq": "set trainer.validate_every",
    "trainer.val_before_train": "every run is validated once before its first step",
    "trainer.default_local_dir": "set paths.outputs or name",
    "trainer.resume_mode": "the same command goes on from the last whole checkpoint; rerun under another name=...",
    "trainer.resume_from_path": "the same command goes on from the last whole checkpoint",
    "trainer.max_actor_ckpt_to_keep": "set trainer.keep",
    "trainer.max_critic_ckpt_to_keep": "set trainer.keep",
    f"{_ROLE}.actor.checkpoint.save_contents": "a checkpoint holds what a resumed run needs",
    "checkpoint.save_contents": "a checkpoint holds what a resumed run needs",
    f"{_ROLE}.model.lora_rank": "set trainer.lora",
    f"{_ROLE}.model.lora_alpha": "set trainer.lora",
    f"{_ROLE}.model.target_modules": "set trainer.lora",
    "model.lora_rank": "set trainer.lora",
    "model.lora_alpha": "set trainer.lora",
    "model.target_modules": "set trainer.lora",
    "reward.custom_reward_function.path": "set reward=...",
    "reward.custom_reward_function.name": "set reward=...",
    "reward.reward_manager.name": "answers are read as everywhere else; set reward=...",
    "reward.reward_manager.module.path": "answers are read as everywhere else; set reward=...",
    "reward.reward_manager.source": "answers are read as everywhere else; set reward=...",
    f"{_ROLE}.rollout.agent.agent_loop_manager_class": "a failed answer ends the run through it",
}
"""Keys that rearank decides, and what to set instead."""


def set_keys(config: DictConfig, settings: Mapping[str, Any], whose: str) -> None:
    """Set dotted keys in place; one that isn't in the tree must be marked by ``+``, as on Hydra's command line.

    Raises ``TrainingError`` naming the key, where it is missing, or is there but marked as new.
    """
    for marked, value in settings.items():
        key, new = marked.removeprefix("+"), marked.startswith("+")
        try:
            known = _has(config, key)
        except OmegaConfBaseException as error:
            raise TrainingError(f"verl's {key} ({whose}): {error}") from error
        if not known and not new:
            raise TrainingError(
                f"the installed verl has no key {key}, which rearank sets; install verl 0.9.1 (extra cluster)"
            )
        with open_dict(config):
            OmegaConf.update(config, key, value, force_add=new)


def _has(config: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and name in list(node)  # a value still missing (???) is a key, too


def merge_user_keys(config: DictConfig, user: Mapping[str, Any]) -> None:
    """Put the subtree ``trainer.verl`` over ``config`` in place.

    A key is known where verl's files have it, where it lies under a mapping that verl leaves empty for its users, or
    where the class that the mapping is read into has such a field.

    Raises ``TrainingError`` naming the key, and the closest known ones or why it is refused.
    """
    for key, value in _leaves(user):
        _check_served(key, value)
        _check_known(config, key)
        with open_dict(config):
            OmegaConf.update(config, key, value, force_add=True)


def _check_served(key: str, value: Any) -> None:
    if key.startswith("ray_kwargs."):
        raise TrainingError(
            f"trainer.verl.{key}: rearank starts Ray itself; see the section cluster (cluster.env, ...)"
        )
    if key in OURS:
        raise TrainingError(f"trainer.verl.{key} is rearank's to decide: {OURS[key]}")
    if key in REFUSED and value != REFUSED[key][0]:
        served, reason = REFUSED[key]
        raise TrainingError(f"trainer.verl.{key}={value} can't be served, only {served}: {reason}")


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, key)
        else:
            yield key, value


def _check_known(config: DictConfig, key: str) -> None:
    node: Any = config
    names = key.split(".")
    for position, name in enumerate(names):
        if not isinstance(node, DictConfig) or len(node) == 0:
            return  # null or {} in verl's files: filled by users
        if name not in list(node):
            if name in _fields(node):
                return
            where = ".".join(names[:position])
            close = difflib.get_close_matches(name, map(str, node), n=3, cutoff=0.5) or sorted(map(str, node))
            raise TrainingError(
                f"trainer.verl.{key}: the installed verl has no key {name} "
                f"{f'under {where}' if where else 'at its top'}; did you mean {' or '.join(close)}?"
            )
        node = None if OmegaConf.is_missing(node, name) else node[name]


def _fields(node: DictConfig) -> set[str]:
    """Fields of the class that verl reads ``node`` into; imports verl, so only for keys its files don't have."""
    target = node.get("_target_")
    if not target:
        return set()
    module, _, name = str(target).rpartition(".")
    return set(getattr(getattr(importlib.import_module(module), name), "__dataclass_fields__", ()))
