"""What preflight asks the machine for ``trainer=verl``: packages, Python, driver, GPUs, cores, memory, a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.training.verl import Cluster, VerlTrainer
from rearank.training.verl import machine as of

ON_CPU = VerlTrainer(cluster=Cluster(gpus_per_node=2), device="cpu")
LOCK = of.read_lock("cluster")

Machine = Callable[..., None]


def trainer(gpus: int = 8, address: str | None = None, **changes: Any) -> VerlTrainer:
    return VerlTrainer(cluster=Cluster(gpus_per_node=gpus, address=address), **changes)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine as ``nvidia-smi`` shows it, with ``count`` GPUs and a compiler."""

    def make(
        count: int = 8, driver: str = "580.65.06", cuda: str = "13.0", capability: str = "9.0", used: int = 4
    ) -> None:
        fields = {"driver_version": driver, "compute_cap": capability, "memory.used": used, "memory.total": 81559}
        tool = tmp_path / "nvidia-smi"
        tool.write_text(
            f"#!{sys.executable}\n"
            "import sys\n"
            f"fields = {fields!r}\n"
            "asked = [part.partition('=')[2] for part in sys.argv if part.startswith('--query-gpu=')]\n"
            f"print('| NVIDIA-SMI {driver}  Driver Version: {driver}  CUDA Version: {cuda} |') if not asked else None\n"
            f"[print(', '.join(str(fields[name]) for name in asked[0].split(','))) for _ in range({count}) if asked]\n"
        )
        for name in ("nvidia-smi", "gcc"):
            (tmp_path / name).touch()
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(of, "installed", lambda: LOCK)
        monkeypatch.setattr(of, "_NEWEST", sys.version_info[:2])
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))

    return make


@pytest.mark.parametrize("name", ["cluster", "cluster-cpu"])
def test_a_lock_is_read_as_it_is_shipped(name: str, root: Path) -> None:
    lock = of.read_lock(name)
    lines = (root / "constraints" / f"{name}.txt").read_text().splitlines()
    assert len(lock) == sum("==" in line for line in lines) > 200
    assert all(package == package.lower() and "_" not in package for package in lock)
    assert lock["transferqueue"] == "0.1.11"


@given(st.sets(st.sampled_from(sorted(of.PACKAGES))))
def test_every_missing_package_is_named_and_no_other(lacking: set[str]) -> None:
    have = {name: version for name, version in LOCK.items() if name not in {of.PACKAGES[one] for one in lacking}}
    said = of._missing(trainer(), have)
    named = said[0].split(": ")[2].split("; ")[0].split(", ") if said else []
    assert set(named) == lacking
    assert not said or "pip install --constraint constraints/cluster.txt --editable '.[cluster,wandb]'" in said[0]


def test_vllms_cpu_build_is_for_cpus_alone() -> None:
    lock = of.read_lock("cluster-cpu")
    assert of._missing(ON_CPU, lock) == []
    assert "missing packages: vllm;" in of._missing(trainer(), lock)[0]


def test_verl_is_the_one_whose_insides_are_used() -> None:
    (said,) = of._missing(trainer(), LOCK | {"verl": "0.8.0"})
    assert (
        said == f"trainer=verl uses the insides of verl {LOCK['verl']} and 0.8.0 is installed: pip install verl==0.9.1"
    )


def test_verl_fails_beside_a_new_trl() -> None:
    assert of._missing(trainer(), LOCK | {"trl": "0.27.0"}) == []
    (said,) = of._missing(trainer(), LOCK | {"trl": "1.16.0"})
    assert "verl 0.9.1 fails beside TRL 1.16.0: pip uninstall trl" in said


@given(st.sets(st.sampled_from(sorted(LOCK))), st.sets(st.sampled_from(sorted(LOCK))))
def test_what_differs_from_the_lock_is_counted(other: set[str], absent: set[str]) -> None:
    have = {name: "0" if name in other else version for name, version in LOCK.items() if name not in absent}
    said = of._drift(trainer(), have)
    assert bool(said) == bool(other | absent)
    for what, names in (("different: ", other - absent), ("missing: ", absent)):
        shown = said[0].split(what)[1].split(";")[0] if names else ""
        assert shown.count(",") == max(0, min(len(names), 8) - 1)
        assert not shown or len(names) <= 8 or f"and {len(names) - 8} more" in shown


def test_what_matters_most_is_named_first() -> None:
    (said,) = of._drift(trainer(), dict.fromkeys(LOCK, "0"))
    assert (
        "different: verl 0 (lock: 0.9.1), ray 0 (lock: 2.60.0), vllm 0 (lock: 0.24.0), torch 0 (lock: 2.11.0), " in said
    )


def test_a_build_of_a_version_is_that_version() -> None:
    assert all("+" not in version for version in of.installed().values())
    assert of.installed()["pyarrow"]


def test_a_machine_that_has_everything(machine: Machine) -> None:
    machine()
    assert of.problems(trainer()) == []


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"driver": "570.86.15", "cuda": "12.8"}, "NVIDIA's driver is 570.86.15, and the CUDA 13"),
        ({"driver": "535.104.05", "cuda": "12.2"}, "needs 580 or newer"),
        ({"capability": "7.5"}, "compute capability 7.5, and training in bfloat16 needs 8"),
        ({"count": 4}, "cluster.gpus_per_node=8 GPUs and there are 4 here"),
        ({"count": 1}, "GPUs and there is 1 here"),
        ({"count": 0}, "GPUs and there is none here"),
    ],
)
def test_what_a_machine_lacks(machine: Machine, seen: dict[str, Any], said: str) -> None:
    machine(**seen)
    (problem,) = of.problems(trainer())
    assert said in problem
    assert of.problems(trainer(address="auto")) == [], "another machine's GPUs are not known here"
    assert of.problems(trainer(device="cpu")) == of._missing(ON_CPU, LOCK), "no GPU is asked for"


def test_a_compatibility_library_stands_in_for_a_new_driver(machine: Machine) -> None:
    machine(driver="570.86.15", cuda="13.0")
    assert of.problems(trainer()) == []


def test_only_the_gpus_that_this_process_may_use_count(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert "there are 2 here" in of.problems(trainer())[0]


def test_a_python_that_verl_does_not_know(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    monkeypatch.setattr(of, "_NEWEST", (3, 10))
    (said,) = of.problems(trainer())
    assert f"this is {sys.version_info[0]}.{sys.version_info[1]}; make an environment with 3.12" in said


def test_without_a_compiler_triton_fails(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    (tmp_path / "gcc").unlink()
    monkeypatch.delenv("CC", raising=False)
    (said,) = of.problems(trainer())
    assert "needs a C compiler (apt-get install gcc)" in said
    monkeypatch.setenv("CC", "mine")
    assert of.problems(trainer()) == []


def test_flash_attention_that_is_asked_for(machine: Machine) -> None:
    machine()
    (said,) = of.problems(trainer(attention="flash_attention_2"))
    assert f"the package flash-attn is missing; {of.WHEEL}" in said


def test_what_costs_much_is_a_warning(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(used=30 * 1024)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=64 << 20))
    flash, cores, busy, shared = of.warnings(trainer())
    assert "230 to 280 s a step" in flash
    assert "(computed, not measured;" in flash
    assert "row by row" not in of.warnings(trainer(fused_kernels=True))[0], "fused kernels have no such loop"
    assert cores.startswith(
        "8 CPU cores for 8 trainers, 8 processes of rollout engines, 8 rollout and 8 reward workers"
    )
    assert "give the job 32" in cores
    assert busy.startswith("other processes hold 30.0 GiB of GPU 0, ")
    assert shared.startswith("/dev/shm has 0.1 GiB free")
    assert of.warnings(trainer(address="auto")) == [flash]
    assert of.warnings(trainer(4))[1:] == [busy, shared], "8 cores do for 4 GPUs"


def test_enough_is_no_warning(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 40))
    assert [said.split(" is missing")[0] for said in of.warnings(trainer())] == ["flash-attention"]


def test_memory_of_the_machine() -> None:
    free = of.memory_bytes("MemAvailable")
    assert free is not None
    assert 0 < free <= (of.memory_bytes("MemTotal") or 0)
    assert of.memory_bytes("NoSuchLine") is None


@pytest.mark.slow
def test_preflight_of_the_paper_says_what_this_machine_lacks(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "run.py", "experiment=paper", "task=preflight", f"paths.outputs={tmp_path}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    node = trainer()
    assert done.returncode
    said = [line.removeprefix("  - ") for line in done.stderr.splitlines() if line.startswith("  - ")]
    assert [line for line in said if line in of.problems(node)] == of.problems(node)
    assert [line for line in done.stdout.splitlines() if "WARNING" in line] == [
        f"preflight: WARNING: {warning}" for warning in of.warnings(node)
    ]
