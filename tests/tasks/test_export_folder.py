"""An exported folder without weights being loaded: what is in it, what stands in its way, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.shipped import ASSETS
from tests.tasks.exports import command, exported, trained
from tests.tasks.runs import read

from rearank.config import ConfigError
from rearank.experiment import Run
from rearank.runs.layout import write_json
from rearank.tasks.export import ExportError
from rearank.tasks.export.folder import generation_settings, place
from rearank.tasks.export.origin import find_analyses, find_origin
from rearank.training.base import TrainingError, TrainingResult, write_result


def front_matter(folder: Path) -> dict[str, object]:
    _, block, _ = (folder / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(block)
    assert isinstance(found, dict)
    return found


def test_a_training_that_nothing_was_measured_of(tmp_path: Path) -> None:
    run = trained(tmp_path)
    folder = exported(run)
    assert {path.name for path in ASSETS.iterdir()} | {"README.md", "rearank.json"} == {
        path.name for path in folder.iterdir()
    }
    card, found = (folder / "README.md").read_text(), read(folder / "rearank.json")
    assert "Nothing was measured of these weights." in card
    assert "License: none was given" in card
    assert "How many queries and windows isn't known" in card
    assert "model-index" not in front_matter(folder)
    assert "license" not in front_matter(folder)
    assert front_matter(folder)["pipeline_tag"] == "text-ranking"
    assert found["metrics"] == {}
    assert found["config"]["strategy"]["size"] == 5
    assert found["result"] == {"steps": 3, "best_step": 2, "best_ndcg": 0.5, "stopped": None}
    for name, digest in found["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert {*found["files"], "rearank.json"} == {path.name for path in folder.iterdir()}
    weights = folder / "model.safetensors"
    assert weights.samefile(run.folder / "training" / "model" / weights.name), "no second copy on this disk"


def test_the_same_again_is_left_alone_and_another_is_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trained(tmp_path)
    folder = exported(run)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    assert exported(run) == folder
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before

    licensed = command(tmp_path, "export.license=apache-2.0")
    exported(licensed)
    assert front_matter(folder)["license"] == "apache-2.0"
    assert "License: `apache-2.0`." in (folder / "README.md").read_text()
    assert {path.name: path.read_bytes() for path in (run.folder / "export.1").iterdir()} == {
        name: content for name, (_, content) in before.items()
    }
    (folder / "config.json").write_text("{}")
    exported(licensed)
    assert "config.json is missing or was changed" in caplog.text
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen3"
    exported(licensed, rerun=True)
    assert sorted(path.name for path in run.folder.glob("export*")) == ["export", "export.1", "export.2", "export.3"]


def test_what_it_was_trained_from(tmp_path: Path) -> None:
    """A model of the hub is named by its id, and a cold start between the two is told."""
    of_the_hub = ("model.path=Qwen/Qwen2.5-0.5B-Instruct", "model.revision=abc123")
    text = (exported(trained(tmp_path / "one", *of_the_hub)) / "README.md").read_text()
    assert front_matter(tmp_path / "one" / "run" / "export")["base_model"] == "Qwen/Qwen2.5-0.5B-Instruct"
    assert "(`Qwen/Qwen2.5-0.5B-Instruct` at abc123) by reinforcement (grpo" in text

    run = command(tmp_path / "two", *of_the_hub, "sft.targets=grades")
    settings = run.stage("sft", "model", "sft", "prompt").open()
    write_result(settings, TrainingResult(str(settings / "model"), 1, 1, None))
    run = trained(tmp_path / "two", f"model.path={settings}/model", "model.revision=null")
    folder = exported(run)
    text = (folder / "README.md").read_text()
    assert "by reinforcement (grpo, paid by the reward ndcg), after a fine-tuning, with rearank" in text
    assert "(`Qwen/Qwen2.5-0.5B-Instruct` at abc123)" in text
    assert "targets: grades" in text
    assert front_matter(folder)["base_model_relation"] == "finetune"
    assert read(folder / "rearank.json")["started_from"]["sft"]["targets"] == "grades"

    text = (exported(trained(tmp_path / "three")) / "README.md").read_text()
    assert "(from a folder, no model of the hub)" in text
    assert "base_model" not in text


def test_an_analysis_counts_from_the_training_on(tmp_path: Path) -> None:
    run = trained(tmp_path)
    origin = find_origin(run.folder, "best")
    rows = [{"system": "tiny after GRPO (step 2)", "attack": "order", "success": 0.5}]
    assert find_analyses(origin) == {}
    for name, year, found in (("analysis", 1999, {}), ("analysis-short", 2999, {"attack": rows})):
        (run.folder / name).mkdir()
        write_json(run.folder / name / "environment.json", {"time": f"{year}-01-01T00:00:00+00:00"})
        write_json(run.folder / name / "analysis.json", {"benchmarks": {"synthetic": {"tables": found}}})
    assert find_analyses(origin) == {"synthetic": {"attack": rows}}


def test_nobody_elses_folder_is_touched(tmp_path: Path) -> None:
    target = tmp_path / "models" / "mine"
    one = trained(tmp_path / "one", f"export.to={target}")
    other = trained(tmp_path / "other", f"export.to={target}", "seed=2")
    folder = exported(one)
    content = (folder / "README.md").read_bytes()
    with pytest.raises(ExportError, match=r"mine: the model of another run is there.*export\.to=.*rerun=true"):
        exported(other)
    assert (folder / "README.md").read_bytes() == content
    exported(other, rerun=True)
    assert (target.with_name("mine.1") / "README.md").read_bytes() == content
    shutil.rmtree(target)
    target.mkdir()
    exported(other)  # an empty folder is none
    shutil.rmtree(target)
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    for rerun in (False, True):
        with pytest.raises(ExportError, match="something else is there, no exported model"):
            exported(other, rerun=rerun)
    assert [path.name for path in target.iterdir()] == ["notes.txt"]


def test_what_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_text("half of it")
        raise OSError("the disk is full")

    said = {"run": "0" * 16}
    with pytest.raises(OSError, match="the disk is full"):
        place(tmp_path / "export", said, "a card", write, ours=True, rerun=False)
    assert list(tmp_path.iterdir()) == []
    # what a kill leaves is no obstacle
    (tmp_path / ".export.rearank-partial").mkdir()
    (tmp_path / ".export.rearank-partial" / "model.safetensors").write_text("half of it")
    assert place(tmp_path / "export", said, "a card", lambda folder: None, ours=True, rerun=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["README.md", "export", "rearank.json"]
    assert not place(tmp_path / "export", said, "a card", lambda folder: None, ours=True, rerun=False)


def test_a_copy_where_no_link_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    run = trained(tmp_path)
    folder = exported(run)
    source = run.folder / "training" / "model" / "model.safetensors"
    assert (folder / source.name).read_bytes() == source.read_bytes()
    assert not (folder / source.name).samefile(source)


def test_what_is_missing_is_said_with_the_command(tmp_path: Path) -> None:
    run = command(tmp_path)
    run.folder.mkdir(parents=True)
    with pytest.raises(ExportError, match=r"nothing is trained here; run the same command with task=train first"):
        exported(run)
    run = trained(tmp_path, "export.which=sft")
    with pytest.raises(ExportError, match=r"nothing is trained here by fine-tuning; .* task=sft first"):
        exported(run)
    run = command(tmp_path, "export.merge=false")
    with pytest.raises(ExportError, match=r"export\.merge=false: .*training trained all weights"):
        exported(run)
    (run.folder / "training" / "result.json").unlink()
    with pytest.raises(ExportError, match=r"training: this training isn't finished; .* task=train goes on"):
        exported(run)
    assert not (run.folder / "export").exists()


def test_damaged_weights_are_not_passed_on(tmp_path: Path) -> None:
    run = trained(tmp_path)
    (run.folder / "training" / "model" / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(TrainingError, match=r"chat_template\.jinja: was changed after it was written"):
        exported(run)
    (run.folder / "training" / "settings.json").unlink()
    shutil.copyfile(ASSETS / "chat_template.jinja", run.folder / "training" / "model" / "chat_template.jinja")
    with pytest.raises(ExportError, match=r"settings\.json: is missing"):
        exported(run)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("export.push=name", "push must be owner/name"),
        ("export.push=a/b/c", "push must be owner/name"),
        ("export.push=a/b..c", "push must be owner/name"),
        ("export.push=a/b.git", "push must be owner/name"),
        ("export.push='hf_abcdefghijklmnop'", "push must be owner/name"),
        ("export.license=Apache 2", "license must be the hub's word"),
        ("export.to=''", "to must name a folder"),
        ("export.which=last", "'last' is none of best, sft"),
    ],
)
def test_a_setting_that_cant_be_is_named(tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        command(tmp_path, given)
    assert "hf_" not in str(caught.value), "what was pasted may be a token"


def model_folder(folder: Path, *, generation: object = None, config: object = None, end: object = "<end>") -> Path:
    folder.mkdir(exist_ok=True)
    write_json(folder / "generation_config.json", generation or {})
    write_json(folder / "config.json", config or {})
    write_json(folder / "tokenizer_config.json", {"eos_token": end})
    write_json(folder / "tokenizer.json", {"added_tokens": [{"id": 7, "content": "<end>"}, {"id": 8, "content": "x"}]})
    return folder


def test_answers_are_drawn_as_they_were_measured(tmp_path: Path) -> None:
    instruct = {"eos_token_id": [5, 7], "pad_token_id": 9, "temperature": 0.7, "repetition_penalty": 1.05, "top_k": 20}
    folder = model_folder(tmp_path / "a", generation=instruct)
    greedy = {"pad_token_id": 9, "eos_token_id": [5, 7], "do_sample": False}
    assert generation_settings(folder, {"temperature": 0.0, "max_tokens": 48}) == greedy | {"max_new_tokens": 48}
    sampled = generation_settings(folder, {"temperature": 0.6, "top_p": 0.9})
    assert sampled == greedy | {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 0}
    # the tokenizer's own end counts, too: some models' settings name another
    folder = model_folder(tmp_path / "b", config={"eos_token_id": 5}, end={"content": "<end>"})
    assert generation_settings(folder, {})["eos_token_id"] == [5, 7]
    folder = model_folder(tmp_path / "c")
    assert generation_settings(folder, {})["eos_token_id"] == 7
    folder = model_folder(tmp_path / "d", end=None)
    with pytest.raises(ExportError, match="name an end token"):
        generation_settings(folder, {})


def test_weights_are_rounded_and_the_trainings_own_are_not(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    run = trained(tmp_path, "export.dtype=bfloat16")
    own = run.folder / "training" / "model" / "model.safetensors"
    before = own.read_bytes()
    folder = exported(run)
    assert own.read_bytes() == before
    whole, rounded = load_file(own), load_file(folder / own.name)
    for name, tensor in whole.items():
        assert rounded[name].dtype == torch.bfloat16
        assert torch.equal(rounded[name], tensor.to(torch.bfloat16))
    assert read(folder / "config.json")["dtype"] == "bfloat16"
    assert read(folder / "rearank.json")["dtype"] == "bfloat16"
    name = next(iter(whole))
    save_file({**whole, name: whole[name] + 1e6}, own, metadata={"format": "pt"})
    write_result(own.parents[1], TrainingResult(str(own.parent), steps=3, best_step=2, best_ndcg=0.5))
    with pytest.raises(ExportError, match=rf"{name} has weights that float16 can't hold; set export.dtype=bfloat16"):
        exported(made_again(run, dtype="float16", to=str(tmp_path / "half")))
    assert not (tmp_path / "half").exists()


def made_again(run: Run, **changes: Any) -> Run:
    """The run with other settings of its export."""
    return replace(run, experiment=replace(run.experiment, export=replace(run.experiment.export, **changes)))
