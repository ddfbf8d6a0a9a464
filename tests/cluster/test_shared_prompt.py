"""verl's engine with each prompt computed once: what verl's own computes, on batches and losses of verl's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.shared_engine import found
from tests.cluster.test_cpu import python
from tests.shipped import ASSETS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ENVIRONMENT = {"VERL_PLATFORM": "cpu", "VERL_ENGINE_DEVICE": "cuda"}
MIXED = [(40, [10, 3, 7, 1]), (20, [5, 5, 5, 5]), (33, [30]), (25, [1 + index % 6 for index in range(32)])]
BUDGET = 120  # tokens: less than the last group has


def check(one: dict[str, Any]) -> None:
    """In float32; log-probabilities are of about -8 nats."""
    assert (one["engine"], one["form"]) == ("SharedPromptEngine", "dense")
    apart = one["apart"]
    assert apart["log_probs"] < 5e-5
    assert apart["entropy"] < 5e-5
    assert apart["loss"] < 1e-5
    assert apart["gradient"] < 1e-5


def model_with(folder: Path, **changes: Any) -> str:
    """The tiny model's vocabulary with weights of its own; returns the folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(ASSETS, **changes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ASSETS).save_pretrained(folder)
    return str(folder)


def test_log_probabilities_and_gradients_are_verls_own(tmp_path: Path) -> None:
    """With entropy and a reference in the loss; a group of 32 that takes two passes."""
    (one,) = found(tmp_path, groups=[MIXED], budget=BUDGET, entropy=True)
    check(one)
    tokens = {path: sum(passes) for path, passes in one["passes"].items()}
    assert tokens["plain"] == sum(prompt + answer for prompt, answers in MIXED for answer in answers)
    assert tokens["shared"] == tokens["shared update"] < tokens["plain"] / 3
    assert max(one["passes"]["shared"]) <= BUDGET


def test_two_ranks_with_adapters_and_gradient_checkpointing(tmp_path: Path) -> None:
    """Of their own they would take two passes and one; sharded, they need the same number."""
    both = [MIXED[:3], [(30, [4] * 4), (12, [2] * 5)]]
    ranks = found(tmp_path, ranks=2, groups=both, budget=BUDGET, lora=True, checkpointing=True)
    for one in ranks:
        check(one)
    assert len({len(one["passes"]["shared update"]) for one in ranks}) == 1


def test_windows(tmp_path: Path) -> None:
    """Layers that see eight tokens back beside others that see everything."""
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    windows = {"use_sliding_window": True, "sliding_window": 8, "layer_types": kinds}
    (one,) = found(tmp_path, groups=[MIXED], budget=BUDGET, model=model_with(tmp_path / "model", **windows))
    check(one)


def test_a_model_that_cannot_share_takes_verls_own_path_or_says_why(tmp_path: Path) -> None:
    model = model_with(tmp_path / "model", attention_dropout=0.1)
    given = {"groups": [MIXED[:1]], "budget": BUDGET, "model": model, "reference": True}
    (one,) = found(tmp_path, asked="auto dense", **given)
    assert one["form"] is None
    assert one["passes"]["shared"] == one["passes"]["plain"]
    said = r"trainer\.shared_prompt=true: this model's prompts can't be shared: dropout"
    with pytest.raises(AssertionError, match=said):
        found(tmp_path, asked="true dense", **given)


def test_a_device_that_cannot_take_masks_in_blocks_takes_verls_own_path(tmp_path: Path) -> None:
    """``flex_attention`` is tried before the first step, and has no backward pass on CPUs."""
    (one,) = found(tmp_path, asked="auto flex", groups=[MIXED[:1]], budget=BUDGET, reference=True)
    assert (one["engine"], one["form"]) == ("SharedPromptEngine", None)
    assert one["passes"]["shared"] == one["passes"]["plain"]


def test_verl_finds_it_where_it_is_asked_for_alone() -> None:
    code = (
        "import json, verl; from verl.workers.engine import EngineRegistry as R; "
        "print(json.dumps([R.get_engine_cls(kind, 'fsdp2').__name__ for kind in ('language_model', 'value_model')]))"
    )
    critic = "FSDPEngineWithValueHead"
    assert json.loads(python(code, **ENVIRONMENT)) == ["FSDPEngineWithLMHead", critic]
    asked = {**ENVIRONMENT, "REARANK_SHARED_PROMPT": "auto dense"}
    assert json.loads(python(code, **asked)) == ["SharedPromptEngine", critic]
    taken = (
        "import verl, verl.workers.engine; from rearank.training.verl.sharing.engine import register\n"
        "try:\n    register()\nexcept AssertionError as error:\n    print(error)"
    )
    assert "already regist" in python(taken, **asked), "verl has an engine in this place: ours would never be found"


def test_a_run_ends_where_verl_does_not_find_it() -> None:
    """Installed without its entry points, or put on the path alone."""
    code = (
        "from rearank.training.base import TrainingError; from rearank.training.verl.runner import _assert_plugin\n"
        "try:\n    _assert_plugin()\n    print('found')\nexcept TrainingError as error:\n    print(error)"
    )
    asked = {**ENVIRONMENT, "REARANK_SHARED_PROMPT": "auto dense"}
    assert python(code, **asked) == "found"
    on_gpu = {"REARANK_SHARED_PROMPT": "auto flex", "VERL_USE_EXTERNAL_PLUGINS": "none"}
    assert python(code, **on_gpu).startswith("trainer.shared_prompt: verl doesn't find its engine: install rearank")
