"""``rearank doctor``: what it says agrees with this environment, and it needs nothing heavy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT
from tests.end_to_end.pipeline import environment

from rearank.choices import CONF
from rearank.cli import doctor


def report(capsys: pytest.CaptureFixture[str]) -> Any:
    doctor.doctor(["--json"])
    return json.loads(capsys.readouterr().out)


def test_it_says_what_is_installed_here(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys)
    assert found["rearank"]["version"] == version("rearank")
    assert found["python"]["version"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    assert found["places"]["config"] == str(CONF)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {one["extra"] for one in found["extras"]} == set(declared) == set(doctor._EXTRAS)
    runs = {one["what"]: one for one in found["runs"]}
    has_transformers = find_spec("torch") is not None and find_spec("transformers") is not None
    assert runs["engine=transformers"]["ready"] == has_transformers
    assert runs["trainer=verl"]["ready"] == (not runs["trainer=verl"]["lacks"])
    extras = {one["extra"]: one for one in found["extras"]}
    assert extras["wandb"]["ready"] == (find_spec("wandb") is not None)
    assert extras["train"]["ready"] or any(
        re.match(r"(torch|transformers|trl)\W", one) for one in extras["train"]["lacks"]
    )


def test_a_version_other_than_the_tested_one_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    have = {**doctor.installed(), "numpy": "0.1", "pyarrow": "1.0"}
    monkeypatch.setattr(doctor, "installed", lambda: have)
    found = report(capsys)
    differ = {one["package"]: one for one in found["versions"]["differ"]}
    assert differ["numpy"]["here"] == "0.1"
    assert f"numpy=={differ['numpy']['tested']}" in (ROOT / found["versions"]["lock"]).read_text()
    doctor.doctor([])
    text = capsys.readouterr().out
    assert f"numpy 0.1 (tested {differ['numpy']['tested']})" in text


def test_an_extra_of_another_version_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "installed", lambda: {"openai": "1.9", "fastapi": "0.200"})
    extras = {one["extra"]: one for one in report(capsys)["extras"]}
    assert extras["api"]["lacks"] == ["openai>=2 (here: 1.9)"]
    assert extras["serve"]["lacks"] == ["uvicorn>=0.30"]
    assert extras["api"]["install"] == "pip install 'rearank[api]'"


def test_its_lines_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.doctor([])
    long = [line for line in capsys.readouterr().out.splitlines() if len(line) > 100 and not re.search(r"\S{60}", line)]
    assert not long


@pytest.mark.slow
def test_it_imports_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rearank", "doctor"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    modules = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert not modules & {"torch", "transformers", "vllm", "verl", "ray", "wandb", "ir_datasets"}
    assert Path(sys.executable).name in done.stdout
