"""verl's config for a run: verl's own tree, ours on top, then the keys a user sets under ``trainer.verl``.

The tree is composed from the files of the installed verl, which is not imported: that takes seconds and a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rearank.algorithms import PolicyGradient, Ppo
from rearank.training.base import TrainingError
from rearank.training.sft import Sft
from rearank.training.verl.advantage import estimator_keys
from rearank.training.verl.keys import merge_user_keys, set_keys
from rearank.training.verl.reward import FUNCTION
from rearank.training.verl.settings import Files, VerlSettings, Weights

REWARD_PATH = "pkg://rearank.training.verl.reward"
READING_PATH = "pkg://rearank.training.verl.step"
_MEBIBYTE = 1 << 20
# Weights travel to the rollout engines through a buffer. verl hands a weight that exceeds it over by a path that has no
# fallback and that nobody tests, and Qwen2.5-7B's embedding (2,079 MiB of float32) exceeds verl's own 2 GiB.
_BUCKET, _BUCKET_ON_CPU = 2048, 64
_FLOAT32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
_LOSSES = {"token": "token-mean", "sequence": "seq-mean-token-mean", "constant": "seq-mean-token-sum-norm"}


def verl_tree(name: str = "ppo_trainer") -> DictConfig:
    """The config tree ``name`` of the installed verl, as verl's own entry point composes it.

    Raises ``TrainingError`` where verl is missing.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.singleton import Singleton

    spec = find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise TrainingError("trainer=verl: the package verl is missing; see task=preflight")
    folder = Path(spec.submodule_search_locations[0]) / "trainer" / "config"
    overrides = ["model_engine=dp"] if name == "ppo_trainer" else []
    state = Singleton.get_state()  # run.py's own Hydra
    try:
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()
        with initialize_config_dir(str(folder), version_base=None):
            return compose(name, overrides)
    finally:
        Singleton.set_state(state)


def ppo_config(
    trainer: VerlSettings, algorithm: PolicyGradient, weights: Weights, files: Files, steps: int
) -> DictConfig:
    """verl's whole config for its PPO trainer.

    Raises ``TrainingError`` naming the key that the installed verl does not know.
    """
    config = verl_tree()
    trainer = trainer.cautious(weights.lengths)
    settings = {
        **_data(algorithm, weights, files),
        **_under("actor_rollout_ref.model", _backbone(trainer, weights)),
        **_actor(trainer, algorithm, weights),
        **_rollout(trainer, algorithm, weights),
        **_algorithm(algorithm),
        **(_critic(trainer, algorithm, weights) if isinstance(algorithm, Ppo) else {}),
        **_run(trainer, weights, files, steps),
        **(_on_cpu(weights) if trainer.on_cpu else {}),
    }
    set_keys(config, settings, "ours")
    merge_user_keys(config, trainer.verl)
    return config


def sft_config(trainer: VerlSettings, sft: Sft, weights: Weights, files: Files, steps: int, pad_to: int) -> DictConfig:
    """verl's whole config for its SFT trainer; raises as ``ppo_config``."""
    config = verl_tree("sft_trainer_engine")
    trainer = trainer.cautious(weights.lengths)
    settings = {
        "data.train_batch_size": sft.batch,
        "data.train_files": str(files.train),
        "data.val_files": str(files.validation) if files.validation else None,
        "data.use_dynamic_bsz": True,
        "data.max_token_len_per_gpu": trainer.tokens_per_pass,
        "data.max_length": pad_to,
        "data.custom_cls.path": "pkg://rearank.training.verl.sft",
        "data.custom_cls.name": "AnswerDataset",
        **_under("model", _backbone(trainer, weights)),
        "optim.lr": sft.learning_rate,
        "optim.lr_warmup_steps": sft.warmup_steps,
        "optim.lr_scheduler_type": "cosine",
        "optim.weight_decay": 0.0,
        "engine.strategy": "fsdp2",
        "engine.seed": weights.seed,
        **_under("engine", _sharding(trainer) | _precision(trainer)),
        "checkpoint.save_contents": ["model", "optimizer", "extra"],
        **_under("trainer", _length(trainer, weights, files, steps)),
        "trainer.seed": weights.seed,
        "trainer.max_ckpt_to_keep": None,
        # A checkpoint at each validation, so that the best one is there to be kept.
        "trainer.save_freq": trainer.validate_every if files.validation else trainer.save_every,
        **({"trainer.device": "cpu", "+engine.mixed_precision": _FLOAT32} if trainer.on_cpu else {}),
    }
    set_keys(config, settings, "ours")
    merge_user_keys(config, trainer.verl)
    return config


def _length(trainer: VerlSettings, weights: Weights, files: Files, steps: int) -> dict[str, Any]:
    """Where and how long any of verl's trainers runs."""
    return {
        "nnodes": trainer.cluster.nodes,
        "n_gpus_per_node": trainer.cluster.gpus_per_node,
        "total_training_steps": steps,
        "total_epochs": steps + 1,  # steps decide
        "project_name": "rearank",
        "experiment_name": weights.name,
        "logger": [],  # figures go through our tracking
        "test_freq": trainer.validate_every if files.validation else -1,
        "default_local_dir": str(files.checkpoints),
        "resume_mode": "disable",
    }


def _data(algorithm: PolicyGradient, weights: Weights, files: Files) -> dict[str, Any]:
    return {
        "data.train_files": str(files.train),
        "data.val_files": str(files.validation or files.train),
        "data.train_batch_size": algorithm.prompts_per_step,
        "data.max_prompt_length": weights.lengths.prompt,
        "data.max_response_length": weights.lengths.answer,
        # Rows that are too long were left out, counted and reported before verl starts.
        "data.filter_overlong_prompts": False,
        "data.truncation": "error",
        "data.shuffle": True,
        "data.validation_shuffle": False,
        "data.seed": weights.seed,
    }


def _backbone(trainer: VerlSettings, weights: Weights) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "path": weights.path,
        "enable_gradient_checkpointing": trainer.gradient_checkpointing,
        "+override_config.attn_implementation": trainer.attention_kernel,
        "use_fused_kernels": trainer.fused_kernels,
        "use_liger": trainer.liger,
    }
    if trainer.lora is not None:
        keys |= {
            "lora_rank": trainer.lora.rank,
            "lora_alpha": trainer.lora.alpha or 2 * trainer.lora.rank,
            "target_modules": modules[0] if len(modules := trainer.lora.modules.split(",")) == 1 else modules,
        }
    return keys


def _sharding(trainer: VerlSettings) -> dict[str, Any]:
    """Where a trained model's state lies."""
    return {
        "fsdp_size": trainer.cluster.shards,
        "param_offload": trainer.offload == "all",
        "optimizer_offload": trainer.offload != "none",
    }


def _precision(trainer: VerlSettings) -> dict[str, str]:
    """Of the frozen weights under adapters, which stay float32 (the patch of that name)."""
    return {"model_dtype": "bf16"} if trainer.lora is not None and trainer.lora_base == "bfloat16" else {}


def _actor(trainer: VerlSettings, algorithm: PolicyGradient, weights: Weights) -> dict[str, Any]:
    in_loss = algorithm.kl > 0 and algorithm.kl_in == "loss"
    keys = {
        "strategy": "fsdp2",
        "ppo_mini_batch_size": algorithm.prompts_per_step // algorithm.minibatches,
        "ppo_epochs": algorithm.updates,
        "use_dynamic_bsz": True,
        "ppo_max_token_len_per_gpu": trainer.tokens_per_pass,
        "clip_ratio": algorithm.clip,
        "clip_ratio_low": algorithm.clip,
        "clip_ratio_high": algorithm.clip if algorithm.clip_high is None else algorithm.clip_high,
        "policy_loss.loss_mode": "gspo" if algorithm.ratio == "sequence" else "vanilla",
        "loss_agg_mode": _LOSSES[algorithm.loss],
        "loss_scale_factor": weights.lengths.answer if algorithm.loss == "constant" else None,
        "use_kl_loss": in_loss,
        "kl_loss_coef": algorithm.kl if in_loss else 0.0,
        "kl_loss_type": "low_var_kl",
        "data_loader_seed": weights.seed,
        "optim.clip_grad": algorithm.max_grad_norm,
        "optim.lr": algorithm.learning_rate,
        "optim.lr_warmup_steps": algorithm.warmup_steps,
        "optim.lr_scheduler_type": "constant",
        "optim.weight_decay": algorithm.weight_decay,
        # Logits of a long batch are the largest thing in memory; entropy is computed over slices of them. Compiled, the
        # loop over slices is traced anew for every number of tokens, until torch gives up after eight.
        "entropy_from_logits_with_chunking": True,
        "fsdp_config.use_torch_compile": False,
        **_under("fsdp_config", _sharding(trainer) | _precision(trainer)),
        "fsdp_config.seed": weights.seed,
        "checkpoint.save_contents": ["model", "optimizer", "extra"],
    }
    return _under("actor_rollout_ref.actor", keys)


def _rollout(trainer: VerlSettings, algorithm: PolicyGradient, weights: Weights) -> dict[str, Any]:
    keys = {
        "name": "vllm",
        "n": algorithm.group_size,
        "temperature": algorithm.temperature,
        "top_p": algorithm.top_p,
        "seed": weights.seed,
        "prompt_length": weights.lengths.prompt,
        "response_length": weights.lengths.answer,
        "max_model_len": weights.lengths.total,
        "max_num_batched_tokens": max(8192, weights.lengths.total),
        "max_num_seqs": trainer.max_sequences,
        "gpu_memory_utilization": trainer.rollout_memory,
        "tensor_model_parallel_size": trainer.tensor_parallel,
        "load_format": "safetensors" if trainer.lora is not None else "dummy",
        "layered_summon": trainer.layered_summon,
        "checkpoint_engine.update_weights_bucket_megabytes": _bucket(_BUCKET, weights),
        "agent.num_workers": trainer.rollout_workers,
        "+agent.agent_loop_manager_class": "rearank.training.verl.rollouts.RolloutManager",
        "log_prob_use_dynamic_bsz": True,
        # As many as in the update, though no backward pass asks for memory: other packs round otherwise in bfloat16,
        # and the ratios of unchanged weights leave 1 (verl issue 6280).
        "log_prob_max_token_len_per_gpu": trainer.tokens_per_pass,
    }
    return _under("actor_rollout_ref.rollout", keys) | {
        "actor_rollout_ref.ref.log_prob_use_dynamic_bsz": True,
        "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": trainer.tokens_per_pass,
        "actor_rollout_ref.ref.fsdp_config.fsdp_size": trainer.cluster.shards,
    }


def _algorithm(algorithm: PolicyGradient) -> dict[str, Any]:
    in_reward = algorithm.kl > 0 and algorithm.kl_in == "reward"
    keys: dict[str, Any] = {
        **estimator_keys(algorithm),
        "use_kl_in_reward": in_reward,
        "kl_ctrl.type": "fixed",
        "kl_ctrl.kl_coef": algorithm.kl if in_reward else 0.0,
        "filter_groups.enable": algorithm.dynamic_sampling,
        "filter_groups.metric": "reward",
        "rollout_correction.rollout_is": None if algorithm.correction == "none" else algorithm.correction,
        "rollout_correction.rollout_is_threshold": algorithm.correction_cap,
    }
    if isinstance(algorithm, Ppo):
        keys |= {"gamma": algorithm.gamma, "lam": algorithm.lam}
    return _under("algorithm", keys)


def _critic(trainer: VerlSettings, algorithm: Ppo, weights: Weights) -> dict[str, Any]:
    keys = {
        "strategy": "fsdp2",
        "model.path": weights.path,
        "model.enable_gradient_checkpointing": trainer.gradient_checkpointing,
        "+model.override_config.attn_implementation": trainer.attention_kernel,
        "optim.lr": algorithm.critic_learning_rate,
        "optim.weight_decay": algorithm.weight_decay,
        "cliprange_value": algorithm.value_clip,
        "optim.clip_grad": algorithm.max_grad_norm,
        # Of both its passes, the update's too, whatever ppo_max_token_len_per_gpu says (trainer_base.py).
        "+ppo_infer_max_token_len_per_gpu": trainer.tokens_per_pass,
        "data_loader_seed": weights.seed,
        **_under("fsdp", _sharding(trainer)),
    }
    # verl's policy learns from step critic_warmup on, counted from 1.
    return _under("critic", keys) | {"trainer.critic_warmup": algorithm.critic_warmup + 1}


def _run(trainer: VerlSettings, weights: Weights, files: Files, steps: int) -> dict[str, Any]:
    keys = {
        **_length(trainer, weights, files, steps),
        # Asked at each step; which steps are saved is decided by save_every and validate_every.
        "save_freq": 1,
        "val_before_train": False,
        "max_actor_ckpt_to_keep": None,  # old ones are removed once the new one is whole
        "max_critic_ckpt_to_keep": None,
    }
    return _under("trainer", keys) | {
        "reward.num_workers": trainer.reward_workers,
        "reward.custom_reward_function.path": REWARD_PATH,
        "reward.custom_reward_function.name": FUNCTION,
        "reward.reward_manager.source": "importlib",
        "reward.reward_manager.name": "ReadingManager",
        "reward.reward_manager.module.path": READING_PATH,
        "+reward.custom_reward_function.reward_kwargs.reward": weights.reward,
        "+reward.custom_reward_function.reward_kwargs.opened": weights.opened,
    }


def _on_cpu(weights: Weights) -> dict[str, Any]:
    """One core is as good as the next: small buffers, single workers, float32 throughout."""
    return {
        "trainer.device": "cpu",
        "+actor_rollout_ref.actor.fsdp_config.mixed_precision": _FLOAT32,
        "+actor_rollout_ref.ref.fsdp_config.mixed_precision": _FLOAT32,
        "+critic.fsdp.mixed_precision": _FLOAT32,
        "actor_rollout_ref.rollout.dtype": "float32",
        "actor_rollout_ref.rollout.enforce_eager": True,
        # vLLM 0.28 on a CPU can't draw by seed from a prompt that it reads in pieces.
        "actor_rollout_ref.rollout.enable_chunked_prefill": False,
        "+actor_rollout_ref.rollout.enable_sleep_mode": False,
        "actor_rollout_ref.rollout.free_cache_engine": False,
        "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes": _bucket(_BUCKET_ON_CPU, weights),
        "data.dataloader_num_workers": 0,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
    }


def _bucket(least: int, weights: Weights) -> int:
    """MiB of the buffer that weights travel in: ``least``, or what the largest one takes in float32."""
    return max(least, -(-4 * weights.largest // _MEBIBYTE))


def _under(prefix: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    return {f"+{prefix}.{key[1:]}" if key.startswith("+") else f"{prefix}.{key}": value for key, value in keys.items()}
