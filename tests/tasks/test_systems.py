"""Which systems an evaluation measures, by what was trained in its folder."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.tasks.runs import made

from rearank.experiment import Run
from rearank.tasks.pipeline import PipelineTask
from rearank.tasks.stage import open_stage
from rearank.tasks.systems import systems
from rearank.tasks.train import TRAINED_WITH, sft_folder, stage_settings, starting_point, training_folder
from rearank.training.base import TrainingResult, write_result

SMALL = ("experiment=quickstart", "tracking=none", "evaluation.samples=0")


def trained(run: Run, *stages: str) -> Run:
    """``run`` with these stages done, as a trainer leaves them."""
    for stage in stages:
        place = run.folder / stage
        result = TrainingResult(str(place / "model"), steps=4, best_step=2, best_ndcg=0.5)
        write_result(place, result)
    return run


def names(run: Run) -> list[str]:
    return [system.name for system in systems(run)]


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
    found = {system.name: system for system in systems(run)}
    assert found["base"].model == run.experiment.model.location
    assert found["sft"].model == str(sft_folder(run) / "model")
    assert found["trained"].model == str(training_folder(run) / "model")
    assert found["sft"].label == "tiny after SFT (step 2)"
    assert found["sft"].samplings == found["base"].samplings


def test_a_server_is_not_asked_for_a_checkpoint_that_it_does_not_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = ("engine=openai", "engine.base_url=http://127.0.0.1:9/v1", "engine.served_model=tiny")
    with caplog.at_level(logging.WARNING):
        assert names(trained(made(tmp_path, *SMALL, *served), "sft", "training")) == ["base"]
    assert caplog.text.count("is left out: engine.served_model names another model") == 2


@pytest.mark.parametrize("method", ["rl", "sft", "sft_then_rl"])
def test_rl_starts_from_this_folders_sft_where_the_method_says_so(method: str, tmp_path: Path) -> None:
    run = trained(made(tmp_path, *SMALL, f"task.method={method}"), "sft")
    begun = starting_point(run)
    tuned = str(sft_folder(run) / "model")
    from_sft = method == "sft_then_rl"
    assert begun.experiment.model.location == (tuned if from_sft else run.experiment.model.location)
    assert stage_settings(begun, *TRAINED_WITH)["model"]["path"] == (tuned if from_sft else run.config["model"]["path"])
    assert run.config["model"]["path"] != tuned, "the run itself stays as it is"


def test_no_change_of_settings_is_seen_where_rl_followed_sft(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trained(made(tmp_path, *SMALL, "task.method=sft_then_rl"), "sft", "training")
    open_stage(training_folder(run), stage_settings(starting_point(run), *TRAINED_WITH))
    with caplog.at_level(logging.WARNING):
        systems(run)
    assert caplog.text == ""


def test_methods_are_named() -> None:
    with pytest.raises(ValueError, match="must be rl, sft or sft_then_rl, not 'dpo'"):
        PipelineTask("dpo")  # type: ignore[arg-type]
