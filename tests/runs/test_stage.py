"""Folders that continue, and lose nothing."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rearank.rewards import NdcgReward
from rearank.runs import code_of
from rearank.runs.declared import differences
from rearank.runs.environment import environment
from rearank.runs.layout import SETTINGS
from rearank.runs.sharing import fingerprint
from rearank.runs.stage import FolderInUseError, Stage, locked, warn_of_old_version
from rearank.tasks.training_figures import draw_curves
from rearank.tracking import JsonlTracker

BM25 = "rearank.data.bm25.Bm25"


def stage_of(folder: Path, identity: dict[str, Any], **more: bool) -> Stage:
    settings = {key: value for key, value in identity.items() if key not in ("code", "files")}
    return Stage(folder, settings, identity.get("code", {}), identity.get("files", {}), **more)


def open_stage(folder: Path, identity: dict[str, Any], **more: bool) -> Path:
    return stage_of(folder, identity, **more).open()


def changed_settings(folder: Path, identity: dict[str, Any]) -> str:
    return stage_of(folder, identity).changed()


def test_other_settings_move_the_old_result_aside(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    (open_stage(folder, {"a": {"b": 1}, "t": (1, 2)}) / "result").write_text("old")
    assert (open_stage(folder, {"a": {"b": 1}, "t": [1, 2]}) / "result").read_text() == "old"
    assert changed_settings(folder, {"a": {"b": 2}, "t": [1, 2]}) == "a.b: 1 -> 2"
    assert not (open_stage(folder, {"a": {"b": 2}, "t": [1, 2]}) / "result").exists()
    assert (tmp_path / "stage.1" / "result").read_text() == "old"
    open_stage(folder, {"a": {"b": 3}})
    assert json.loads((tmp_path / "stage.2" / "settings.json").read_text())["a"] == {"b": 2}


def test_an_index_kept_elsewhere_is_no_other_setting(tmp_path: Path) -> None:
    """``paths.outputs`` once relative, once absolute: the result is the same, and a long training is not done again."""
    made = {"dataset": {"retriever": {"_target_": BM25, "k1": 0.9, "cache_dir": "outputs/cache"}}, "seed": 1}
    folder = open_stage(tmp_path / "training", made)
    (folder / "result.json").write_text("{}")
    moved = {"dataset": {"retriever": {"_target_": BM25, "k1": 0.9, "cache_dir": "/elsewhere/cache"}}, "seed": 1}
    assert (open_stage(tmp_path / "training", moved) / "result.json").is_file()
    assert fingerprint(made) == fingerprint(moved)
    other = {"dataset": {"retriever": {"_target_": BM25, "k1": 1.2, "cache_dir": "outputs/cache"}}, "seed": 1}
    assert fingerprint(made) != fingerprint(other)
    assert not (open_stage(tmp_path / "training", other) / "result.json").exists()


def test_changed_code_moves_the_old_result_aside_unless_it_is_accepted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "stage"

    def opened(code: dict[str, str], *, accept: bool = False, a: int = 1) -> bool:
        """Whether the folder's result is there still."""
        open_stage(folder, {"a": a, "code": code}, accept_changed_code=accept)
        there = (folder / "result").exists()
        (folder / "result").touch()
        return there

    assert not opened({"own": "1", "own.help": "1"})
    assert opened({"own": "1", "own.help": "1"})
    assert opened({"own": "1", "own.help": "2"}, accept=True)
    assert opened({"own": "1", "own.help": "2"}), "what was accepted once is accepted"
    stored = json.loads((folder / "settings.json").read_text())
    assert stored["code_accepted"] == [{"own": "1", "own.help": "1"}]
    assert changed_settings(folder, {"a": 1, "code": {"own": "3", "new": "1"}}) == (
        "code of new, code of own, code of own.help"
    )
    assert not opened({"own": "1", "own.help": "3"})
    assert "made with other settings or code (code of own.help): kept as" in caplog.text
    assert "code_accepted" not in json.loads((folder / "settings.json").read_text())
    assert not opened({"own": "2", "own.help": "3"}, accept=True, a=2), "other settings are another matter"


def test_a_folder_of_an_earlier_version_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It kept no code, its classes had other names and fewer fields: those have their defaults."""
    reward = {"_target_": "rearank.rewards.NdcgReward", "k": 10}
    places = [tmp_path / "training", tmp_path / "evaluation" / "dl19" / "base"]
    for place in places:
        place.mkdir(parents=True)
        old = {"reward": reward, "benchmark": {"_target_": "rearank.tasks.benchmark.Benchmark", "name": "dl19"}}
        (place / "settings.json").write_text(json.dumps(old))
        (place / "result").touch()
    benchmark = {"_target_": "rearank.data.benchmark.Benchmark", "name": "dl19", "depth": 100}
    now = {
        "reward": {**reward, "partial": NdcgReward().partial},
        "benchmark": benchmark,
        "code": {"rearank.rewards.ndcg": "1"},
    }
    warn_of_old_version(tmp_path)
    for place in places:
        assert (open_stage(place, now) / "result").exists()
    assert caplog.text.count("kept no digests of code and data: taken as unchanged") == 1, "one line in all"
    assert "training, evaluation/dl19/base" in caplog.text
    caplog.clear()
    warn_of_old_version(tmp_path)
    assert caplog.text == "", "its digests are there now"
    other = {"score": "unparsed", "unparsed": "score"}[NdcgReward().partial]
    assert not (open_stage(places[0], {**now, "reward": {**reward, "partial": other}}) / "result").exists()


def test_a_file_name_of_ours_decides_no_result(tmp_path: Path) -> None:
    """A name added to ``runs.layout`` moves no trained model aside; nor does what an earlier version recorded of it."""
    assert not [name for name in code_of(import_module("rearank.training.trl.node")) if name.startswith("rearank.runs")]
    Stage(tmp_path / "training", {}, {"rearank.rewards.ndcg": "1"}).open()
    settings = tmp_path / "training" / SETTINGS
    stored = json.loads(settings.read_text())
    stored["code"]["rearank.runs.layout"] = "2"
    settings.write_text(json.dumps(stored))
    assert not Stage(tmp_path / "training", {}, {"rearank.rewards.ndcg": "1"}).changed()


def test_rerun_makes_it_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "training"
    (open_stage(place, {"a": 1}, rerun=True) / "result").touch()
    assert caplog.text == "", "there was nothing"
    assert not (open_stage(place, {"a": 1}, rerun=True) / "result").exists()
    assert (tmp_path / "training.1" / "result").exists()
    assert f"{place}: rerun=true: kept as {place}.1" in caplog.text


def test_what_a_stage_began_with_is_written_once(tmp_path: Path) -> None:
    place = open_stage(tmp_path / "training", {"a": 1})
    began = (place / "environment.json").read_text()
    (place / "environment.json").write_text(began.replace(json.loads(began)["time"], "2001-01-01"))
    open_stage(place, {"a": 1})
    assert "2001-01-01" in (place / "environment.json").read_text()
    open_stage(place, {"a": 2})
    assert "2001-01-01" not in (place / "environment.json").read_text(), "another result, another beginning"
    assert "2001-01-01" in (tmp_path / "training.1" / "environment.json").read_text()


def test_the_same_content_elsewhere_is_the_same(tmp_path: Path) -> None:
    def settings(place: str, *digests: str) -> dict[str, Any]:
        files = {"dataset.docs": digests[0], "dataset.qrels.0": digests[1]}
        return {"dataset": {"docs": f"{place}/docs", "qrels": [f"{place}/qrels"]}, "files": files}

    folder = open_stage(tmp_path / "stage", settings("here", "1", "2"))
    assert changed_settings(folder, settings("there", "1", "2")) == ""
    assert changed_settings(folder, settings("here", "1", "3")) == "content of dataset.qrels.0"
    assert changed_settings(folder, {**settings("here", "1", "2"), "files": {}}) == "", "data that are gone"
    changed = changed_settings(folder, settings("there", "3", "2"))
    assert changed == 'dataset.docs: "here/docs" -> "there/docs", content of dataset.docs'


def test_differences() -> None:
    assert differences({"a": 1, "b": {"c": None}}, {"b": {"c": "x"}, "d": []}) == [
        "a: 1 -> null",
        'b.c: null -> "x"',
        "d: null -> []",
    ]
    assert changed_settings(Path("nowhere"), {"a": 1}) == ""


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    message = r"another run \(process \d+\) is at work here"
    with locked(tmp_path / "run"), pytest.raises(FolderInUseError, match=message), locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        pass


def test_figures_of_what_was_logged(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path, "train")
    for step in range(3):
        tracker.log({"train/reward/total": step / 3}, step)
    drawn = draw_curves(tracker.path, tmp_path / "figures")
    assert [path.name for path in drawn] == ["reward.png", "reward.svg"]
    assert draw_curves(tmp_path / "none.jsonl", tmp_path / "figures") == []


def test_environment_says_what_a_number_was_computed_with() -> None:
    found = environment()
    assert found["packages"]["numpy"]
    assert found["python"]
    json.dumps(found)
