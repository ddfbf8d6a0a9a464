"""The wheel alone, with its base dependencies and nothing else, in a fresh environment and a folder of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from email.parser import HeaderParser
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
from tests.conftest import ROOT
from tests.installed.wheels import Environment, wheel_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("uv") is None, reason="uv is missing: pip install -e '.[dev]'"),
]
ROWS = (
    {"query": "cook sweets bread", "passages": ["bread meal every old mug", "simple grey soup", "cook warm cook"]},
    {"query": "old mug", "passages": ["a", "b"]},
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(ROOT, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("fresh") / "venv", borrowed=False)
    made.install(wheel, "--constraint", ROOT / "constraints" / "cpu.txt")
    return made


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        (place,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(place).decode())
    assert {"rearank/conf/config.yaml", "rearank/conf/__init__.py", "rearank/constraints/cluster.txt"} <= set(names)
    assert {name.partition("/")[0] for name in names} == {"rearank", "hydra_plugins", place.partition("/")[0]}
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
    for field in (
        "Summary",
        "Author",
        "Keywords",
        "License-Expression",
        "License-File",
        "Requires-Python",
        "Project-URL",
    ):
        assert metadata[field], field
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "# rearank" in metadata.get_payload()


def test_help_and_version_from_any_folder(fresh: Environment, tmp_path: Path) -> None:
    shown = fresh.must(tmp_path, "--help")
    assert "rearank experiment=quickstart" in shown
    assert re.search(r"^reward: .*\bndcg\b", shown, re.MULTILINE)
    assert re.fullmatch(r"rearank \d+\.\d+\.\d+\n", fresh.must(tmp_path, "--version"))
    python = fresh.folder / "bin" / "python"
    again = subprocess.run(
        [python, "-m", "rearank", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert again.stdout == shown
    assert not list(tmp_path.iterdir())


def test_doctor_says_that_there_is_no_torch_and_how_to_get_it(fresh: Environment, tmp_path: Path) -> None:
    found = json.loads(fresh.must(tmp_path, "doctor", "--json"))
    runs = {one["what"]: one for one in found["runs"]}
    assert not runs["engine=transformers"]["ready"]
    assert (
        "the package torch is missing; install rearank's extra train: pip install 'rearank[train]'"
        in runs["engine=transformers"]["lacks"]
    )
    assert found["places"]["config"].startswith(str(fresh.folder))
    assert found["versions"]["differ"] == []
    assert "no   engine=transformers" in fresh.must(tmp_path, "doctor")


def test_lists_are_reranked_there(fresh: Environment, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = ("task=rerank", "model=tiny", "engine=scripted", "engine.behaviour=reverse", "rerank.input=rows.jsonl")
    fresh.must(tmp_path, *words, "rerank.output=out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [[passage["id"] for passage in one["passages"]] for one in found] == [["2", "1", "0"], ["1", "0"]]


def test_what_it_lacks_is_said_in_json_where_asked(fresh: Environment, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    words = ("task=rerank", "model=tiny", "rerank.input=rows.jsonl", "rerank.output=out.jsonl")
    ended = fresh.run(tmp_path, *words, REARANK_ERRORS="json")
    said = json.loads(ended.stderr.splitlines()[-1])
    assert (ended.returncode, said["status"], said["kind"]) == (1, 1, "preflight")
    assert {one["remedy"] for one in said["problems"]} == {
        "install rearank's extra train: pip install 'rearank[train]'"
    }


def test_a_shell_completes_it(fresh: Environment, tmp_path: Path) -> None:
    """As bash calls it: the installed script, then the function that it defines."""
    program = """
eval "$(rearank -sc install=bash)"
COMP_LINE="rearank model=ti"; COMP_POINT=16; COMP_CWORD=1; COMP_WORDS=(rearank model=ti)
hydra_bash_completion
printf '%s\\n' "${COMPREPLY[@]}"
"""
    path = f"{fresh.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-c", program],
        cwd=tmp_path,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout.split() == ["model=tiny"]
