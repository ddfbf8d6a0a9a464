"""``examples/outside_package``, installed from a wheel in a fresh environment beside rearank's: each part at work."""

from __future__ import annotations

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.installed.wheels import Environment, wheel_of

PACKAGE = ROOT / "examples" / "outside_package"
OWN = "hydra.searchpath=[pkg://herbarium.conf]"
ROWS = [{"id": f"r{row}", "query": "tall red meadow", "passages": [f"plant {n}" for n in range(7)]} for row in range(2)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("uv") is None, reason="uv is missing: pip install -e '.[dev]'"),
]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """rearank and the package from their wheels; numpy, torch and the like are this environment's."""
    made = Environment(tmp_path_factory.mktemp("both") / "venv", borrowed=True)
    made.install("--no-deps", *(wheel_of(one, tmp_path_factory.mktemp("built")) for one in (ROOT, PACKAGE)))
    return made


def test_the_strategy_reranks(both: Environment, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = ("task=rerank", OWN, "strategy=top_alone", "strategy.size=3", "engine=scripted", "engine.behaviour=reverse")
    both.must(tmp_path, *words, "model=tiny", "rerank.input=rows.jsonl", "rerank.output=out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [[one["id"] for one in row["passages"]] for row in found] == [["2", "1", "0", "3", "4", "5", "6"]] * 2
    assert {row["calls"] for row in found} == {1}


def test_the_prompt_is_shown(both: Environment, tmp_path: Path) -> None:
    words = ("prompt=botanist", "model=tiny", "model.prompt=null", "engine=openai")
    found = json.loads(both.must(tmp_path, "prompt", "show", "--json", OWN, *words))
    assert found["shown"][0]["messages"][0]["content"].startswith("Plant: how do bees find flowers\n[1] ")


def test_a_folder_of_options_is_found_too_and_the_benchmark_is_measured_on(both: Environment, tmp_path: Path) -> None:
    (conf,) = both.folder.glob("lib/python*/site-packages/herbarium/conf")
    words = ("task=evaluate", "benchmark=herbarium", "model=tiny", "engine=scripted", "tracking=none", "name=run")
    both.must(tmp_path, "--config-dir", conf, *words, "evaluation.trained=false")
    measured = json.loads((tmp_path / "outputs/run/summary.json").read_text())
    assert measured["queries"] == 27
    assert measured["bm25"] < measured["scripted"] <= measured["ideal"] <= 1, (
        "an oracle among words that BM25 can't match"
    )
    ended = both.run(tmp_path, "--config-dir", conf, "reward=first_find", "reward.unparsd=1", "--cfg=job")
    assert ended.stderr == "rearank: reward.unparsd: reward has no such key; did you mean unparsed?\n"
    ended = both.run(tmp_path, OWN, "--cfg=job", "reward=first_fnd")
    assert ended.stderr == "rearank: reward=first_fnd: there is no such reward; did you mean first_find?\n"


def test_a_sweep_over_its_options(both: Environment, tmp_path: Path) -> None:
    words = ("task=evaluate", "benchmark=herbarium", "model=tiny", "engine=scripted", "tracking=none", "name=both")
    both.must(
        tmp_path,
        "-m",
        OWN,
        *words,
        "evaluation.trained=false",
        "strategy=top_alone,small_windows",
        "report.write=false",
    )
    jobs = [json.loads(path.read_text()) for path in sorted((tmp_path / "outputs/both-sweep").glob("*/job.json"))]
    assert [(job["status"], job["choices"]) for job in jobs] == [
        ("finished", {"strategy": "small_windows"}),
        ("finished", {"strategy": "top_alone"}),
    ]


@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is missing: pip install -e '.[train]'")
def test_reward_algorithm_prompt_and_dataset_train_a_model(both: Environment, tmp_path: Path) -> None:
    """The README's own command, smaller."""
    (command,) = re.findall(r"^rearank (task=train (?:.*\\\n)*.*)$", (PACKAGE / "README.md").read_text(), re.MULTILINE)
    words = shlex.split(command.replace("\\\n", " ").replace("$OWN", OWN))
    small = (
        "algorithm.prompts_per_step=2",
        "algorithm.group_size=4",
        "prepare.validation_windows=4",
        "augmentation.sets=1",
    )
    both.must(tmp_path, *words, *small)
    run = tmp_path / "outputs" / "plants"
    settings = (run / "training" / "settings.json").read_text()
    for name in ("herbarium.reward.FirstFind", "herbarium.algorithm.Placed"):
        assert name in settings
    rows = next((run / "prepared").glob("train*"))
    assert rows.stat().st_size > 0
    steps = [json.loads(line) for line in (run / "training" / "train.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in steps) == 2  # what algorithm.steps says
