"""The policy gradients: which values go together, and what TRL can run of them."""

from __future__ import annotations

from typing import Any

import pytest

from rearank.algorithms import MaxRl, PolicyGradient, Ppo
from rearank.config import build
from rearank.training.base import ChecksAlgorithm, Examines, Trainer, TrainingError
from rearank.training.trl import TrlTrainer
from rearank.training.verl import Cluster, VerlTrainer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "group_size must be at least 2"),
        ({"advantage": "leave_one_out", "group_size": 1}, "group_size must be at least 2"),
        ({"minibatches": 3}, r"minibatches \(3\) must divide prompts_per_step \(128\)"),
        ({"advantage": "critic"}, "goes with algorithm=ppo"),
        ({"advantage": "batch", "group_size": 1, "dynamic_sampling": True}, "dynamic_sampling compares"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
        ({"clip": 1.0}, "clip must be above 0 and below 1, not 1"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0"),
        ({"advantage": "own"}, "advantage=own: PolicyGradient computes none of its own: set advantage: group"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolicyGradient(**changes)


def test_ppo_needs_no_group_but_a_critic() -> None:
    assert Ppo().group_size == 1
    with pytest.raises(ValueError, match="advantage=critic goes with"):
        Ppo(advantage="group", group_size=4)
    with pytest.raises(ValueError, match="lam must be at least 0 and at most 1"):
        Ppo(lam=1.5)


def test_names_of_earlier_versions_go_on_working() -> None:
    old = {"_target_": "rearank.training.algorithm.PolicyGradient", "advantage": "centred", "kl": 0.0}
    assert build(old, "algorithm") == PolicyGradient(advantage="centred", kl=0.0)
    assert isinstance(build({"_target_": "rearank.training.algorithm.Ppo"}), Ppo)
    assert build({"_target_": "rearank.training.verl.node.Cluster"}) == Cluster()
    with pytest.warns(DeprecationWarning, match=r"it is rearank\.algorithms\.PolicyGradient now"):
        from rearank.training.algorithm import PolicyGradient as Old  # type: ignore[import-not-found]
    assert Old is PolicyGradient


def test_what_a_trainer_can_do() -> None:
    verl = VerlTrainer(cluster=Cluster())
    for trainer in (TrlTrainer(), verl):
        assert isinstance(trainer, Trainer)
        assert isinstance(trainer, ChecksAlgorithm)
        assert isinstance(trainer, Examines)


def test_maxrl_computes_its_own() -> None:
    assert MaxRl().advantage == "own"
    with pytest.raises(ValueError, match="advantage=group: MaxRl computes its own: set advantage: own in its yaml"):
        MaxRl(advantage="group")
    with pytest.raises(ValueError, match=r"kl_in=reward can make rewards negative.*set kl_in=loss"):
        MaxRl(kl_in="reward")


def test_steps() -> None:
    assert PolicyGradient(steps=7).total_steps(10_000) == 7
    assert PolicyGradient(epochs=2).total_steps(8950) == 138
    assert PolicyGradient(epochs=0.1).total_steps(5) == 1


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (Ppo(group_size=4), "advantage=critic: use trainer=verl, or an algorithm without a value model"),
        (PolicyGradient(dynamic_sampling=True), "dynamic_sampling=True: set algorithm.dynamic_sampling=false"),
        (PolicyGradient(kl_in="reward"), "kl_in=reward: set algorithm.kl_in=loss, or use trainer=verl"),
        (PolicyGradient(advantage="batch", group_size=1), r"group_size=1: set algorithm.group_size=2 or more"),
        (PolicyGradient(correction="token"), "correction=token: set algorithm.correction=none"),
    ],
)
def test_what_trl_cannot_run_is_named_with_its_remedy(algorithm: PolicyGradient, message: str) -> None:
    with pytest.raises(TrainingError, match=rf"trainer=trl can't run algorithm\.{message}"):
        TrlTrainer().check(algorithm)


@pytest.mark.parametrize(
    "algorithm",
    [
        PolicyGradient(minibatches=16),
        PolicyGradient(advantage="centred", loss="constant"),
        PolicyGradient(ratio="sequence", minibatches=4),
        PolicyGradient(advantage="leave_one_out"),
        PolicyGradient(advantage="batch"),
        PolicyGradient(advantage="leave_one_out", kl_in="reward", kl=0.0),
        MaxRl(),
    ],
)
def test_what_trl_can_run(algorithm: PolicyGradient) -> None:
    TrlTrainer(micro_batch=64).check(algorithm)
    update = algorithm.prompts_per_step * algorithm.group_size // algorithm.minibatches
    with pytest.raises(TrainingError, match=rf"algorithm\.minibatches x algorithm\.group_size \(128 .* = {update}\)"):
        TrlTrainer(micro_batch=63).check(algorithm)


def test_an_update_divides_over_the_gpus() -> None:
    trainer = VerlTrainer(cluster=Cluster(gpus_per_node=6))
    with pytest.raises(TrainingError, match=r"= 4096, cluster\.nodes x cluster\.gpus_per_node = 6"):
        trainer.check(PolicyGradient())
    trainer.check(PolicyGradient(prompts_per_step=96))
