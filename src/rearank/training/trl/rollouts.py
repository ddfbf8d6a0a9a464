"""Answers sampled by vLLM in the trainer's own process and on its GPU (``trainer.rollout=vllm``): TRL's colocated form.

vLLM sleeps while the model is trained: its weights and its cache then leave the GPU, and it gets the new weights when
it wakes up. On a CPU, with vLLM's CPU build, it stays: for tests and trials.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rearank.algorithms import PolicyGradient
from rearank.engines.chat import opening
from rearank.engines.tokens import decoded

_ON_CPU = {
    "VERL_PLATFORM": "cpu",  # keeps weights as they were loaded, so that they can be loaded again: see verl.cpu
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer's threads are the same ones
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
}


def vllm_arguments(algorithm: PolicyGradient, *, longest: int, share: float, on_cpu: bool) -> dict[str, Any]:
    """Keywords of TRL's ``GRPOConfig``.

    Args:
        algorithm: ``correction`` and ``correction_cap`` are TRL's truncated importance sampling.
        longest: tokens of the longest prompt with the longest answer.
        share: of the GPU's memory for vLLM, its weights included.
        on_cpu: vLLM is built for CPUs, and can't sleep.
    """
    corrected = algorithm.correction != "none"
    mode = {"vllm_importance_sampling_mode": f"{algorithm.correction}_truncate"} if corrected else {}
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": share,
        "vllm_max_model_length": longest,
        "vllm_enable_sleep_mode": not on_cpu,
        "vllm_importance_sampling_correction": corrected,
        "vllm_importance_sampling_clip_max": algorithm.correction_cap,
        **mode,
    }


@contextmanager
def beside_vllm(trainers: Sequence[Any], *, on_cpu: bool) -> Iterator[None]:
    """While vLLM works in this process. After it the engines of ``trainers`` are gone, and what they hold of the GPU.

    TRL and vLLM set environment variables of a distributed run; the evaluation that follows must not find them.
    """
    before = dict(os.environ)
    for name, value in _ON_CPU.items() if on_cpu else ():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for trainer in trainers:
            _shut_down(trainer)
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _shut_down(trainer: Any) -> None:
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    trainer.vllm_generation.llm.llm_engine.engine_core.shutdown()
    del trainer.vllm_generation.llm
    cleanup_dist_env_and_memory()


def greedy_by_vllm(
    trainer: Any, tokenizer: Any, prompts: Sequence[Any], on_batch: Callable[[int], None] = lambda _: None
) -> list[tuple[str, int]]:
    """As ``answers.greedy``, by the trainer's vLLM with the model's present weights, all prompts at once."""
    texts = [
        tokenizer.apply_chat_template([asdict(m) for m in prompt], tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    ids, engine = tokenizer(texts, add_special_tokens=False)["input_ids"], trainer.vllm_generation
    sampled = engine.temperature, engine.top_p
    engine.temperature, engine.top_p = 0.0, 1.0
    try:
        engine.sync_weights()
        _, answers, _, _ = engine.generate(prompts=ids, images=None, num_generations=1)
    finally:
        engine.temperature, engine.top_p = sampled
    on_batch(len(answers))
    opened = opening(tokenizer)
    return [(opened + decoded(tokenizer, list(tokens)), len(tokens)) for tokens in answers]
