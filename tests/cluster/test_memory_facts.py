"""What the memory plan believes of verl, held to the verl that is installed."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from omegaconf import OmegaConf

from rearank.training import footprint
from rearank.training.verl.compose import verl_tree


def test_keys_the_plan_counts_on() -> None:
    tree = verl_tree()
    expected = {
        # In verl's dataclass it is true: gradients would stay whole, four bytes a parameter on every GPU.
        "actor_rollout_ref.actor.fsdp_config.use_no_sync_for_gradient_accumulation": False,
        "critic.fsdp.use_no_sync_for_gradient_accumulation": False,
        "actor_rollout_ref.actor.fsdp_config.model_dtype": "fp32",
        "actor_rollout_ref.ref.fsdp_config.model_dtype": "fp32",
        "actor_rollout_ref.actor.fsdp_config.reshard_after_forward": True,
        "actor_rollout_ref.actor.entropy_from_logits_chunk_size": footprint.ENTROPY_SLICE,
        "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes": footprint.BUCKET * 1024,
        "actor_rollout_ref.rollout.enforce_eager": False,
    }
    assert {key: OmegaConf.select(tree, key) for key in expected} == expected


def peak_of_fused_logits(tokens: int, vocabulary: int, hidden: int) -> tuple[int, int]:
    """Bytes that verl's fused loss allocates at most, forward and backward."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    class Allocations(TorchDispatchMode):
        """Counts what operators return, until it is freed."""

        def __init__(self) -> None:
            super().__init__()
            self.alive: dict[int, int] = {}
            self.peak = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            returned = function(*args, **(kwargs or {}))
            for tensor in returned if isinstance(returned, tuple | list) else (returned,):
                if isinstance(tensor, torch.Tensor) and (where := tensor.untyped_storage().data_ptr()):
                    if where not in self.alive:
                        weakref.finalize(tensor.untyped_storage(), self.alive.pop, where, None)
                    self.alive[where] = tensor.untyped_storage().nbytes()
            self.peak = max(self.peak, sum(self.alive.values()))
            return returned

    states = torch.randn(1, tokens, hidden, dtype=torch.bfloat16, requires_grad=True)
    output = torch.randn(vocabulary, hidden, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.randint(vocabulary, (1, tokens))
    with Allocations() as forward:
        log_probabilities, _ = FusedLinearForPPO()(states, output, labels)
    with Allocations() as backward:
        log_probabilities.sum().backward()
    return forward.peak, backward.peak


@pytest.mark.slow
def test_fused_kernels_make_slices_of_the_logits() -> None:
    vocabulary, hidden = 12_000, 16
    short, long = (peak_of_fused_logits(tokens, vocabulary, hidden) for tokens in (1024, 2048))
    a_slice = footprint.FUSED_SLICE * vocabulary
    for measured, expected in zip(long, (footprint.FUSED_FORWARD, footprint.FUSED_BACKWARD), strict=True):
        assert measured / a_slice == pytest.approx(expected, rel=0.06)
    for few, many in zip(short, long, strict=True):
        assert many == pytest.approx(few, rel=0.02), "no more for a longer pass"
