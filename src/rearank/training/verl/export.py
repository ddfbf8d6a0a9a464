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


def export(shards: Path, model: str, lora: Lora | None, target: Path, *, merge: bool = True) -> None:
    """Write the model in ``shards`` to ``target``, which appears whole or not at all.

    Args:
        shards: the folder that verl wrote every rank's part to.
        model: the model that training started from: code, config, tokenizer, and with LoRA the base's weights.
        lora: where adapters were trained; they are merged into the base.
        target: a folder; replaced where it exists.
        merge: ``False`` writes the adapter alone.

    Raises:
        TrainingError: where shards are missing or don't belong to the model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = merged_weights(shards)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    if lora is not None:
        from peft import get_peft_model

        policy = get_peft_model(policy, lora_config(lora))
    _load(policy, weights, shards)
    if lora is not None and merge:
        policy = policy.merge_and_unload()
    _write(policy, AutoTokenizer.from_pretrained(shards / "huggingface"), target)


def export_base(model: str, revision: str | None, target: Path) -> None:
    """The model that training started from, where no step was better."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = AutoModelForCausalLM.from_pretrained(model, revision=revision, dtype="auto")
    _write(policy, AutoTokenizer.from_pretrained(model, revision=revision), target)


def _write(policy: Any, tokenizer: Any, target: Path) -> None:
    scratch = target.with_name(target.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    policy.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    shutil.rmtree(target, ignore_errors=True)
    scratch.replace(target)


def world_size(shards: Path) -> int:
    """How many GPUs wrote the checkpoint."""
    path = shards / "fsdp_config.json"
    try:
        return int(json.loads(path.read_text())["world_size"])
    except (OSError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: not a checkpoint of verl's ({error})") from error


def sharded_over(folder: Path) -> int:
    """Over how many GPUs each copy of the weights is spread; fewer than ``world_size`` where nodes hold copies."""
    import torch
    from torch.distributed.tensor import DTensor

    path = _shard_paths(folder)[0]
    weights = torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    sizes = (value.device_mesh.mesh.shape[-1] for value in weights.values() if isinstance(value, DTensor))
    return int(next(sizes, 1))


def merged_weights(folder: Path) -> dict[str, Any]:
    """Parameter name -> whole tensor, put together from the shards of one copy of the weights.

    Ranks are spread over a mesh, (shards,) or, with ``cluster.shard_within_node``, (copies, shards).
    """
    import torch
    from torch.distributed.tensor import DTensor

    shards = [torch.load(path, map_location="cpu", weights_only=False, mmap=True) for path in _shard_paths(folder)]

    def whole(name: str) -> Any:
        first = shards[0][name]
        if not isinstance(first, DTensor):
            return first
        ranks, dims = first.device_mesh.mesh, []
        for axis, placement in reversed(list(enumerate(first.placements))):
            if placement.is_shard():
                dims.append(placement.dim)
            else:
                ranks = ranks.select(axis, 0)
        local = [shards[rank][name].to_local() for rank in ranks.flatten().tolist()]
        return torch.cat(local, dim=dims[0]) if dims else local[0]

    return {name: whole(name) for name in shards[0]}


def _shard_paths(folder: Path) -> list[Path]:
    """In the order of ranks. Raises ``TrainingError`` where one is missing."""
    size = world_size(folder)
    paths = [folder / f"model_world_size_{size}_rank_{rank}.pt" for rank in range(size)]
    if missing := [path for path in paths if not path.is_file()]:
        raise TrainingError(
            f"{missing[0]}: no such shard; checkpoints of several nodes need a file system they share (paths.outputs)"
        )
    return paths


def _load(policy: Any, weights: Mapping[str, Any], shards: Path) -> None:
    """Names must match, but for tied weights, which are stored once."""
    missing, unexpected = policy.load_state_dict(weights, strict=False)
    tied = set(getattr(policy, "_tied_weights_keys", None) or ())
    missing = [name for name in missing if name not in tied and not any(name.endswith(t) for t in tied)]
    if missing or unexpected:
        raise TrainingError(
            f"{shards}: the shards are not this model's: missing {missing[:3]}, unexpected {list(unexpected)[:3]}"
        )
