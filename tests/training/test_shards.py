"""Checkpoints of several ranks become one model: real FSDP2 over processes, as verl shards and saves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RANKS = 4
SPREAD_OVER = {(4,): 4, (2, 2): 2}
"""The mesh's shape -> ranks that share one copy of the state."""


def _place(folder: Path, mesh_shape: tuple[int, ...]) -> Path:
    return folder / "x".join(map(str, mesh_shape))


def _save_shards(rank: int, folder: Path) -> None:
    import torch
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    for shape in SPREAD_OVER:
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("ddp", "fsdp")[-len(shape) :])
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 7))  # 7 rows don't divide
        if rank == 0:
            torch.save(model.state_dict(), folder / "whole.pt")
        torch.distributed.barrier()
        fully_shard(model, mesh=mesh)
        torch.save(model.state_dict(), _place(folder, shape) / f"model_world_size_{RANKS}_rank_{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch warns of itself when it forks
def test_any_mesh(tmp_path: Path) -> None:
    """On 2 x 2 two ranks hold the same rows: each part counts once."""
    import torch

    from rearank.training.verl.export import merged_weights, sharded_over

    for shape in SPREAD_OVER:
        _place(tmp_path, shape).mkdir()
        (_place(tmp_path, shape) / "fsdp_config.json").write_text(json.dumps({"world_size": RANKS}))
    torch.multiprocessing.spawn(_save_shards, (tmp_path,), nprocs=RANKS)
    whole = torch.load(tmp_path / "whole.pt")
    for shape, spread in SPREAD_OVER.items():
        merged = merged_weights(_place(tmp_path, shape))
        assert merged.keys() == whole.keys()
        for name, tensor in whole.items():
            assert torch.equal(merged[name], tensor), (shape, name)
        assert sharded_over(_place(tmp_path, shape)) == spread
