"""The CPU platform: inert unless asked for, and no patch outlives its reason."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys

import pytest
from tests.shipped import ASSETS

from rearank.training.verl.cpu.patches import PATCHES, Patch


def python(code: str, **environment: str) -> str:
    """A fresh process; what it printed."""
    import os

    inherited = {k: v for k, v in os.environ.items() if k not in ("VERL_PLATFORM", "VERL_ENGINE_DEVICE")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**inherited, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_upstream_still_needs_each_patch(patch: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    if "vllm" in patch.module:  # verl's modules about vLLM can't even be imported without the patch for its name
        monkeypatch.setattr(importlib.metadata, "version", importlib.metadata.version)  # put back afterwards
        next(p for p in PATCHES if p.module == "importlib.metadata").change(importlib.metadata)
    module = importlib.import_module(patch.module)
    assert patch.needed(module), f"upstream has mended {patch.where}: remove the patch {patch.name!r}"
    assert patch.why
    assert patch.where


def test_vllm_still_drops_the_weights_it_packs() -> None:
    import inspect

    from vllm.model_executor.layers import utils

    source = inspect.getsource(utils.dispatch_cpu_unquantized_gemm)
    assert "remove_weight" in source, "vLLM keeps linear weights: remove rearank.training.verl.cpu.vllm_plugin"


def test_verl_still_has_no_cpu_platform() -> None:
    names = python("from verl.plugin.platform import PlatformRegistry as R; import verl; print(*R.registered_names())",
                   VERL_USE_EXTERNAL_PLUGINS="none")  # fmt: skip
    assert "cpu" not in names.split(), "verl has a CPU platform: remove rearank.training.verl.cpu.platform"


def test_it_is_inert_unless_asked_for() -> None:
    code = "import verl; from rearank.training.verl import cpu; print(cpu.applied)"
    assert python(code) == "[]"


def test_asked_for_it_is_all_there() -> None:
    code = (
        "import verl; from rearank.training.verl import cpu; from verl.plugin.platform import get_platform; "
        "print(get_platform().device_name, len(cpu.applied))"
    )
    assert python(code, VERL_PLATFORM="cpu") == f"cpu {len(PATCHES) + 1}"


def test_on_gpus_only_what_is_of_use_there_is_put_in_place() -> None:
    code = "import verl; from rearank.training.verl import cpu; print(cpu.applied)"
    expected = [patch.name for patch in PATCHES if patch.on_gpu]
    assert python(code, REARANK_WEIGHT_TIMEOUT="5") == str(expected)
    assert len(expected) == 5


def test_verl_still_asks_small_vocabularies_for_a_newline() -> None:
    from transformers import AutoTokenizer
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    tokenizer = AutoTokenizer.from_pretrained(ASSETS)
    with pytest.raises(ValueError, match="newline"):  # if not: remove `hf_model_type = None` in rollouts.RolloutWorker
        create_continuous_token_builder(tokenizer, hf_model_type="qwen3")
    generic = create_continuous_token_builder(tokenizer, hf_model_type=None)
    turns = [
        {"role": "user", "content": "ship"},
        {"role": "assistant", "content": "port"},
        {"role": "user", "content": "x"},
    ]
    whole = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert list(generic.build_initial_tokens(turns)) == list(whole), "prompts are the chat template's, to the token"


def test_both_entry_points_are_found() -> None:
    names = {
        (point.group, point.value)
        for group in ("verl.plugins", "vllm.general_plugins")
        for point in importlib.metadata.entry_points(group=group)
    }
    assert ("verl.plugins", "rearank.training.verl.cpu") in names
    assert ("vllm.general_plugins", "rearank.training.verl.cpu.vllm_plugin:register") in names


def test_linear_weights_are_read_at_each_call() -> None:
    import torch
    from vllm.model_executor.layers import utils

    from rearank.training.verl.cpu.vllm_plugin import keep_weights, register

    before = utils.dispatch_cpu_unquantized_gemm
    register()
    assert utils.dispatch_cpu_unquantized_gemm is before, "not asked for"
    try:
        keep_weights(utils)
        layer = torch.nn.Linear(3, 2, bias=False)
        utils.dispatch_cpu_unquantized_gemm(layer, True)
        layer.weight.data = torch.ones(2, 3)
        assert layer.cpu_linear(torch.ones(1, 3), layer.weight, None).tolist() == [[3.0, 3.0]]
    finally:
        utils.dispatch_cpu_unquantized_gemm = before


def test_entropy_over_slices_is_not_compiled_anew_for_every_length() -> None:
    """verl's engine as our config makes it, and as verl's own default would: graphs over twelve numbers of tokens."""
    code = """
import sys, torch, torch._dynamo as dynamo
from functools import partial
import verl
from omegaconf import open_dict
from pathlib import Path
from rearank.engines.model import Model
from rearank.algorithms import PolicyGradient
from rearank.training.verl import Cluster, VerlTrainer
from rearank.training.verl.compose import ppo_config
from rearank.training.verl.settings import Files, Lengths, Weights
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine.fsdp import transformer_impl

torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
torch.compile = partial(torch.compile, backend="eager")  # what is counted is tracing, not code for a GPU
weights = Weights(Model("tiny", "pkg://rearank/training/assets/tiny").location, Lengths(64, 64), "{}", 0)
files = Files(Path("rows"), None, Path("checkpoints"))

def graphs(**changes):
    trainer = VerlTrainer(cluster=Cluster(gpus_per_node=1), device="cpu")
    config = ppo_config(trainer, PolicyGradient(), weights, files, 1)
    with open_dict(config):
        config.actor_rollout_ref.actor.fsdp_config.update(changes)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    engine = transformer_impl.FSDPEngineWithLMHead(model, actor.engine, actor.optim, actor.checkpoint)
    dynamo.reset()
    dynamo.utils.counters.clear()
    for tokens in range(3000, 3000 + 12 * 2500, 2500):
        engine.compute_entropy_from_logits(torch.zeros(tokens, 3), chunk_size=2048)
    return dynamo.utils.counters["stats"]["unique_graphs"]

print(graphs(), graphs(use_torch_compile=True))
"""
    ours, verls = map(int, python(code, VERL_PLATFORM="cpu", VERL_ENGINE_DEVICE="cuda").split())
    assert ours == 0
    assert verls >= 8, "compiled, verl no longer traces each length: use_torch_compile may be left to it"
