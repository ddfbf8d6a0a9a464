"""What verl makes of ``experiment=authors``: the keys of the authors' script, under verl's names."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rearank.config import build
from rearank.training.verl.compose import ppo_config
from rearank.training.verl.settings import Files, Lengths, Weights

CONF = Path(__file__).resolve().parents[2] / "conf"
SCRIPT = {
    "algorithm.adv_estimator": "grpo",
    "algorithm.use_kl_in_reward": False,
    "data.train_batch_size": 128,
    "data.max_prompt_length": 3072,
    "data.max_response_length": 2048,
    "actor_rollout_ref.model.path": "Qwen/Qwen2.5-7B-Instruct",
    "actor_rollout_ref.model.enable_gradient_checkpointing": True,
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "actor_rollout_ref.actor.optim.weight_decay": 0.01,
    "actor_rollout_ref.actor.optim.clip_grad": 1.0,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 8,
    "actor_rollout_ref.actor.ppo_epochs": 1,
    "actor_rollout_ref.actor.use_kl_loss": True,
    "actor_rollout_ref.actor.kl_loss_coef": 0.01,
    "actor_rollout_ref.actor.kl_loss_type": "low_var_kl",
    "actor_rollout_ref.actor.entropy_coeff": 0,
    "actor_rollout_ref.actor.clip_ratio": 0.2,
    "actor_rollout_ref.actor.clip_ratio_low": 0.2,
    "actor_rollout_ref.actor.clip_ratio_high": 0.2,
    "actor_rollout_ref.actor.loss_agg_mode": "token-mean",
    "actor_rollout_ref.actor.fsdp_config.param_offload": False,
    "actor_rollout_ref.actor.fsdp_config.optimizer_offload": False,
    "actor_rollout_ref.rollout.name": "vllm",
    "actor_rollout_ref.rollout.n": 32,
    "actor_rollout_ref.rollout.temperature": 1.0,
    "actor_rollout_ref.rollout.top_p": 1.0,
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 2,
    "actor_rollout_ref.rollout.gpu_memory_utilization": 0.6,
    "trainer.n_gpus_per_node": 8,
    "trainer.nnodes": 1,
    "trainer.test_freq": -1,
    "trainer.val_before_train": False,
}


def test_every_key_of_the_script() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["name=test", "output_dir=outputs/test", "experiment=authors"])
        experiment = build(OmegaConf.to_container(config, resolve=True))
    lengths = Lengths(experiment.trainer.max_prompt_tokens, experiment.model.max_tokens)
    weights = Weights(experiment.model.location, lengths, "{}", experiment.seed)
    files = Files(Path("/rows/train.parquet"), None, Path("/checkpoints"))
    composed = ppo_config(experiment.trainer, experiment.algorithm, weights, files, 1400)
    assert {key: OmegaConf.select(composed, key) for key in SCRIPT} == SCRIPT
