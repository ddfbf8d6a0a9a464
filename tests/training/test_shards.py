"""Checkpoints of several ranks become one model: real FSDP2 over processes, as verl shards and saves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RANKS = 4


def _save_shard(rank: int, folder: Path, mesh_shape: tuple[int, ...]) -> None:
    import torch
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    names = ("ddp", "fsdp")[-len(mesh_shape) :]
    mesh = init_device_mesh("cpu", mesh_shape, mesh_dim_names=names)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 7))  # 7 rows don't divide
    if rank == 0:
        torch.save(model.state_dict(), folder / "whole.pt")
    torch.distributed.barrier()
    fully_shard(model, mesh=mesh)
    torch.save(model.state_dict(), folder / f"model_world_size_{RANKS}_rank_{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch warns of itself when it forks
@pytest.mark.parametrize(("mesh_shape", "spread"), [((4,), 4), ((2, 2), 2)])
def test_any_mesh(mesh_shape: tuple[int, ...], spread: int, tmp_path: Path) -> None:
    """On 2 x 2 two ranks hold the same rows: each part counts once."""
    import torch

    from rearank.training.verl.export import merged_weights, sharded_over

    torch.multiprocessing.spawn(_save_shard, (tmp_path, mesh_shape), nprocs=RANKS)
    (tmp_path / "fsdp_config.json").write_text(json.dumps({"world_size": RANKS}))
    whole = torch.load(tmp_path / "whole.pt")
    merged = merged_weights(tmp_path)
    assert merged.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(merged[name], tensor), name
    assert sharded_over(tmp_path) == spread
