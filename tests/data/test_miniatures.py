"""Catalogue ids of ir_datasets read from miniature source files, through the shipped yamls, to a score."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from miniatures import lay_all

NAMES = ("scifact", "arguana", "bright_biology", "nano_scifact", "mrtydi_th", "mrtydi_fi", "dl21", "dl19")
OFFICIAL = "dl19,retriever@benchmark.retriever=scoreddocs"
# Nothing answers there: what isn't laid by hand must be said to be missing, at once.
OFFLINE = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:1")


def environment(home: Path) -> dict[str, str]:
    quick = {"IR_DATASETS_DL_TRIES": "1", "NO_PROXY": "", "no_proxy": ""}
    return {**os.environ, **OFFLINE, **quick, "IR_DATASETS_HOME": str(home)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("irds")
    lay_all(folder)
    return folder


@pytest.fixture(scope="module")
def measured(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = Path(__file__).with_name("miniatures.py")
    command = [sys.executable, str(script), str(tmp_path_factory.mktemp("cache")), *NAMES, OFFICIAL]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("scifact", {"9": ["1"]}),
        ("arguana", {"arg-con": ["arg-pro"]}),  # and not the query's own passage, which matches best
        ("nano_scifact", {"q1": ["d1"], "q2": ["d2"]}),
        ("mrtydi_th", {"1": ["2#0"]}),
        ("mrtydi_fi", {"1": ["2#0", "1#0"]}),
        ("dl19", {"7": ["1", "0"]}),
    ],
)
def test_first_stages_find_what_they_should(measured: dict[str, Any], name: str, run: dict[str, list[str]]) -> None:
    assert measured[name]["run"] == run
    assert set(measured[name]["ndcg"].values()) == {1.0}


@pytest.mark.parametrize("name", ["dl21", OFFICIAL])
def test_official_lists_are_taken_as_they_are(measured: dict[str, Any], name: str) -> None:
    assert measured[name]["ndcg"] == {"7": pytest.approx(0.6309, abs=1e-4)}  # the one good passage stands second
    assert measured[name]["texts"][1] in ("green apples", "green apples and pears")


def test_bright_leaves_excluded_passages_out_and_reads_ids_with_spaces(measured: dict[str, Any]) -> None:
    """The excluded passage matches best; the query that excludes nothing keeps it."""
    found = measured["bright_biology"]
    assert found["run"] == {
        "0": ["cells/b.txt", "cells/c_d.txt"],
        "1": ["cells/a_1.txt", "cells/b.txt", "cells/c_d.txt"],
    }
    assert found["ndcg"] == {"0": pytest.approx(0.6309, abs=1e-4), "1": 0.5}
    assert found["texts"][1] == "they divide"


def test_no_two_corpora_share_an_index(measured: dict[str, Any]) -> None:
    corpora = [measured[name]["corpus"] for name in NAMES]
    assert len(set(corpora)) == len(NAMES)
    assert measured["bright_biology"]["corpus"].startswith("bright/biology:")
    assert measured["dl19"]["corpus"] == measured[OFFICIAL]["corpus"]


def test_a_list_goes_on_without_the_members_whose_data_is_missing(home: Path, tmp_path: Path, root: Path) -> None:
    settled = ("task=evaluate", "engine=none", "tracking=none", "name=run", "model=tiny", "prompt=compact")
    command = [sys.executable, str(root / "run.py"), *settled, "benchmark=bright", f"paths.outputs={tmp_path}"]
    left_out = [f"~benchmark.members.bright_{split}" for split in ("aops", "pony", "robotics", "leetcode")]
    done = subprocess.run(
        [*command, *left_out], env=environment(home), capture_output=True, text=True, timeout=120, cwd=root
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = " ".join((done.stdout + done.stderr).split())
    assert "bright_psychology is left out: ir_datasets can't give 'bright/psychology'" in said
    assert "Check the network, or lay the files by hand" in said
    assert "https://ir-datasets.com/bright.html" in said
    metrics = json.loads((tmp_path / "run/evaluation/bright_biology/bm25/metrics.json").read_text())
    assert metrics["mean"]["ndcg_cut_10"] == pytest.approx((0.63093 + 0.5) / 2, abs=1e-4)
    ideal = json.loads((tmp_path / "run/evaluation/bright_biology/ideal/metrics.json").read_text())
    assert ideal["mean"]["ndcg_cut_10"] == 1.0
