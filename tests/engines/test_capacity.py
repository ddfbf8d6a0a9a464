"""How a model divides over GPUs and how many windows a cache holds: sizes in, words and numbers out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.engines.model import Architecture
from rearank.engines.vllm.capacity import GIB, MOST_SEQUENCES, Split, bytes_per_token, choose_sequences, gpus_seen

# Qwen2.5-7B-Instruct's config.json.
QWEN7B = Architecture(28, 3584, 18944, 28, 4, 128, 152064, 32768, attention_bias="qkv")


def test_the_cache_of_a_known_model() -> None:
    """2 x 28 layers x 4 heads x 128 x 2 bytes: 56 KiB a token, the figure the model's authors' sizes give."""
    assert bytes_per_token(QWEN7B, Split(), "bfloat16") == 57_344
    assert bytes_per_token(QWEN7B, Split(tensor=2), "bfloat16") == 28_672
    assert bytes_per_token(QWEN7B, Split(tensor=2, pipeline=2), "bfloat16") == 14_336
    # More GPUs than key-value heads: each keeps one head.
    assert bytes_per_token(QWEN7B, Split(tensor=28), "bfloat16") == 57_344 // 4


@pytest.mark.parametrize("tensor", [1, 2, 4, 28])
def test_splits_that_fit(tensor: int) -> None:
    assert Split(tensor).misfits(QWEN7B) == []


@pytest.mark.parametrize("tensor", [3, 7, 8, 14, 56])
def test_splits_that_do_not_divide_the_heads(tensor: int) -> None:
    (line,) = Split(tensor).misfits(QWEN7B)
    assert f"engine.tensor_parallel={tensor} does not divide" in line
    assert "28 attention heads and 4 key-value heads; choose one of 1, 2, 4, 28" in line


def test_more_pipeline_stages_than_layers() -> None:
    (line,) = Split(pipeline=29).misfits(QWEN7B)
    assert "engine.pipeline_parallel=29" in line
    assert "28 layers" in line


def test_gpus_that_are_not_there() -> None:
    split = Split(tensor=2, pipeline=2, data=2)
    assert split.parts == 8
    assert split.shortage(8) == []
    (line,) = split.shortage(4)
    assert "takes 8 GPUs and 4 are seen here" in line


def test_as_many_windows_as_the_cache_holds() -> None:
    # 80 GiB x 0.9 - 14.2 of weights - 4: 53.8 GiB of cache, about a million tokens.
    window: dict[str, Any] = {"dtype": "bfloat16", "prompt": 4000, "answer": 2000}
    choice = choose_sequences(QWEN7B, Split(), gpu_gib=80.0, **window)
    assert choice.sequences is not None
    assert choice.sequences % 8 == 0
    tokens = (80 * 0.9 - QWEN7B.parameters * 2 / GIB - 4) * GIB / 57_344
    assert choice.sequences <= tokens / 5000 < choice.sequences + 8
    assert "a prompt of 4,000" in choice.why
    short = choose_sequences(QWEN7B, Split(), gpu_gib=80.0, dtype="bfloat16", prompt=400, answer=200)
    assert short.sequences == MOST_SEQUENCES
    small = choose_sequences(QWEN7B, Split(), gpu_gib=24.0, **window)
    split = choose_sequences(QWEN7B, Split(tensor=2), gpu_gib=24.0, **window)
    assert small.sequences is not None
    assert split.sequences is not None
    assert small.sequences * 2 < split.sequences, "the weights are split, too"


@pytest.mark.parametrize(
    ("sizes", "given", "why"),
    [
        (None, {"gpu_gib": 80.0}, "sizes are not known"),
        (QWEN7B, {}, "no GPU's memory"),
        (QWEN7B, {"gpu_gib": 16.0}, "leave no cache"),
    ],
)
def test_otherwise_it_is_left_to_vllm(sizes: Architecture | None, given: dict[str, float], why: str) -> None:
    choice = choose_sequences(sizes, Split(), dtype="bfloat16", prompt=4000, answer=2000, **given)  # type: ignore[arg-type]
    assert choice.sequences is None
    assert why in choice.why


@given(st.floats(0.001, 500), st.integers(1, 100_000), st.integers(1, 100_000))
def test_a_choice_never_asks_for_more_than_the_cache_but_for_one_window(gib: float, prompt: int, answer: int) -> None:
    choice = choose_sequences(QWEN7B, Split(), dtype="bfloat16", prompt=prompt, answer=answer, cache_gib=gib)
    assert choice.sequences is not None
    assert 1 <= choice.sequences <= MOST_SEQUENCES
    assert choice.sequences == 1 or choice.sequences * (prompt + answer / 2 - 1) * 57_344 <= gib * GIB


def test_the_gpus_that_this_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '81559\\n81559\\n24564\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [round(gib) for gib in gpus_seen()] == [80, 80, 24]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert [round(gib) for gib in gpus_seen()] == [24, 80]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1a2b")
    assert len(gpus_seen()) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_seen() == []
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert gpus_seen() == []
