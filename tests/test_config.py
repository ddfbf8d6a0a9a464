"""Every shipped yaml builds; whatever is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from rearank.config import ConfigError, build, node_of
from rearank.rewards import NdcgReward
from rearank.runs.declared import mattering

CONF = Path(__file__).resolve().parent.parent / "conf"
YAMLS = sorted(CONF.glob("*/*.yaml"))
# Those that build upon another (`defaults:`), those that others build upon (`_base`) and those that set more than their
# node (`@package _global_`) are whole only once Hydra has composed them: see test_composition.
NODES = [
    path
    for path in YAMLS
    if "_target_" in (text := path.read_text())
    and not any(sign in text for sign in ("\ndefaults:", "@package _global_"))
    and not path.stem.startswith("_")
]


def load(path: Path) -> DictConfig:
    root = OmegaConf.create(
        {
            "seed": 1,
            "output_dir": "outputs/test",
            "paths": {"cache": "outputs/cache", "data": "data"},
            "cluster": OmegaConf.load(CONF / "config.yaml").cluster,
            "node": OmegaConf.load(path),
        }
    )
    node = root.node
    assert isinstance(node, DictConfig)
    return node


def answer_missing(node: Any) -> Any:
    """What a user must give (``???``) answered with a path: such nodes build without touching the disk."""
    if isinstance(node, dict):
        return {key: answer_missing(value) for key, value in node.items()}
    if isinstance(node, list):
        return [answer_missing(value) for value in node]
    return "some/path" if node == "???" else node


@pytest.mark.parametrize("path", NODES, ids=lambda p: f"{p.parent.name}={p.stem}")
def test_every_yaml_builds(path: Path) -> None:
    node = load(path)
    # Within the root again: an interpolation may lead to what was missing.
    root = OmegaConf.to_container(node._get_root())
    answered = OmegaConf.create(answer_missing(root)).node
    built = build(OmegaConf.to_container(answered, resolve=True), path.parent.name)
    assert type(built).__name__ == node._target_.rsplit(".", 1)[1]


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: f"{p.parent.name}={p.stem}")
def test_every_yaml_opens_by_saying_what_it_is(path: Path) -> None:
    comment = next(line for line in path.read_text().splitlines() if not line.startswith("# @package"))
    assert comment.startswith("# ")


REWARD: dict[str, Any] = {"_target_": "rearank.rewards.ndcg.NdcgReward"}


def test_a_node_becomes_its_object() -> None:
    assert build({**REWARD, "floor": None, "k": 5}) == NdcgReward(floor=None, k=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flor": -2}, r"reward\.flor: no such key; did you mean floor"),
        ({"k": "ten"}, r"reward\.k: .*ten.*int"),
        ({"k": 0}, r"reward: k must be at least 1"),
        ({"partial": "scored"}, r"reward\.partial: 'scored' is none of score, unparsed; did you mean score"),
        ({"tags": "perhaps"}, r"reward\.tags"),
        ({"_target_": "rearank.rewards.ndcg.Ndcg"}, r"reward\._target_: can't import"),
        ({"_target_": "rearank.metrics.ndcg"}, r"reward\._target_: .*not a dataclass"),
        ({"k": "???"}, r"reward\.k: a value is missing"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({**REWARD, **change}, "reward")


def test_nested_nodes_are_named_by_their_path() -> None:
    node = load(CONF / "augmentation" / "multisample.yaml")
    node.filter.minimum = 2.0
    with pytest.raises(ConfigError, match=r"augmentation\.filter: minimum must be at least 0 and at most 1"):
        build(node, "augmentation")


LIST = "rearank.data.benchmark.BenchmarkList"
MEMBER: dict[str, Any] = {
    "_target_": "rearank.data.benchmark.Benchmark",
    "name": "one",
    "collection": {"_target_": "rearank.data.irds.Irds", "id": "vaswani"},
    "retriever": {"_target_": "rearank.data.irds.ScoredDocs"},
}


def test_a_mapping_of_nodes_becomes_a_mapping_of_objects() -> None:
    members = {"a": MEMBER, "b": {**MEMBER, "name": "two", "known": {"paper": 0.5}}}
    built = build({"_target_": LIST, "name": "both", "members": members}, "benchmark")
    assert {key: member.name for key, member in built.members.items()} == {"a": "one", "b": "two"}
    assert built.members["b"].known == {"paper": 0.5}  # a mapping of plain values stays one
    assert build(node_of(built)) == built


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({**MEMBER, "dept": 5}, r"benchmark\.members\.b\.dept: no such key; did you mean depth"),
        ({**MEMBER, "depth": "ten"}, r"benchmark\.members\.b\.depth: .*ten"),
        ({"name": "two"}, r"benchmark\.members\.b: no _target_ here"),
        (None, r"benchmark\.members\.b: no _target_ here"),
        ({**MEMBER, "known": {"paper": 50.58}}, r"benchmark\.members\.b: known\.paper is an nDCG@10 and must lie in"),
        (MEMBER, r"benchmark: two benchmarks are named 'one'"),
    ],
)
def test_a_mapping_of_nodes_is_strict(other: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"_target_": LIST, "name": "both", "members": {"a": MEMBER, "b": other}}, "benchmark")


def test_a_stored_name_is_refused_before_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_package.py").write_text(
        "import dataclasses, pathlib\n"
        f"pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "@dataclasses.dataclass(frozen=True)\nclass Mine:\n    floor: float = 0.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    foreign = {"_target_": "foreign_package.Mine"}
    nested = {"_target_": LIST, "name": "both", "members": {"a": {**MEMBER, "collection": foreign}}}
    for node, key in ((foreign, "reward"), (nested, r"reward\.members\.a\.collection")):
        with pytest.raises(ConfigError, match=rf"{key}\._target_: .*'foreign_package\.Mine', which is not rearank's"):
            build(node, "reward", stored=True)
    assert mattering(foreign) == foreign
    assert not (tmp_path / "ran").exists()
    assert build(REWARD, "reward", stored=True) == NdcgReward()
    # What the running config names may be imported, and so may what is stored of the same package.
    assert build(foreign, "reward").floor == 0.0
    assert build({**foreign, "floor": 1.0}, "reward", stored=True).floor == 1.0
    assert (tmp_path / "ran").exists()
    with pytest.raises(ConfigError, match=r"strategy\._target_: .*rearank_too"):
        build({"_target_": "rearank_too.Mine"}, "strategy", stored=True)
