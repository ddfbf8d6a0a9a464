"""Every arm of every small study composes and builds, differs from the others, and shares its job with its equals."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from hydra_plugins.rearank_arms_sweeper import ArmsSweeper, arms_as_written
from rearank.experiment import Experiment, make_run
from rearank.runs.sweeps import Job
from rearank.tasks.pipeline import PipelineTask
from rearank.tasks.sweep.jobs import settings_of
from rearank.training.trl import TrlTrainer

CONF = Path(__file__).resolve().parent.parent / "conf"
# A name that opens with _ is a part that studies share, no study.
STUDIES = {
    f"small/{path.stem}": [str(arm) for arm in OmegaConf.load(path).hydra.sweeper.arms]
    for path in sorted((CONF / "experiment" / "small").glob("[!_]*.yaml"))
}
ARMS = [(study, arm) for study, arms in STUDIES.items() for arm in arms]


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def needs_its_launcher() -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the small studies run with launcher=joblib")


@cache
def sweeper(study: str) -> ArmsSweeper:
    """As Hydra makes it of the study's own config."""
    config = compose("config", [f"experiment={study}"], return_hydra_config=True)
    found = config.hydra.sweeper
    assert found._target_ == f"{ArmsSweeper.__module__}.{ArmsSweeper.__name__}"
    return ArmsSweeper(arms_as_written(config), found.seeds)


@cache
def composed(study: str, arm: str) -> dict[str, Any]:
    """The config of the arm's job with seed 1, plain."""
    (job,) = sweeper(study).jobs([f"experiment={study}", f"arm={arm}", "seed=1"])
    config = OmegaConf.to_container(compose("config", [*job, "output_dir=outputs/test"]), resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def test_an_arm_may_name_what_another_study_made_with_the_same_seed() -> None:
    (job,) = sweeper("small/passes").jobs(["experiment=small/passes", "arm=off_2", "seed=3", "paths.outputs=o"])
    path = compose("config", [*job, "output_dir=o/test"]).model.path
    assert path == "o/sft-small-sweep/arm=sft_then_rl,seed=3/training/model"


@pytest.mark.parametrize(("study", "arm"), ARMS)
def test_every_arm_composes_and_builds(study: str, arm: str) -> None:
    needs_its_launcher()
    experiment = make_run(composed(study, arm), {}).experiment
    assert isinstance(experiment, Experiment)
    if isinstance(experiment.task, PipelineTask):
        assert isinstance(experiment.trainer, TrlTrainer)
        experiment.trainer.check(experiment.algorithm)
    assert (experiment.arm, experiment.seed) == (arm, 1)
    assert experiment.name == f"{study.partition('/')[2]}-small"


@pytest.mark.parametrize("study", STUDIES)
def test_the_arms_of_a_study_differ(study: str) -> None:
    needs_its_launcher()
    by_settings: dict[str, list[str]] = {}
    for arm in STUDIES[study]:
        by_settings.setdefault(settings_of(composed(study, arm)), []).append(arm)
    assert [arms for arms in by_settings.values() if len(arms) > 1] == [], "arms that would do the same"


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_says_the_command_that_runs_it(study: str) -> None:
    text = (CONF / "experiment" / f"{study}.yaml").read_text()
    (said,) = set(re.findall(r"^# python run\.py -m experiment=(\S+)", text, re.MULTILINE))
    assert said == study


def test_baselines_are_one_job() -> None:
    needs_its_launcher()
    baselines = [("small/rewards", "normalised"), ("small/sft", "rl"), ("small/optimisation", "group_8")]
    assert len({settings_of(composed(study, arm)) for study, arm in baselines}) == 1


def test_the_command_of_a_failed_job_is_that_job_again(tmp_path: Path) -> None:
    needs_its_launcher()
    choices = {"arm": "queries_10_one_window", "seed": "2"}
    failed = Job(tmp_path, "failed", choices, ["experiment=small/augmentation", "model.path=a b"])
    program, flag, *words = shlex.split(failed.command)
    assert (program, flag) == ("rearank", "-m")
    (job,) = sweeper("small/augmentation").jobs(words)
    config = compose("config", [*job, "output_dir=outputs/test"])
    assert (config.arm, config.seed, config.model.path) == ("queries_10_one_window", 2, "a b")
    assert (config.prepare.queries, config.augmentation.sets) == (10, 1)
