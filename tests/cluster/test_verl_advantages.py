"""The algorithm's advantages in verl's own registry, beside verl's own estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")

from tests.algorithms.test_trainers import ALGORITHMS, IDS, by_verl  # noqa: E402

from rearank.algorithms import PolicyGradient  # noqa: E402
from rearank.training.verl.advantage import NAME, register  # noqa: E402


@pytest.fixture(scope="module")
def estimator() -> Any:
    register()
    register()  # a second time in the same process is no error
    return core_algos.get_adv_estimator_fn(NAME)


def rewards() -> Any:
    return torch.tensor(np.random.default_rng(3).random(len(IDS)), dtype=torch.float32)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: f"{type(a).__name__}-{a.advantage}")
def test_verls_registry_has_the_algorithms_own(algorithm: PolicyGradient, estimator: Any) -> None:
    expected = torch.from_numpy(algorithm.advantages(rewards().numpy(), IDS))
    assert torch.equal(by_verl(algorithm, rewards(), estimator), expected)


@pytest.mark.parametrize(
    ("advantage", "theirs", "more", "tolerance"),
    [
        ("group", "grpo", {}, 2e-3),  # verl adds 1e-6 to the standard deviation, and we, as TRL, 1e-4
        ("centred", "grpo", {"norm_adv_by_std_in_grpo": False}, 1e-6),
        ("leave_one_out", "rloo", {}, 1e-6),
    ],
)
def test_as_near_to_verls_own_as_is_said(advantage: Any, theirs: str, more: dict[str, Any], tolerance: float) -> None:
    values, mask = rewards(), torch.ones(len(IDS), 1)
    own, _ = core_algos.get_adv_estimator_fn(theirs)(values.clone().unsqueeze(1), mask, IDS, **more)
    ours = PolicyGradient(advantage=advantage).advantages(values.numpy(), IDS)
    assert ours == pytest.approx(own[:, 0].numpy(), rel=tolerance, abs=1e-6)
