"""A LoRA adapter merged into its base is the model that the two are together."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.shipped import ASSETS

from rearank.engines.base import EngineError
from rearank.engines.merge import main, merge
from rearank.engines.model import Architecture, Model

pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Of the model that ships here; it changes the answers."""
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(ASSETS, dtype=torch.float32)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(1)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_the_merged_model_is_base_and_adapter_together(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "merged"
    main([str(ASSETS), str(adapter), str(folder)])
    assert f"model.path={folder} model.adapter_of=null" in capsys.readouterr().out
    assert Model("merged", str(folder)).preflight() == []
    assert Architecture.from_folder(folder) == Architecture.from_folder(ASSETS)
    tokens = AutoTokenizer.from_pretrained(folder)("Query: x", return_tensors="pt").input_ids
    base = AutoModelForCausalLM.from_pretrained(ASSETS, dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        plain = base(tokens).logits
        both = peft.PeftModel.from_pretrained(base, adapter)(tokens).logits
        got = merged(tokens).logits
    torch.testing.assert_close(got, both, rtol=1e-3, atol=1e-3)
    assert float((plain - both).abs().max()) > 0.01, "an adapter that changes nothing shows nothing"


def test_what_cant_be_merged_is_said(adapter: Path, tmp_path: Path) -> None:
    assert "a LoRA adapter alone" in Model("mine", str(adapter)).preflight()[0]
    with pytest.raises(EngineError, match=r"nowhere can't be merged into .*tiny"):
        merge(str(ASSETS), str(tmp_path / "nowhere"), tmp_path / "out")
    with pytest.raises(EngineError, match=r"adapter is not empty; name another folder"):
        merge(str(ASSETS), str(adapter), adapter)


def test_the_command_line_says_it_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(ASSETS), str(tmp_path), str(tmp_path / "out")])
    assert "can't be merged into" in capsys.readouterr().err
