"""``task=export`` with weights: what is exported answers as what was measured, and its card says what was measured."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import shipped
from tests.tasks.exports import QUERIES, command, exported, trained
from tests.tasks.runs import composed, read

from rearank.experiment import Run
from rearank.runs.reader import read_systems
from rearank.tasks.export import ExportError, ExportTask
from rearank.tasks.export.folder import fill
from rearank.tasks.export.origin import find_origin
from rearank.tasks.pipeline import SftTask, evaluate_models
from rearank.training.base import TrainingResult

torch = pytest.importorskip("torch")
hub = pytest.importorskip("huggingface_hub")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
CHAT = [
    {"role": "user", "content": "Query: bread\n[1] bread and meal\n[2] old mug\nRank both in <answer> tags: [2] > [1]"}
]


def other_weights(folder: Path, by: float) -> Path:
    """The tiny model, moved a little."""
    model, tokenizer = shipped.load()
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights += by * torch.randn_like(weights) * weights.std()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training whose model was measured beside the one it began with; tests only look at it."""
    place = tmp_path_factory.mktemp("export")
    found = trained(place, model=other_weights(place / "weights", 0.05))
    evaluate_models(replace(found, choices={**found.choices, "algorithm": "grpo"}))
    return found


@pytest.fixture(scope="module")
def folder(run: Run) -> Path:
    return exported(run)


def greedy(folder: Path, **settings: Any) -> str:
    """What the model in ``folder`` answers, by its own settings unless others are given."""
    model, tokenizer = shipped.load(folder)
    asked = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    found = model.generate(**asked, **settings)
    text: str = tokenizer.decode(found[0, asked["input_ids"].shape[1] :])
    return text


def test_it_answers_as_what_was_trained(run: Run, folder: Path) -> None:
    text = greedy(folder)
    assert text == greedy(run.folder / "training" / "model", do_sample=False, max_new_tokens=96)
    assert text.endswith("<|im_end|>") or len(text) > 96
    model, _ = shipped.load(folder)
    assert model.config.use_cache
    assert model.generation_config.max_new_tokens == run.experiment.model.max_tokens


def test_the_card_says_what_was_measured(run: Run, folder: Path) -> None:
    systems = {one.name: one for one in read_systems(run.folder)}
    card = hub.ModelCard.load(folder / "README.md")
    (result,) = card.data.eval_results
    assert result.metric_value == round(systems["grpo"].mean, 4)
    assert (result.dataset_name, result.metric_type) == ("synthetic", "ndcg_at_10")
    assert card.data.tags[-1] == "grpo"
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in card.text.split("\n") if line.startswith("| synth")
    ]
    assert [row[1] for row in rows] == ["first stage (bm25)", "tiny, greedy", "tiny after GRPO (step 2)"]
    for row, name in zip(rows, ("bm25", "base", "grpo"), strict=True):
        one = systems[name]
        low, high = one.intervals["ndcg_cut_10"]
        assert row[2:6] == [f"{one.mean:.4f}", f"{low:.4f} to {high:.4f}", "1.0000", str(QUERIES)]
    assert rows[2][6:] == ["0", f"{systems['grpo'].calls['unparsed']} of {systems['grpo'].calls['calls']}"]
    measured = read(folder / "rearank.json")["metrics"]["synthetic"]
    assert measured["exported"] == "grpo"
    assert measured["systems"]["grpo"]["mean"] == {"ndcg_cut_10": systems["grpo"].mean}
    assert "how often that works was not measured" in card.text


def test_its_lines_run(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (folder / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    said = io.StringIO()
    monkeypatch.setattr("rearank.engines.VllmNode.preflight", lambda self: ["no vLLM here"])
    with contextlib.redirect_stdout(said):
        exec(lines.replace("path/to/export", str(folder)), {})
    assert "another passage" in said.getvalue()
    (serve,) = re.findall(r"(?m)^rearank (task=serve .*)$", text)
    config = composed("name=served", *shlex.split(serve))
    assert config["model"]["path"] == "path/to/export"
    assert {key: config["model"][key] for key in ("max_tokens", "temperature", "top_p")} == {
        key: run.config["model"][key] for key in ("max_tokens", "temperature", "top_p")
    }
    assert (config["prompt"], config["strategy"]) == (run.config["prompt"], run.config["strategy"])


def test_settings_that_were_changed_are_in_its_lines(tmp_path: Path) -> None:
    changed = ("prompt.max_characters=200", "prompt.final='Rank, \"all\" {num}: [2] > [1]'", "strategy.step=3")
    folder = exported(trained(tmp_path, *changed, "model.temperature=0.5"))
    text = (folder / "README.md").read_text()
    (serve,) = re.findall(r"(?m)^rearank (task=serve .*)$", text)
    config = composed("name=served", *shlex.split(serve))
    assert config["prompt"]["max_characters"] == 200
    assert config["prompt"]["final"] == 'Rank, "all" {num}: [2] > [1]'
    assert config["strategy"]["step"] == 3
    assert "Rank, &quot;all&quot;" not in text
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    given: dict[str, Any] = {}
    exec(lines.split("with Reranker")[0], given)
    assert given["model"].temperature == 0.5
    assert read(folder / "generation_config.json")["do_sample"] is True


def test_numbers_of_other_weights_are_not_shown(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    again = replace(run, experiment=replace(run.experiment, output_dir=str(copy)))
    shutil.rmtree(copy / "training")
    shutil.copytree(trained(tmp_path / "other").folder / "training", copy / "training")
    text = (exported(again) / "README.md").read_text()
    assert "Nothing was measured of these weights." in text
    assert "Left out: synthetic: measured of other weights than these: tiny after GRPO (step 2)." in text
    assert "model-index" not in text
    # and those of another setting, beside numbers that are these weights' own
    shutil.rmtree(copy / "training")
    shutil.copytree(run.folder / "training", copy / "training")
    settings = copy / "evaluation" / "synthetic" / "base" / "settings.json"
    settings.write_text(settings.read_text().replace('"step": 2', '"step": 4'))
    text = (exported(again) / "README.md").read_text()
    assert "Left out: synthetic: measured with other settings: tiny, greedy." in text
    assert "| tiny, greedy" not in text
    assert "| tiny after GRPO (step 2)" in text


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A fine-tuning of adapters, two steps of it."""
    lora = "trainer.lora={_target_: rearank.training.base.Lora, rank: 4}"
    given = (
        "sft.steps=2",
        "sft.batch=4",
        "sft.learning_rate=0.01",
        "prepare.queries=4",
        "prepare.validation_windows=0",
    )
    found = command(tmp_path_factory.mktemp("tuned"), lora, *given, "trainer.device=cpu")
    SftTask().run(found)
    return found


def logits(folder: Path) -> Any:
    model, tokenizer = shipped.load(folder)
    asked = tokenizer.apply_chat_template(CHAT, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        return model(**asked).logits


def with_export(run: Run, **changes: Any) -> Run:
    return replace(run, experiment=replace(run.experiment, export=replace(run.experiment.export, **changes)))


def test_an_adapter_says_the_same_as_what_it_was_merged_to(
    tuned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ExportTask().run(tuned)
    whole = tuned.folder / "export"
    assert f"the exported model: {whole}" in capsys.readouterr().out
    adapter = exported(with_export(tuned, merge=False, to=str(tmp_path / "adapter")))
    assert (adapter / "adapter_model.safetensors").is_file()
    assert not (adapter / "model.safetensors").is_file()
    assert torch.allclose(logits(whole), logits(adapter), atol=1e-3)
    assert not torch.allclose(logits(whole), logits(shipped.ASSETS), atol=1e-2), "two steps have changed something"
    text = (adapter / "README.md").read_text()
    assert "This folder holds a LoRA adapter alone" in text
    assert "--enable-lora" in text
    assert hub.ModelCard.load(adapter / "README.md").data.library_name == "peft"
    text = (whole / "README.md").read_text()
    rows = read(tuned.folder / "prepared" / "summary.json")
    assert f"Dataset: synthetic; 4 queries, {rows['training_windows']} windows of 5 passages." in text
    assert "by supervised fine-tuning" in text
    assert "lora:\n  rank: 4\n" in text
    assert read(whole / "rearank.json")["stage"] == "sft"
    half = exported(with_export(tuned, merge=False, dtype="float16", to=str(tmp_path / "half")))
    assert torch.allclose(logits(adapter), logits(half), atol=5e-3)
    assert not torch.equal(logits(adapter), logits(half))
    sizes = [(one / "adapter_model.safetensors").stat().st_size for one in (adapter, half)]
    assert sizes[1] < 0.6 * sizes[0]
    assert "rounded to float16; measured were those of the training" in (half / "README.md").read_text()
    # the adapter beside the model is looked at, too
    best = next(tuned.folder.glob("sft/best-*"))
    kept = (best / "adapter_config.json").read_bytes()
    (best / "adapter_config.json").write_text("{}")
    with pytest.raises(ExportError, match=r"adapter_config\.json: was changed after it was written"):
        exported(with_export(tuned, merge=False, to=str(tmp_path / "again")))
    (best / "adapter_config.json").write_bytes(kept)
    assert not (tmp_path / "again").exists()


def test_an_adapter_in_the_shards_of_verl(tuned: Run, tmp_path: Path) -> None:
    """As verl keeps it: one rank's plain tensors, under peft's names."""
    from peft import get_peft_model

    from rearank.training.base import Lora
    from rearank.training.local import lora_config
    from rearank.training.verl.export import export

    shards = tmp_path / "run" / "training" / "checkpoints" / "global_step_3" / "actor"
    shards.mkdir(parents=True)
    model, tokenizer = shipped.load()
    policy = get_peft_model(model, lora_config(Lora(rank=4)))
    torch.manual_seed(0)
    weights = {name: one + 0.01 * torch.randn_like(one) * ("lora" in name) for name, one in policy.state_dict().items()}
    torch.save(weights, shards / "model_world_size_1_rank_0.pt")
    (shards / "fsdp_config.json").write_text('{"FSDP_version": 2, "world_size": 1}')
    tokenizer.save_pretrained(shards / "huggingface")
    merged = tmp_path / "run" / "training" / "model"
    export(shards, str(shipped.ASSETS), Lora(rank=4), merged)
    found = replace(
        find_origin(tuned.folder, "sft"),
        folder=tmp_path / "run" / "training",
        result=TrainingResult(str(merged), 3, 3, None),
    )
    fill(tmp_path, found, found.model_node, adapter=True)
    assert torch.allclose(logits(tmp_path), logits(merged), atol=1e-3)
    assert not torch.allclose(logits(tmp_path), logits(shipped.ASSETS), atol=1e-2)
    assert not (tmp_path / "made").exists()
    with pytest.raises(ExportError, match="has no adapter of step 9 any more"):
        fill(tmp_path / "more", replace(found, result=TrainingResult(str(merged), 9, 9, None)), {}, adapter=True)
