"""Which systems an evaluation measures, by what was trained in its folder."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.tasks.runs import made

from rearank.experiment import Run
from rearank.tasks.evaluate import System, systems
from rearank.tasks.evaluate.systems import CheckpointError, checkpoint_of
from rearank.tasks.pipeline import PipelineTask, evaluating, started_from, training_stage
from rearank.training.base import TrainingError, TrainingResult, result_of, write_result
from rearank.training.local import seal_checkpoint

SMALL = ("experiment=quickstart", "tracking=none", "evaluation.samples=0")


def trained(run: Run, *stages: str) -> Run:
    """``run`` with these stages done, as a trainer leaves them."""
    for stage in stages:
        place = run.folder / stage
        result = TrainingResult(str(place / "model"), steps=4, best_step=2, best_ndcg=0.5)
        write_result(place, result)
    return run


def found_in(run: Run, tuned: TrainingResult | None = None) -> list[System]:
    how = evaluating(run, tuned)
    return systems(how.parts, how.settings, how.seed, how.trained)


def names(run: Run, tuned: TrainingResult | None = None) -> list[str]:
    return [system.name for system in found_in(run, tuned)]


@pytest.mark.parametrize(
    ("stages", "overrides", "expected"),
    [
        ((), (), ["base"]),
        (("sft",), (), ["base", "sft"]),
        (("sft", "training"), (), ["base", "sft", "trained"]),
        (("training",), ("evaluation.base=false",), ["trained"]),
        (("sft", "training"), ("evaluation.base=false",), ["sft", "trained"]),
        (("sft", "training"), ("evaluation.base=false", "evaluation.samples=2"), ["base_sampled", "sft", "trained"]),
        (("sft", "training"), ("evaluation.trained=false",), ["base"]),
    ],
)
def test_what_is_measured(
    stages: tuple[str, ...], overrides: tuple[str, ...], expected: list[str], tmp_path: Path
) -> None:
    assert names(trained(made(tmp_path, *SMALL, *overrides), *stages)) == expected


def test_each_system_is_its_own_checkpoint(tmp_path: Path) -> None:
    run = trained(made(tmp_path, *SMALL), "sft", "training")
    found = {system.name: system for system in found_in(run)}
    assert found["base"].model == run.experiment.model.location
    assert found["sft"].model == str(run.folder / "sft" / "model")
    assert found["trained"].model == str(run.folder / "training" / "model")
    assert found["sft"].label == "tiny after SFT (step 2)"
    assert found["sft"].samplings == found["base"].samplings


def test_a_server_is_not_asked_for_a_checkpoint_that_it_does_not_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = ("engine=openai", "engine.base_url=http://127.0.0.1:9/v1", "engine.served_model=tiny")
    with caplog.at_level(logging.WARNING):
        assert names(trained(made(tmp_path, *SMALL, *served), "sft", "training")) == ["base"]
    assert caplog.text.count("is left out: engine.served_model names another model") == 2


def test_rl_that_starts_from_a_fine_tuned_checkpoint_depends_on_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trained(made(tmp_path, *SMALL), "sft")
    tuned = result_of(run.folder / "sft")
    assert tuned is not None
    begun = started_from(run, tuned)
    assert begun.experiment.model.location == tuned.model == training_stage(begun).settings["model"]["path"]
    assert run.config["model"]["path"] != tuned.model, "the run itself stays as it is"
    training_stage(begun).open()
    trained(run, "training")
    with caplog.at_level(logging.WARNING):
        names(run, tuned)
    assert caplog.text == "", "evaluated by the same pipeline"
    with caplog.at_level(logging.WARNING):
        names(run)
    assert "was trained with other settings than this command's: model.path" in caplog.text


def test_damaged_weights_are_not_measured(tmp_path: Path) -> None:
    run = made(tmp_path, *SMALL)
    model = run.folder / "training" / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    trained(run, "training")
    assert names(run) == ["base", "trained"]
    (model / "model.safetensors").write_bytes(b"weighty")
    message = f"{model}/model.safetensors: was changed after it was written; .*move {model.parent} away"
    with pytest.raises(TrainingError, match=message):
        names(run)


def test_a_damaged_checkpoint_is_not_measured(tmp_path: Path) -> None:
    place = tmp_path / "checkpoints" / "checkpoint-2"
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    seal_checkpoint(place, tmp_path / "train.jsonl")
    assert checkpoint_of(tmp_path, 2) == place
    (place / "config.json").write_text("{ }")
    with pytest.raises(CheckpointError, match=r"checkpoint-2/config\.json: was changed .* evaluation\.steps"):
        checkpoint_of(tmp_path, 2)


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    for text in ("", '{"model": "mo', "[]", '{"model": "model", "stepz": 1}'):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(TrainingError, match=r"result\.json: is not what a finished training writes .* remove it"):
            result_of(tmp_path)


def test_methods_are_named() -> None:
    with pytest.raises(ValueError, match="must be rl, sft or sft_then_rl, not 'dpo'"):
        PipelineTask("dpo")  # type: ignore[arg-type]
