"""A sharded checkpoint of verl's (FSDP2) as a folder that transformers, vLLM and any other tool load.

verl's own merger rounds everything to bfloat16; this keeps the precision that the model's config names. Needs no GPU.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rearank.training.base import Lora, TrainingError
from rearank.training.local import lora_config


def export(shards: Path, model: str, lora: Lora | None, target: Path) -> None:
    """Write the model in ``shards`` to ``target``, which appears whole or not at all.

    Args:
        shards: the folder that verl wrote every rank's part to.
        model: the model that training started from: code, config, tokenizer, and with LoRA the base's weights.
        lora: where adapters were trained; they are merged into the base.
        target: a folder; replaced where it exists.

    Raises:
        TrainingError: where shards are missing or don't belong to the model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = merged_weights(shards)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    if lora is not None:
        policy = _with_adapters(policy, lora)
    _load(policy, weights, shards)
    if lora is not None:
        policy = policy.merge_and_unload()
    scratch = target.with_name(target.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    policy.save_pretrained(scratch)
    AutoTokenizer.from_pretrained(shards / "huggingface").save_pretrained(scratch)
    shutil.rmtree(target, ignore_errors=True)
    scratch.replace(target)


def export_base(model: str, revision: str | None, target: Path) -> None:
    """The model that training started from, where no step was better."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    scratch = target.with_name(target.name + ".partial")
    AutoModelForCausalLM.from_pretrained(model, revision=revision, dtype="auto").save_pretrained(scratch)
    AutoTokenizer.from_pretrained(model, revision=revision).save_pretrained(scratch)
    shutil.rmtree(target, ignore_errors=True)
    scratch.replace(target)


def world_size(shards: Path) -> int:
    """How many GPUs wrote the checkpoint."""
    path = shards / "fsdp_config.json"
    try:
        return int(json.loads(path.read_text())["world_size"])
    except (OSError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: not a checkpoint of verl's ({error})") from error


def merged_weights(folder: Path) -> dict[str, Any]:
    """Parameter name -> whole tensor, put together from every rank's shard."""
    import torch
    from torch.distributed.tensor import DTensor

    size = world_size(folder)
    paths = [folder / f"model_world_size_{size}_rank_{rank}.pt" for rank in range(size)]
    if missing := [path for path in paths if not path.is_file()]:
        raise TrainingError(
            f"{missing[0]}: no such shard; checkpoints of several nodes need a file system they share (paths.outputs)"
        )
    shards = [torch.load(path, map_location="cpu", weights_only=False, mmap=True) for path in paths]

    def whole(name: str) -> Any:
        parts = [shard[name] for shard in shards]
        if not isinstance(parts[0], DTensor):
            return parts[0]
        placement = parts[0].placements[-1]
        local = [part.to_local() for part in parts]
        return torch.cat(local, dim=placement.dim) if placement.is_shard() else local[0]

    return {name: whole(name) for name in shards[0]}


def _with_adapters(policy: Any, lora: Lora) -> Any:
    from peft import get_peft_model

    return get_peft_model(policy, lora_config(lora))


def _load(policy: Any, weights: Mapping[str, Any], shards: Path) -> None:
    """Names must match, but for tied weights, which are stored once."""
    missing, unexpected = policy.load_state_dict(weights, strict=False)
    tied = set(getattr(policy, "_tied_weights_keys", None) or ())
    missing = [name for name in missing if name not in tied and not any(name.endswith(t) for t in tied)]
    if missing or unexpected:
        raise TrainingError(
            f"{shards}: the shards are not this model's: missing {missing[:3]}, unexpected {list(unexpected)[:3]}"
        )
