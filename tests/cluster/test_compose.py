"""Our config becomes verl's: every model with every algorithm, against the verl that is installed."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from tests.shipped import ASSETS

from rearank.algorithms import PolicyGradient, Ppo
from rearank.config import build, node_of
from rearank.training.base import Lora, TrainingError
from rearank.training.sft import Sft
from rearank.training.verl import Cluster, VerlTrainer, compose, keys
from rearank.training.verl.compose import ppo_config, sft_config
from rearank.training.verl.settings import Files, Lengths, Weights

CONF = Path(__file__).resolve().parents[2] / "conf"
# Those to train from: a node without a target is another's weights, a served one or an adapter can't be trained.
NODES = {path.stem: OmegaConf.load(path) for path in (CONF / "model").glob("*.yaml") if path.stem != "local"}
MODELS = sorted(
    name for name, node in NODES.items() if "_target_" in node and not (node.get("engine") or node.get("adapter_of"))
)
ALGORITHMS = sorted(path.stem for path in (CONF / "algorithm").glob("*.yaml"))
FILES = Files(Path("/rows/train.parquet"), Path("/rows/validation.parquet"), Path("/checkpoints"))
OF_CLASSES = {  # of verl's classes, not of its files
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class",
    "actor_rollout_ref.actor.checkpoint.save_lora_only",
}
WEIGHTS = Weights("owner/model", Lengths(4096, 1024), "{}", 7)


@pytest.fixture(scope="session")
def tree() -> DictConfig:
    return compose.verl_tree()


@pytest.fixture
def _one_tree(tree: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Composing takes a second: once is enough, it is always the same."""
    monkeypatch.setattr(compose, "verl_tree", lambda: copy.deepcopy(tree))


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra_compose("config", ["name=test", "output_dir=outputs/test", *overrides])
        return build(OmegaConf.to_container(config, resolve=True))


@pytest.mark.usefixtures("_one_tree")
@pytest.mark.parametrize(
    ("model", "algorithm"),
    [*((name, "grpo") for name in MODELS), *(("qwen7b", name) for name in ALGORITHMS if name != "grpo")],
)
def test_every_model_and_every_algorithm(model: str, algorithm: str) -> None:
    experiment = composed(f"model={model}", f"algorithm={algorithm}", "prompt=rearank")
    lengths = Lengths(experiment.trainer.max_prompt_tokens, experiment.model.max_tokens)
    weights = replace(WEIGHTS, path=experiment.model.location, lengths=lengths)
    config = ppo_config(experiment.trainer, experiment.algorithm, weights, FILES, 5)
    OmegaConf.to_container(config, resolve=True)  # every interpolation leads somewhere
    role = config.actor_rollout_ref
    assert role.model.path == experiment.model.location
    assert role.rollout.n == experiment.algorithm.group_size
    assert config.data.train_batch_size == experiment.algorithm.prompts_per_step
    assert config.data.max_response_length == role.rollout.response_length == experiment.model.max_tokens
    assert config.trainer.n_gpus_per_node * config.trainer.nnodes == experiment.trainer.cluster.gpus


@pytest.mark.usefixtures("_one_tree")
@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("grpo", {"algorithm.adv_estimator": "rearank",
                  "actor_rollout_ref.actor.use_kl_loss": True, "actor_rollout_ref.actor.kl_loss_coef": 0.01,
                  "actor_rollout_ref.actor.loss_agg_mode": "token-mean"}),
        ("dr_grpo", {"algorithm.adv_estimator": "rearank", "actor_rollout_ref.actor.use_kl_loss": False,
                     "actor_rollout_ref.actor.loss_agg_mode": "seq-mean-token-sum-norm",
                     "actor_rollout_ref.actor.loss_scale_factor": 1024}),
        ("dapo", {"actor_rollout_ref.actor.clip_ratio_high": 0.28, "algorithm.filter_groups.enable": True}),
        ("gspo", {"actor_rollout_ref.actor.policy_loss.loss_mode": "gspo",
                  "actor_rollout_ref.actor.clip_ratio_low": 3e-4}),
        ("rloo", {"algorithm.adv_estimator": "rearank", "algorithm.use_kl_in_reward": True,
                  "algorithm.kl_ctrl.kl_coef": 0.001, "actor_rollout_ref.actor.use_kl_loss": False}),
        ("reinforce_pp", {"algorithm.adv_estimator": "reinforce_plus_plus", "actor_rollout_ref.rollout.n": 1}),
        ("ppo", {"algorithm.adv_estimator": "gae", "critic.optim.lr": 1e-5, "critic.model.path": "owner/model"}),
    ],
)  # fmt: skip
def test_what_an_algorithm_is_to_verl(algorithm: str, expected: dict[str, Any]) -> None:
    experiment = composed(f"algorithm={algorithm}")
    config = ppo_config(experiment.trainer, experiment.algorithm, WEIGHTS, FILES, 5)
    assert {key: OmegaConf.select(config, key) for key in expected} == expected


def trainer(**changes: Any) -> VerlTrainer:
    return VerlTrainer(cluster=Cluster(gpus_per_node=1), device="cpu", **changes)


def configured(**changes: Any) -> DictConfig:
    return ppo_config(trainer(**changes), PolicyGradient(), WEIGHTS, FILES, 5)


@pytest.mark.usefixtures("_one_tree")
def test_values_arrive_where_verl_reads_them() -> None:
    """As verl's workers get them: its own dataclasses, built by its own function."""
    from verl.utils.config import omega_conf_to_dataclass

    algorithm = build(node_of(composed("algorithm=ppo", "algorithm.max_grad_norm=0.3").algorithm))
    settings = trainer(tokens_per_pass=2048, offload="all")
    config = ppo_config(settings, algorithm, replace(WEIGHTS, lengths=Lengths(1024, 512)), FILES, 5)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert actor.optim.clip_grad == 0.3
    assert actor.ppo_max_token_len_per_gpu == 2048
    assert (actor.engine.param_offload, actor.engine.optimizer_offload) == (True, True)
    assert actor.optim.lr == algorithm.learning_rate
    assert actor.engine.mixed_precision["param_dtype"] == "fp32"
    config.critic.model.path = str(ASSETS)  # verl loads its config
    critic = omega_conf_to_dataclass(config.critic)
    assert critic.ppo_infer_max_token_len_per_gpu == 2048, "the trainer takes both of the critic's limits from it"
    assert (critic.optim.clip_grad, critic.optim.lr) == (0.3, 1e-5)
    assert critic.engine.param_offload
    assert config.trainer.critic_warmup == 1, "the policy learns from the first step on"


@pytest.mark.usefixtures("_one_tree")
def test_any_key_of_verls_can_be_set() -> None:
    config = configured(
        verl={
            "actor_rollout_ref": {
                "actor": {"entropy_coeff": 0.01},
                "rollout": {"engine_kwargs": {"vllm": {"swap_space": 8}}, "enable_sleep_mode": False},
            }
        }
    )
    role = config.actor_rollout_ref
    assert role.actor.entropy_coeff == 0.01
    assert role.rollout.engine_kwargs.vllm.swap_space == 8, "a mapping that verl leaves empty takes any key"
    assert role.rollout.enable_sleep_mode is False, "a field of verl's class that its files don't list"


@pytest.mark.usefixtures("_one_tree")
@pytest.mark.parametrize(
    ("verl", "message"),
    [
        ({"trainer": {"save_frequency": 3}}, r"trainer\.verl\.trainer\.save_frequency: .* did you mean save_freq"),
        (
            {"actor_rollout": {"actor": {}}},
            r"\.actor_rollout\.actor: .* at its top; did you mean actor_rollout_ref",
        ),
        ({"ray_kwargs": {"ray_init": {"num_cpus": 4}}}, r"rearank starts Ray itself; see the section cluster"),
        ({"algorithm": {"gamm": 1}}, r"trainer\.verl\.algorithm\.gamm: .* did you mean gamma"),
        (
            {"trainer": {"v1": {"trainer_mode": "colocate_async"}}},
            r"trainer_mode=colocate_async can't be served, only sync: .* synchronous trainer",
        ),
        (
            {"algorithm": {"rollout_correction": {"bypass_mode": True}}},
            r"bypass_mode=True can't be served, only False: .* no entropy.* set algorithm\.correction=token",
        ),
        ({"actor_rollout_ref": {"actor": {"use_prefix_grouper": True}}}, r"use_prefix_grouper=True .* never reads it"),
        (
            {"actor_rollout_ref": {"rollout": {"calculate_log_probs": False}}},
            "calculate_log_probs=False can't be served",
        ),
        ({"actor_rollout_ref": {"model": {"lora_rank": 8}}}, r"lora_rank is rearank's to decide: set trainer\.lora"),
        ({"trainer": {"n_gpus_per_node": 4}}, r"n_gpus_per_node is rearank's to decide: set cluster\.gpus_per_node"),
    ],
)
def test_a_key_that_verl_does_not_have_is_named(verl: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        configured(verl=verl)


def test_a_key_that_verl_renames_is_an_error(tree: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = copy.deepcopy(tree)
    OmegaConf.set_struct(renamed, False)
    renamed.actor_rollout_ref.actor.loss_mode_now = renamed.actor_rollout_ref.actor.pop("loss_agg_mode")
    OmegaConf.set_struct(renamed, True)
    monkeypatch.setattr(compose, "verl_tree", lambda: renamed)
    with pytest.raises(TrainingError, match=r"no key actor_rollout_ref\.actor\.loss_agg_mode, which rearank sets"):
        configured()


def test_every_key_that_is_refused_is_one_of_verls(tree: DictConfig) -> None:
    """A name that verl doesn't have would refuse nothing."""
    trees = [tree, compose.verl_tree("sft_trainer_engine")]
    for key in (*keys.REFUSED, *keys.OURS):
        assert any(keys._has(one, key) for one in trees) or key in OF_CLASSES, key


@pytest.mark.usefixtures("_one_tree")
def test_what_verl_may_be_told_all_the_same() -> None:
    config = configured(verl={"trainer": {"v1": {"trainer_mode": "sync"}}})
    assert config.trainer.v1.trainer_mode == "sync"


@pytest.mark.usefixtures("_one_tree")
def test_a_pass_holds_as_many_tokens_wherever_log_probabilities_are_computed() -> None:
    role = configured(tokens_per_pass=6144).actor_rollout_ref
    budgets = (
        role.actor.ppo_max_token_len_per_gpu,
        role.rollout.log_prob_max_token_len_per_gpu,
        role.ref.log_prob_max_token_len_per_gpu,
    )
    assert budgets == (6144, 6144, 6144)


@pytest.mark.usefixtures("_one_tree")
@pytest.mark.parametrize(("within", "size"), [(False, 16), (True, 8)])
def test_what_the_state_is_spread_over(within: bool, size: int) -> None:
    cluster = Cluster(address="auto", nodes=2, gpus_per_node=8, shard_within_node=within)
    config = ppo_config(VerlTrainer(cluster=cluster), Ppo(), WEIGHTS, FILES, 5)
    role = config.actor_rollout_ref
    sizes = (role.actor.fsdp_config.fsdp_size, role.ref.fsdp_config.fsdp_size, config.critic.fsdp.fsdp_size)
    assert sizes == (size, size, size)


@pytest.mark.usefixtures("_one_tree")
@pytest.mark.parametrize(
    ("device", "parameters", "mebibytes"),
    [
        ("cuda", 0, 2048),
        ("cuda", 152064 * 3584, 2079),
        ("cuda", 1000, 2048),
        ("cpu", 1000, 64),
        ("cpu", 49152 * 576, 108),  # SmolLM2-135M's embedding
    ],
)
def test_the_largest_weight_fits_the_buffer_it_travels_in(device: Any, parameters: int, mebibytes: int) -> None:
    weights = replace(WEIGHTS, largest=parameters)
    config = ppo_config(VerlTrainer(cluster=Cluster(), device=device), PolicyGradient(), weights, FILES, 5)
    assert config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes == mebibytes


@pytest.mark.usefixtures("_one_tree")
def test_truncated_importance_sampling() -> None:
    off, on = (
        ppo_config(trainer(), PolicyGradient(correction=how, correction_cap=3.0), WEIGHTS, FILES, 5).algorithm
        for how in ("none", "token")
    )
    assert off.rollout_correction.rollout_is is None
    assert (on.rollout_correction.rollout_is, on.rollout_correction.rollout_is_threshold) == ("token", 3.0)


@pytest.mark.usefixtures("_one_tree")
def test_kernels_and_precision() -> None:
    role = configured().actor_rollout_ref
    assert (role.model.use_fused_kernels, role.model.use_liger, role.rollout.layered_summon) == (False, False, False)
    assert role.actor.fsdp_config.model_dtype == "fp32"
    chosen = configured(
        fused_kernels=True, liger=True, lora=Lora(), lora_base="bfloat16", layered_summon=True
    ).actor_rollout_ref
    assert (chosen.model.use_fused_kernels, chosen.model.use_liger, chosen.rollout.layered_summon) == (True, True, True)
    assert chosen.actor.fsdp_config.model_dtype == "bf16"
    ppo = ppo_config(trainer(lora=Lora(), lora_base="bfloat16"), Ppo(), WEIGHTS, FILES, 5)
    assert ppo.critic.fsdp.model_dtype == "fp32", "all of its weights are trained"


@pytest.mark.usefixtures("_one_tree")
def test_adapters() -> None:
    model = configured(lora=Lora(rank=8)).actor_rollout_ref.model
    assert (model.lora_rank, model.lora_alpha, model.target_modules) == (8, 16, "all-linear")
    assert configured().actor_rollout_ref.model.lora_rank == 0
    some = configured(lora=Lora(modules="q_proj,v_proj")).actor_rollout_ref.model
    assert list(some.target_modules) == ["q_proj", "v_proj"]
    with pytest.raises(TrainingError, match="liger=true needs a GPU and the package liger-kernel"):
        trainer(liger=True).check(PolicyGradient())
    with pytest.raises(TrainingError, match="no dropout in adapters"):
        trainer(lora=Lora(dropout=0.1)).check(PolicyGradient())


def test_fine_tuning() -> None:
    config = sft_config(trainer(), Sft(batch=16, warmup_steps=3), WEIGHTS, FILES, 5, 5120)
    OmegaConf.to_container(config, resolve=True)
    assert (config.data.train_batch_size, config.optim.lr_warmup_steps, config.data.max_length) == (16, 3, 5120)
    assert config.data.custom_cls.name == "AnswerDataset"


def test_composing_leaves_run_pys_hydra_alone() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        before = hydra_compose("config", ["name=a", "output_dir=x"])
        compose.verl_tree()
        assert hydra_compose("config", ["name=a", "output_dir=x"]) == before
