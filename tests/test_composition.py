"""Every option of every group composes with the defaults and builds into the whole experiment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rearank.tasks.experiment import Experiment, Run, make_run

CONF = Path(__file__).resolve().parent.parent / "conf"
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))
GIVEN = {
    "model=local": ["model.path=some/path"],
    "dataset=local_beir": ["dataset.collection.path=some/path"],
    "retriever=run_file": ["retriever.path=some/path"],
    "retriever=rankllm": ["retriever.path=some/path"],
}
DESIGN = (
    *("task", "model", "dataset", "augmentation", "reward", "algorithm", "trainer", "engine", "prompt", "strategy"),
    *("retriever", "benchmark", "tracking", "launcher", "experiment"),
)


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def made(*overrides: str) -> Run:
    settled = ["name=test", "output_dir=outputs/test", *overrides]
    config = OmegaConf.to_container(compose("config", settled), resolve=True)
    assert isinstance(config, dict)
    return make_run({str(key): value for key, value in config.items()}, {})


def test_every_group_of_the_design_is_there() -> None:
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == set(DESIGN)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_builds(option: str) -> None:
    group, name = option.split("=")
    needed = GIVEN.get(option, [])
    if option in ("dataset=local_trec", "dataset=local_rankllm", "benchmark=local"):
        node = OmegaConf.load(CONF / group / f"{name}.yaml")
        missing = [key for key, value in OmegaConf.to_container(node.collection).items() if value == "???"]  # type: ignore[union-attr]
        needed = [f"{group}.collection.{key}=some/path" for key in missing]
    assert isinstance(made(option, *needed).experiment, Experiment)


def test_the_defaults_are_the_papers() -> None:
    run = made()
    experiment = run.experiment
    assert (experiment.model.name, experiment.benchmark.name) == ("qwen7b", "trec_dl")
    assert (experiment.algorithm.prompts_per_step, experiment.algorithm.group_size) == (128, 32)
    assert (experiment.strategy.size, experiment.strategy.step) == (20, 10)
    assert (experiment.augmentation.sets, experiment.augmentation.size) == (50, 20)
    assert [type(node).__name__ for node in (experiment.trainer, experiment.engine, experiment.tracking)] == [
        "VerlTrainer",
        "VllmNode",
        "WandbTracking",
    ]


def test_a_retriever_replaces_every_collections_own() -> None:
    experiment = made("retriever=scoreddocs", "experiment=quickstart").experiment
    names = {
        type(node.retriever).__name__ for node in (experiment.dataset, experiment.validation, experiment.benchmark)
    }
    assert names == {"ScoredDocs"}
    assert type(made("experiment=quickstart").experiment.dataset.retriever).__name__ == "Bm25"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reward=ndcg", "reward._target_=rearank.augmentation.MultiSample"], "sets|weight"),
        (["seed=-1"], "seed must not be negative"),
        (["evaluation.samples=-1"], "evaluation: samples must not be negative"),
        (["prepare.depth=1"], "prepare: depth is the number of candidates"),
        (["algorithm.group_size=1"], "algorithm: group_size must be at least 2"),
        (["algorithm.learning_rate=2"], "algorithm: learning_rate must lie"),
        (["trainer=trl", "trainer.save_every=0"], "trainer: save_every must be at least 1"),
        (["trainer.tensor_parallel=3"], "trainer: tensor_parallel .3. must divide"),
        (["sft.micro_batch=7"], "sft: micro_batch .7. must divide"),
        (["model.temperature=-1"], "model: temperature must be 0"),
    ],
)
def test_what_is_out_of_range_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(*overrides)
