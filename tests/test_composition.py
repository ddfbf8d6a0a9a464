"""Every option of every group composes with the defaults and builds into the whole experiment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rearank.algorithms import PolicyGradient
from rearank.config import build
from rearank.data import Collection, Retriever
from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.experiment import Experiment, Run, make_run
from tests.golden import config_keys

CONF = Path(__file__).resolve().parent.parent / "conf"
PUBLISHED = CONF.parent / "src" / "rearank" / "evaluation" / "published.json"
# A name that opens with _ is a part that options share, no option.
FILES = [path for path in CONF.glob("*/*.yaml") if not path.stem.startswith("_")]
BENCHMARKS = sorted(path.stem for path in FILES if path.parent.name == "benchmark")
# Benchmarks are many: they are composed and built apart below, a few milliseconds each.
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in FILES if path.parent.name != "benchmark")
GIVEN = {
    "model=local": ["model.path=some/path"],
    **{
        f"dataset={name}": ["dataset.path=some/path"]
        for name in ("rows", "hub", "conversations", "bge", "msmarco_triples")
    },
    "dataset=local_beir": ["dataset.collection.path=some/path"],
    "dataset=local_trec": [f"dataset.collection.{key}=some/path" for key in ("docs", "topics", "qrels_file")],
    "dataset=local_rankllm": [f"dataset.collection.{key}=some/path" for key in ("path", "qrels_file")],
    "local": [f"benchmark.collection.{key}=some/path" for key in ("docs", "topics", "qrels_file")],
    "local_beir": ["benchmark.collection.path=some/path"],
    "local_rankllm": [f"benchmark.collection.{key}=some/path" for key in ("path", "qrels_file")],
    "dataset=own": ["own.collection=some/path"],
    "experiment=own": ["own.collection=some/path"],
    "own": [
        *("benchmark.retriever.run=null", "benchmark.collection.path=some/path", "benchmark.collection.split=train"),
        *("benchmark.collection.held_out_split=null", "benchmark.collection.held_out=0.3"),
        *("benchmark.collection.judged_by=null", "benchmark.collection.seed=1"),
    ],
    "task=collect": ["task.sweep=some/path"],
    "retriever=run_file": ["retriever.path=some/path"],
    "retriever=rankllm": ["retriever.path=some/path"],
    "experiment=gpt4_two_stage": ["retriever.path=some/path"],
}
DESIGN = (
    *("task", "model", "dataset", "augmentation", "reward", "algorithm", "trainer", "engine", "prompt", "strategy"),
    *("retriever", "benchmark", "tracking", "launcher", "experiment"),
)


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> dict[str, Any]:
    settled = ["name=test", "output_dir=outputs/test", *overrides]
    config = OmegaConf.to_container(compose("config", settled), resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def made(*overrides: str) -> Run:
    return make_run(composed(*overrides), {})


def test_every_group_of_the_design_is_there() -> None:
    assert {path.name for path in CONF.glob("[!_]*") if path.is_dir()} == set(DESIGN)


PLUGINS = {
    "launcher=joblib": "hydra_joblib_launcher",
    "launcher=submitit": "hydra_submitit_launcher",
    "launcher=submitit_local": "hydra_submitit_launcher",
    "experiment=search": "hydra_optuna_sweeper",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_builds(option: str) -> None:
    if option in PLUGINS:
        pytest.importorskip(f"hydra_plugins.{PLUGINS[option]}", reason=f"{option} needs {PLUGINS[option]}")
    config = composed(option, *GIVEN.get(option, []))
    assert isinstance(make_run(config, {}).experiment, Experiment)
    node = config.get(option.partition("=")[0])
    assert not config_keys.gone(option, node if isinstance(node, dict) else {})


def test_no_option_and_no_key_has_gone() -> None:
    assert not set(config_keys.recorded()) - {"", *OPTIONS, *(f"benchmark={name}" for name in BENCHMARKS)}
    assert not config_keys.gone("", composed())


def benchmark_node(name: str, *overrides: str) -> dict[str, Any]:
    """Without the rest of an experiment."""
    paths = ["+paths.cache=outputs/cache", "+paths.data=data"]
    config = OmegaConf.to_container(compose(overrides=[f"+benchmark={name}", *paths, *overrides]), resolve=True)
    assert isinstance(config, dict)
    return dict(config["benchmark"])


def benchmark_of(name: str, *overrides: str) -> Benchmark | BenchmarkList:
    built = build(benchmark_node(name, *overrides), "benchmark")
    assert isinstance(built, Benchmark | BenchmarkList)
    return built


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_composes_and_builds(name: str) -> None:
    node = benchmark_node(name, *GIVEN.get(name, []))
    assert not config_keys.gone(f"benchmark={name}", node)
    built = build(node, "benchmark")
    assert built.name == name or name == "bright_archive_split"
    for one in built.benchmarks:
        assert isinstance(one.collection, Collection)
        assert isinstance(one.first_stage, Retriever)


def test_the_benchmarks_of_the_design_are_there() -> None:
    beir = ("covid", "nfcorpus", "dbpedia", "scifact", "signal1m", "trec_news", "robust04")
    bright = (
        *("biology", "earth_science", "economics", "psychology", "robotics", "stackoverflow", "sustainable_living"),
        *("pony", "leetcode", "aops", "theoremqa_theorems", "theoremqa_questions"),
    )
    lists = {
        "trec_dl": ("dl19", "dl20"),
        "beir": beir,
        "bright": tuple(f"bright_{split}" for split in bright),
        "bright_archive": tuple(f"bright_archive_{split}" for split in bright),
        "mrtydi": tuple(f"mrtydi_{language}" for language in "ar bn fi id ja ko ru sw te th".split()),
    }
    for name, members in lists.items():
        assert tuple(one.name for one in benchmark_of(name).benchmarks) == members
    assert len(benchmark_of("nanobeir").benchmarks) == 13
    more = ("dl21", "dl22", "dl23", "arguana", "touche", "fiqa", "scidocs", "quora", "fever", "mrtydi_en", "noveleval")
    assert {*more, "vaswani", "local", "synthetic", "synthetic_dev", "synthetic_essay"} < set(BENCHMARKS)


def test_known_values_are_the_published_ones() -> None:
    """The paper's BM25 rows stand in two places: as data for tables, and in each benchmark's yaml."""
    row = {
        column: value
        for table in json.loads(PUBLISHED.read_text())["tables"]
        for column, value in zip(table["benchmarks"], table["rows"].get("BM25", []), strict=False)
    }
    found = [one for name in ("trec_dl", "beir", "bright", "bright_archive") for one in benchmark_of(name).benchmarks]
    assert {one.published or one.name: round(100 * one.known["paper"], 2) for one in found} == {
        column: value for column, value in row.items() if column not in ("trec_dl", "beir", "bright")
    }


def test_a_member_of_a_list_can_be_changed_or_left_out() -> None:
    built = benchmark_of("beir", "benchmark.members.covid.depth=20", "~benchmark.members.robust04")
    found = {one.name: one.depth for one in built.benchmarks}
    assert (found["covid"], found["scifact"], len(found)) == (20, 100, 6)


def test_a_retriever_replaces_that_of_every_member() -> None:
    built = made("experiment=quickstart", "benchmark=trec_dl", "retriever=pyserini", "dataset=dl21_23").experiment
    assert [one.first_stage.index for one in built.benchmark.benchmarks] == ["msmarco-v1-passage"] * 2
    assert {type(member.retriever).__name__ for member in built.dataset.members.values()} == {"Pyserini"}


def test_the_defaults_are_the_papers() -> None:
    run = made()
    experiment = run.experiment
    assert (experiment.model.name, experiment.benchmark.name) == ("qwen7b", "trec_dl")
    assert (experiment.algorithm.prompts_per_step, experiment.algorithm.group_size) == (128, 32)
    assert experiment.algorithm.total_steps(8950) == 160
    assert (experiment.strategy.size, experiment.strategy.step) == (20, 10)
    assert (experiment.augmentation.sets, experiment.augmentation.size) == (50, 20)
    assert [type(node).__name__ for node in (experiment.trainer, experiment.engine, experiment.tracking)] == [
        "VerlTrainer",
        "VllmNode",
        "WandbTracking",
    ]


def test_the_authors_experiment_is_their_script() -> None:
    """Key by key; what verl makes of it is tests/cluster/test_authors.py's."""
    experiment = made("experiment=authors", "task=preflight").experiment
    algorithm, trainer = experiment.algorithm, experiment.trainer
    assert type(trainer).__name__ == "VerlTrainer"
    assert type(experiment.reward).__name__ == "RearankAuthorsReward"
    assert (experiment.dataset.path, experiment.validation) == ("le723z/rearank_12k", None)
    assert experiment.model.path == "Qwen/Qwen2.5-7B-Instruct"
    assert (algorithm.prompts_per_step, algorithm.group_size) == (128, 32)
    assert (trainer.max_prompt_tokens, experiment.model.max_tokens) == (3072, 2048)
    assert (algorithm.learning_rate, algorithm.warmup_steps) == (1e-6, 0)
    assert (algorithm.prompts_per_step // algorithm.minibatches, algorithm.minibatches, algorithm.updates) == (8, 16, 1)
    assert (algorithm.kl, algorithm.kl_in) == (0.01, "loss")
    assert (algorithm.clip, algorithm.clip_high, algorithm.temperature, algorithm.top_p) == (0.2, None, 1.0, 1.0)
    assert (algorithm.weight_decay, algorithm.max_grad_norm) == (0.01, 1.0)
    assert (algorithm.loss, algorithm.ratio, algorithm.advantage) == ("token", "token", "group")
    assert not algorithm.dynamic_sampling
    assert (trainer.tensor_parallel, trainer.rollout_memory, trainer.offload) == (2, 0.6, "none")
    assert trainer.gradient_checkpointing
    assert trainer.lora is None
    assert (algorithm.steps, algorithm.epochs, trainer.save_every) == (None, 15, 20)
    assert experiment.prepare.validation_windows == 0
    assert experiment.prepare.queries is None
    assert (trainer.cluster.nodes, trainer.cluster.gpus_per_node) == (1, 8)
    # 12,000 rows: about 1,400 steps, as the file says.
    assert 1390 <= algorithm.total_steps(12_000) <= 1410


def test_where_the_paper_is_silent_the_defaults_are_its_authors_scripts() -> None:
    experiment = made().experiment
    theirs = {"minibatches": 16, "kl": 0.01, "weight_decay": 0.01}
    assert experiment.algorithm == replace(PolicyGradient(steps=160), **theirs), "the rest is what algorithms share"
    assert (experiment.trainer.max_prompt_tokens, experiment.model.max_tokens) == (3072, 2048)
    experiment.trainer.check(experiment.algorithm)  # 8 windows x 32 answers over 8 GPUs
    assert made("experiment=quickstart").experiment.algorithm == PolicyGradient(
        steps=30, prompts_per_step=8, group_size=8, learning_rate=3e-4, kl=0.0
    ), "what its figures were made with"


@pytest.mark.parametrize("name", ["dapo", "dr_grpo", "gspo", "ppo", "reinforce_pp", "rloo"])
def test_other_algorithms_start_from_what_all_share(name: str) -> None:
    algorithm = made(f"algorithm={name}").experiment.algorithm
    assert algorithm.steps is None
    assert algorithm.weight_decay == 0.0
    assert algorithm.minibatches == (4 if name in ("dapo", "gspo") else 1)
    assert algorithm.kl == (0.001 if name in ("ppo", "reinforce_pp", "rloo") else 0.0)


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
        (["prepare.depth=1"], "prepare: depth must be at least 2"),
        (["algorithm.group_size=1"], "algorithm: group_size must be at least 2"),
        (["algorithm.learning_rate=2"], "algorithm: learning_rate must be above 0"),
        (["trainer=trl", "trainer.save_every=0"], "trainer: save_every must be at least 1"),
        (["trainer.tensor_parallel=3"], "trainer: tensor_parallel .3. must divide"),
        (["sft.micro_batch=7"], "sft: micro_batch .7. must divide"),
        (["model.temperature=-1"], "model: temperature must not be negative"),
    ],
)
def test_what_is_out_of_range_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(*overrides)
