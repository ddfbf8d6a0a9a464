"""An analysis is of the weights that it asked: others move it aside, and a report shows none of another training."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tasks.exports import trained
from tests.tasks.runs import read

from rearank.runs.layout import write_json
from rearank.runs.reader import analysis_since, read_folder
from rearank.tasks.pipeline import look_at_answers, training_stage
from rearank.training.base import TrainingResult, write_result

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_other_weights_are_asked_anew(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    run = trained(tmp_path, "analyse.after_training=1")
    look_at_answers(run)
    first = read(run.folder / "analysis-short" / "analysis.json")
    look_at_answers(run)
    assert not (run.folder / "analysis-short.1").exists(), "nothing has changed"
    place = run.folder / "training" / "model" / "model.safetensors"
    changed = {name: tensor + 0.02 * torch.ones_like(tensor) for name, tensor in load_file(place).items()}
    save_file(changed, place, metadata={"format": "pt"})
    write_result(place.parents[1], TrainingResult(str(place.parent), steps=6, best_step=4, best_ndcg=0.6))
    look_at_answers(run)
    assert read(run.folder / "analysis-short.1" / "analysis.json") == first
    assert read(run.folder / "analysis-short" / "analysis.json") != first


def test_an_analysis_from_before_the_training_is_not_shown(tmp_path: Path) -> None:
    run = trained(tmp_path)
    began = read(training_stage(run).folder / "environment.json")["time"]
    for name, time in (("analysis", "2001-01-01T00:00:00+00:00"), ("analysis-short", began)):
        write_json(run.folder / name / "environment.json", {"time": time})
        write_json(run.folder / name / "analysis.json", {"model": name})
    assert read_folder(run.folder).analysis == {"model": "analysis-short"}
    assert analysis_since(run.folder, "2001-01-01T00:00:00+00:00") == {"model": "analysis"}, "the fuller one"
    write_json(run.folder / "analysis-short" / "environment.json", {"time": "2001-01-01T00:00:00+00:00"})
    assert read_folder(run.folder).analysis == {}
