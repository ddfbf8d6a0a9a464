"""Whatever datasets, models and folders are called, a model card stays one: for the hub's parser and for a reader."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rearank.evaluation import render_table
from rearank.runs.reader import SYSTEM, Evaluated
from rearank.tasks.export.card import Facts, _dataset, _metrics, card, metadata
from rearank.tasks.export.origin import OnBenchmark, Origin
from rearank.tasks.export.usage import HowToAsk
from rearank.tasks.export.words import as_yaml, fenced, inline, plain
from rearank.training.base import TrainingResult

HOSTILE = (
    "a | b",
    "---",
    "x\n---\nlicense: mit\n---\n# another card",
    "</td><script>alert(1)</script>",
    "<!-- the rest is gone",
    "```\n# out of the block",
    "`code` [link](https://example.org) ![picture](x.png)",
    "# a heading\n| a | table |",
    "{{ model }} ${HOME} $(rm -rf .)",
    "null",
    "\u202eright to left\u2028 and \x1b[31m red \x00",
    "\\| back \\",
    "- [ ] *bold* __under__ ~~gone~~ @somebody www.example.org",
)
SECTIONS = ("Use", "Training data", "Recipe", "Results", "The answers", "Limits", "Versions")
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60))


@given(TEXTS)
def test_a_name_is_one_line_that_is_no_markup(text: str) -> None:
    line = inline(text)
    assert not set(line) & set("|<>`*[]\\~$")
    assert line.isprintable()
    assert re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), line) == plain(text)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_a_table_keeps_its_cells(names: list[str]) -> None:
    rows: list[dict[str, Any]] = [{"system": inline(name), "nDCG@10": 0.5} for name in names]
    for line in render_table(rows).split("\n"):
        assert line.count("|") == 3


@given(TEXTS, TEXTS)
def test_a_block_ends_where_it_is_meant_to(text: str, more: str) -> None:
    first, *inside, last = fenced(f"{text}\n{more}", "text").split("\n")
    assert first == f"{last}text"
    assert set(last) == {"`"}
    assert not any(line.strip().startswith(last) for line in inside)


@given(st.lists(TEXTS.map(plain), max_size=4).map(lambda some: {f"key-{n}": one for n, one in enumerate(some)}))
def test_metadata_is_read_as_it_was_written(values: dict[str, str]) -> None:
    text = as_yaml(values)
    assert yaml.safe_load(text) == values
    assert not any(line.startswith("---") for line in text.split("\n"))


def facts(name: str) -> Facts:
    """A run in which everything that a user names is called ``name``."""
    own = Evaluated(
        "grpo", name, SYSTEM, name, {"ndcg_cut_10": {"q": 0.25}}, {"ndcg_cut_10": (0.125, 0.375)}, {"calls": 4},
        {"benchmark": {"depth": 20, "language": name}}, {"command": ["run.py", f"name={name}"], "commit": name},
        None, Path("nowhere"), note=name,
    )  # fmt: skip
    settings = {
        "model": {"name": name, "path": name, "max_tokens": 48},
        "dataset": {"name": name},
        "reward": {"_target_": f"a.{name}", "opening": name},
        "prompt": {"_target_": name, "final": name},
    }
    result = TrainingResult("nowhere/model", 3, 2, None, stopped=name)
    environment = {"command": ["run.py", name], "packages": {name: name}}
    origin = Origin(Path("run"), Path("run/training"), result, settings, environment, None, {"dropped": {name: 1}})
    usage = HowToAsk(f"me/{name}", name, settings["model"], settings["prompt"], {"_target_": name, name: 1})
    tables = {"attack": [{"system": name, "attack": "order", "neutralise": "yes", "success": 0.5}]}
    return Facts(name, origin, name, usage, None, False, [OnBenchmark(own, (own,))], [name], {name: tables})


@pytest.mark.parametrize("name", HOSTILE)
def test_names_break_no_card(name: str, tmp_path: Path) -> None:
    given = facts(name)
    text = card(given)
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    body = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", text.split("\n---\n", 1)[1])  # without blocks of code
    assert not re.search(r"<script|<!--|\]\(https|\*bold|@somebody", body)
    assert re.findall(r"(?m)^#+ .*$", body)[1:] == [f"## {one}" for one in SECTIONS]
    assert not any(line.startswith(inline(name)) for line in body.split("\n")), "words of ours come first"
    assert not re.search(r"(?m)^\s*(-{3,}|={3,}|- \[ \])", body)
    assert body.count("0.2500") == 1
    hub = pytest.importorskip("huggingface_hub")
    found = hub.ModelCard.load(tmp_path / "README.md")
    assert found.data.pipeline_tag == "text-ranking"
    assert found.data.model_name == plain(name)
    (result,) = found.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == (plain(name), "ndcg_at_10", 0.25)
    assert "mit" not in str(found.data.license)


def test_the_gate_is_told_where_it_speaks_of_these_numbers() -> None:
    found = facts("mine")
    against = [{"label": "cold | start", "difference": 0.0625, "p": 0.002}]
    gate = {"model": "mine", "measure": "ndcg_cut_10", "mean": 0.25, "alpha": 0.05, "of": "agreement"}
    gate |= {"passed": False, "against": against}
    told = "It did not pass the gate: better, by a paired randomisation test after Holm's correction (below 0.05), "
    told += "than each of cold &#124; start (+0.0625, p = 0.002); in agreement."
    assert told in card(replace(found, gate=gate))
    assert "the gate" not in card(replace(found, gate=gate | {"mean": 0.5}))


def test_a_teachers_judgements_are_no_relevance() -> None:
    found = facts("mine")
    (measured,) = found.measured
    told = "On mine a teacher's order judges: numbers are agreement with it, no relevance."
    assert told not in card(found)
    own = replace(measured.own, settings={"benchmark": {"collection": {"judged_by": "teacher.trec"}}})
    assert told in card(replace(found, measured=[OnBenchmark(own, (own,))]))


@given(st.text(min_size=1, max_size=40))
def test_any_name_is_in_the_metadata_as_it_is(name: str) -> None:
    found = yaml.safe_load(as_yaml(metadata(facts(name))))
    assert found["model-index"][0]["name"] == plain(name)
    assert found["tags"][-1] in (plain(name), "text-generation", *found["tags"][:-1])
    assert all(re.fullmatch(r"[\w./-]+", one, re.ASCII) for one in found.get("datasets", []))


def test_the_cards_dataset_is_the_hubs_where_it_comes_from_there(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert _dataset({"name": "rearank_12k", "path": "le723z/rearank_12k"}) == "le723z/rearank_12k"
    assert _dataset({"name": "rows", "path": "some/rows.d/file.jsonl"}) == "rows"
    assert _dataset({"name": "own"}) == "own"
    (tmp_path / "data" / "mine").mkdir(parents=True)
    assert _dataset({"name": "mine", "path": "data/mine"}) == "mine", "a folder that is here"


def test_metrics_are_those_of_the_results() -> None:
    results = [{"metrics": [{"type": kind}]} for kind in ("ndcg_at_10", "map", "ndcg_at_5")]
    assert _metrics(results) == ["ndcg", "map"]
