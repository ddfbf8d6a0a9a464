"""A model's files are looked at before they are needed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import rearank.training
from rearank.engines.weights import hub_problems, weight_problems

TINY = Path(rearank.training.__file__).parent / "assets" / "tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model."""
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def weights_in(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def test_a_whole_model_lacks_nothing(folder: Path) -> None:
    assert weight_problems(folder) == []


def test_a_pointer_is_no_weights(folder: Path) -> None:
    weights_in(folder).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "a Git LFS pointer and no weights; run `git lfs pull`" in weight_problems(folder)[0]


@pytest.mark.parametrize("kept", [0, 5, 100, 5000])
def test_a_file_cut_short_is_noticed(folder: Path, kept: int) -> None:
    weights_in(folder).write_bytes(weights_in(folder).read_bytes()[:kept])
    assert [line for line in weight_problems(folder) if str(weights_in(folder)) in line and "fetch it again" in line]


def test_what_the_index_names_must_be_there(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    assert "names model-2.safetensors, which isn't there" in weight_problems(folder)[0]
    (folder / "model.safetensors.index.json").write_text('{"weight_map"')
    assert "index.json: can't be read" in weight_problems(folder)[0]


def test_no_weights_and_no_tokenizer_are_named(folder: Path) -> None:
    weights_in(folder).unlink()
    assert "no weights in it" in weight_problems(folder)[0]
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.json").unlink(missing_ok=True)
    shutil.copy(weights_in(TINY), folder)
    assert "no tokenizer in it" in weight_problems(folder)[0]


def test_a_name_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (problem,) = hub_problems("somebody/nothing-of-the-kind", None)
    assert "not in the cache" in problem
    assert "HF_HUB_OFFLINE forbids" in problem
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("rearank.engines.weights.reachable", lambda url: False)
    assert "can't be reached; set model.path to a folder" in hub_problems("somebody/nothing-of-the-kind", None)[0]
    monkeypatch.setattr("rearank.engines.weights.reachable", lambda url: True)
    assert hub_problems("somebody/nothing-of-the-kind", None) == []


def test_what_is_in_the_cache_is_looked_at_too(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *args, **more: str(folder / "config.json"))
    assert hub_problems("somebody/tiny", None) == []
    weights_in(folder).write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert "Git LFS pointer" in hub_problems("somebody/tiny", None)[0]
