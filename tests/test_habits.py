"""What stands beside the code agrees with it: versions, what CI and hooks run, the files that texts link to."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

import rearank
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_one_version_everywhere() -> None:
    assert rearank.__version__ == version("rearank") == PROJECT["version"] == str(read("CITATION.cff")["version"])
    first = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first.group(1) in (PROJECT["version"], "Unreleased")


def test_the_citation_is_of_this_project_and_of_the_paper() -> None:
    cited = read("CITATION.cff")
    assert (cited["title"], cited["license"]) == (PROJECT["name"], PROJECT["license"])
    assert [author["name"] for author in cited["authors"]] == [author["name"] for author in PROJECT["authors"]]
    (paper,) = cited["references"]
    assert PROJECT["urls"]["Paper"] == paper["url"]
    assert "2505.20046" in paper["identifiers"][0]["value"]


def test_every_supported_python_is_declared_and_in_ci() -> None:
    declared = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", one)]
    lowest, highest = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()  # type: ignore[union-attr]
    assert declared == [f"3.{minor}" for minor in range(int(lowest), int(highest))]
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    assert sorted(job["steps"][1]["with"]["python-version"].split()) == declared
    assert job["steps"][-1] == {"run": ".ci/run"}


def test_the_hooks_are_what_make_checks() -> None:
    makefile = (ROOT / "Makefile").read_text()
    hooks = read(".pre-commit-config.yaml")["repos"][0]["hooks"]
    assert {hook["entry"].split()[0].rpartition("/")[2] for hook in hooks} == {"ruff", "mypy", "lint-imports"}
    for hook in hooks:
        assert f"\t$(BIN)/{hook['entry'].removeprefix('.venv/bin/')}\n" in makefile


@pytest.mark.parametrize("name", ["bug", "idea"])
def test_the_issue_forms_are_forms(name: str) -> None:
    form = read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    assert all({"type", "id", "attributes"} <= set(part) for part in form["body"])


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "examples/outside_package/README.md"])
def test_texts_link_to_what_is_there(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
        assert (path.parent / Path(target)).exists(), target
    for target in re.findall(r"\bmake ([a-z-]+)`", path.read_text()):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()
