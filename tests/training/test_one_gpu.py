"""``trainer=trl`` with vLLM on the same GPU: what TRL is told, what preflight says, what fits which GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rearank.algorithms import PolicyGradient
from rearank.engines.model import Architecture
from rearank.experiment import Experiment, make_run
from rearank.training.base import Examines, Lora, TrainingError, TrainingForecast
from rearank.training.trl import TrlTrainer, plan, settings
from rearank.training.trl.passes import Passes
from rearank.training.trl.rollouts import beside_vllm, vllm_arguments

CONF = Path(__file__).resolve().parents[2] / "conf"
SMOLLM = Architecture(30, 576, 1536, 9, 3, 64, 49152, 8192, tied_embeddings=True)
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::ResourceWarning"
)
ALGORITHM = PolicyGradient(prompts_per_step=4, group_size=8, kl=0.0)
FULL = ("trainer.lora=null", "algorithm.learning_rate=1e-6")


@pytest.fixture
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def one_gpu(*overrides: str) -> Experiment:
    config = compose("config", ["experiment=one_gpu", "name=t", "output_dir=outputs/t", *overrides])
    composed = OmegaConf.to_container(config, resolve=True)
    assert isinstance(composed, dict)
    return make_run({str(key): value for key, value in composed.items()}, {}).experiment


def examined(experiment: Experiment, folder: Path) -> TrainingForecast:
    assert isinstance(experiment.trainer, Examines)
    return experiment.trainer.examine(experiment.algorithm, experiment.model, folder)


@pytest.mark.usefixtures("_hydra")
@pytest.mark.parametrize(
    ("model", "gib", "whole", "fits"),
    [
        ("qwen15b", 23.5, False, True),
        ("qwen3b", 23.5, False, True),
        ("qwen15b", 47.4, False, True),
        ("qwen3b", 79.1, False, True),
        ("qwen15b", 23.5, True, False),
        ("qwen15b", 47.4, True, True),
        ("qwen3b", 47.4, True, False),
        ("qwen3b", 79.1, True, True),
    ],
)
def test_the_experiment_fits_what_it_says(model: str, gib: float, whole: bool, fits: bool, tmp_path: Path) -> None:
    experiment = one_gpu(f"model={model}", f"trainer.gpu_gib={gib}", *(FULL if whole else ()))
    report = examined(experiment, tmp_path)
    assert (not report.problems) == fits, report.problems
    if not fits:
        assert any("trainer.lora='{_target_" in problem for problem in report.problems), "the remedy"
    notes = "\n".join(report.notes)
    for said in ("memory a GPU, computed: sampling", "an update", "trainer.micro_batch=", "tokens", "TFLOP a step"):
        assert said in notes


@pytest.mark.usefixtures("_hydra")
def test_the_remedy_is_one(tmp_path: Path) -> None:
    lora = "trainer.lora={_target_: rearank.training.base.Lora, rank: 32}"
    assert not examined(one_gpu("trainer.gpu_gib=23.5", lora), tmp_path).problems


def test_more_memory_never_gives_vllm_a_smaller_cache() -> None:
    trainer = TrlTrainer(rollout="vllm", gradient_checkpointing=None)
    memory = plan.PassMemory(SMOLLM, 2000, 400, gpu=True)
    plans = [plan.planned(trainer, memory, ALGORITHM, gib) for gib in (12.0, 16.0, 24.0, 48.0, 80.0)]
    held = [one.kv_answers or 0 for one in plans]
    assert [min(32, answers) for answers in held] == sorted(min(32, answers) for answers in held)
    assert plans[-1].fits
    assert held[-1] >= ALGORITHM.answers_per_step


def test_a_share_that_leaves_no_cache_is_named() -> None:
    trainer = TrlTrainer(rollout="vllm", rollout_memory=0.05, gpu_gib=24.0)
    (problem,) = plan.examine(trainer, ALGORITHM, 400, SMOLLM).problems
    assert "trainer.rollout_memory=0.05 leaves vLLM no cache" in problem
    assert "rollout_memory open (null)" in problem


def test_a_machine_without_a_gpu_is_planned_by_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "gpus_seen", list)
    monkeypatch.setattr(plan, "free_gib", lambda *, gpu: 24.0)
    for shared, micro_batch in (("auto", 8), (False, 4)):
        report = plan.examine(TrlTrainer(max_prompt_tokens=1600, shared_prompt=shared), ALGORITHM, 400, SMOLLM)  # type: ignore[arg-type]
        assert not report.problems
        assert any(f"trainer.micro_batch={micro_batch}" in note for note in report.notes)
    monkeypatch.setattr(plan, "free_gib", lambda *, gpu: 2.0)
    (warning,) = plan.examine(TrlTrainer(max_prompt_tokens=1600), ALGORITHM, 400, SMOLLM).warnings
    assert "an update takes" in warning


@pytest.mark.parametrize(
    ("gpus", "build", "device", "said"),
    [
        ([], None, "auto", ["the package vllm is missing", "needs an NVIDIA GPU"]),
        ([79.0], None, "auto", ["extra vllm"]),
        ([79.0], "gpu", "auto", []),
        ([79.0], "cpu", "auto", ["is built for CPUs; set trainer.device=cpu"]),
        ([], "gpu", "cpu", ["is built for GPUs; set trainer.device=cuda"]),
        ([], "cpu", "cpu", []),
        ([], None, "cpu", ["vLLM's CPU build"]),
    ],
)
def test_preflight_names_what_vllm_lacks(
    gpus: list[float], build: str | None, device: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "gpus_seen", lambda: gpus)
    monkeypatch.setattr(settings, "built_for_cpu", lambda: build == "cpu")
    monkeypatch.setattr(settings, "find_spec", lambda name: SimpleNamespace() if build else None)
    found = [line for line in TrlTrainer(rollout="vllm", device=device).preflight() if "rollout" in line]
    assert len(found) == len(said)
    for line, words in zip(found, said, strict=True):
        assert words in line
        assert "trainer.rollout=transformers" in line


def test_a_correction_needs_another_engine() -> None:
    corrected = PolicyGradient(correction="token")
    TrlTrainer(rollout="vllm").check(corrected)
    with pytest.raises(TrainingError, match=r"correction=token: set algorithm\.correction=none, or .*rollout=vllm"):
        TrlTrainer().check(corrected)


def arguments(tmp_path: Path, algorithm: PolicyGradient, **changes: Any) -> Any:
    pytest.importorskip("trl")
    job: Any = SimpleNamespace(folder=tmp_path, max_tokens=40, seed=1, revision=None)
    told = vllm_arguments(algorithm, longest=300, share=0.45, on_cpu=False)
    trainer = TrlTrainer(device="cpu", rollout="vllm", **changes)
    return trainer._policy_settings(job, algorithm, 3, Passes(16, checkpointing=True), told)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["token", "sequence"])
def test_trl_takes_the_correction_under_verls_names(how: Any, tmp_path: Path) -> None:
    found = arguments(tmp_path, PolicyGradient(group_size=8, correction=how, correction_cap=3.0), lora=Lora())
    assert (found.use_vllm, found.vllm_mode, found.vllm_enable_sleep_mode) == (True, "colocate", True)
    assert (found.vllm_gpu_memory_utilization, found.vllm_max_model_length) == (0.45, 300)
    assert found.vllm_importance_sampling_correction
    assert found.vllm_importance_sampling_mode == f"{how}_truncate"
    assert (found.vllm_importance_sampling_clip_min, found.vllm_importance_sampling_clip_max) == (None, 3.0)
    assert found.gradient_checkpointing


@pytest.mark.slow
def test_without_correction_trl_makes_none(tmp_path: Path) -> None:
    assert not arguments(tmp_path, PolicyGradient(group_size=8)).vllm_importance_sampling_correction


def test_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "7")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = dict(os.environ)
    with beside_vllm([], on_cpu=True):
        assert os.environ["VERL_PLATFORM"] == "cpu"
        os.environ["RANK"], os.environ["WORLD_SIZE"] = "0", "1"
    assert dict(os.environ) == before


@pytest.mark.slow
def test_how_far_trainer_and_vllm_are_apart() -> None:
    torch = pytest.importorskip("torch")
    policy = pytest.importorskip("rearank.training.trl.policy").PolicyTrainer
    trainer: Any = SimpleNamespace(_algorithm=PolicyGradient(correction="token", correction_cap=2.0))
    measure: Callable[..., dict[str, float]] = policy._gaps
    output = {
        "completion_mask": torch.tensor([[1, 1], [1, 0]]),
        "old_per_token_logps": torch.log(torch.tensor([[0.5, 0.8], [0.2, 1.0]])),
        "sampling_per_token_logps": torch.log(torch.tensor([[0.5, 0.2], [0.21, 0.1]])),
        "importance_sampling_ratio": torch.tensor([[1.0, 2.0], [0.95, 2.0]]),
    }
    found = measure(trainer, output)
    assert found == {
        "train/rollout_gap_max": pytest.approx(0.6),
        "train/rollout_gap_mean": pytest.approx(0.61 / 3),
        "train/rollout_gap_wide": pytest.approx(1 / 3),
        "train/corrected": pytest.approx(1 / 3),
    }, "padding counts for nothing"
    output["importance_sampling_ratio"] = torch.tensor([[2.0], [0.9]])
    assert measure(trainer, output)["train/corrected"] == 0.5
    assert measure(trainer, {"completion_mask": output["completion_mask"]}) == {}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM beside TRL")
@pytest.mark.parametrize("lora", [None, Lora(rank=8)])
def test_vllm_samples_with_the_weights_of_the_moment(lora: Lora | None, tmp_path: Path) -> None:
    """On a CPU, by vLLM's CPU build. Steps are large, so that old weights would show as a wide gap."""
    pytest.importorskip("trl")
    from tests.training.test_trl import job, made_rows

    from rearank.tracking import read_jsonl

    before = dict(os.environ)
    algorithm = PolicyGradient(
        steps=3, prompts_per_step=2, group_size=4, learning_rate=3e-3, kl=0.0, correction="token"
    )
    trainer = TrlTrainer(device="cpu", rollout="vllm", lora=lora, validate_every=3, rollout_memory=0.1)
    given = job(made_rows(tmp_path), tmp_path / "run")
    trainer.train(given, algorithm)
    steps = [line for line in read_jsonl(given.tracker.jsonl.path) if "train/rollout_gap_mean" in line]
    assert len(steps) == 3
    assert max(line["train/rollout_gap_mean"] for line in steps) < 0.005
    assert all(line["train/correction_weight"] == pytest.approx(1.0, abs=0.05) for line in steps)
    assert dict(os.environ) == before
