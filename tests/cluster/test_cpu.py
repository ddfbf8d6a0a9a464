"""The CPU platform: inert unless asked for, and no patch outlives its reason."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys

import pytest

from rearank.training import tiny
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
    assert len(expected) == 2


def test_verl_still_asks_small_vocabularies_for_a_newline() -> None:
    from transformers import AutoTokenizer
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    tokenizer = AutoTokenizer.from_pretrained(tiny.ASSETS)
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
