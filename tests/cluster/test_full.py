"""What takes minutes each and is not in CI: other algorithms, ranks, deaths of every kind, an existing Ray, a sweep."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.cluster.runs import SMALL, Started, cluster_processes, command, curves, pids, result, run, step_reached
from tests.end_to_end.pipeline import environment, lines

pytestmark = [pytest.mark.full, pytest.mark.slow, pytest.mark.timeout(1500)]


def losses(folder: Path) -> list[int]:
    """The steps that were trained, in order."""
    return [line["step"] for line in curves(folder) if "train/loss" in line]


@pytest.mark.parametrize("algorithm", ["ppo", "dapo", "rloo", "gspo", "reinforce_pp", "dr_grpo"])
def test_algorithms(algorithm: str, tmp_path: Path) -> None:
    group = "1" if algorithm in ("ppo", "reinforce_pp") else "4"
    prompts = "8" if group == "1" else "4"
    kl = ["algorithm.kl=0.01"] if algorithm in ("ppo", "rloo", "reinforce_pp") else []
    # Their own, without which no clip matters; the quickstart sets 1.
    clipped = ["algorithm.minibatches=4"] if algorithm in ("dapo", "gspo") else []
    run(tmp_path, SMALL, f"algorithm={algorithm}", f"algorithm.group_size={group}",
        f"algorithm.prompts_per_step={prompts}", *kl, *clipped)  # fmt: skip
    assert losses(tmp_path / "run") == [1, 2]
    last = curves(tmp_path / "run")[-1]
    if algorithm == "ppo":
        assert last["train/value_loss"] > 0
    if kl:
        assert "train/kl" in last


def test_kl_in_the_loss_uses_a_reference(tmp_path: Path) -> None:
    """And two ranks that compute each prompt once train what one rank trains that computes it for each answer."""
    settings = ("algorithm.kl=0.05", "algorithm.minibatches=2", "algorithm.steps=3", "trainer.validate_every=3")
    run(tmp_path, SMALL, *settings)
    steps = [line for line in curves(tmp_path / "run") if "train/loss" in line]
    kls = [line["train/kl"] for line in steps]
    assert kls[0] == pytest.approx(0, abs=1e-6), "the first step is still the model it started from"
    assert kls[-1] > 0
    assert all("time/reference" in line for line in steps)
    run(tmp_path, SMALL, *settings, "name=shared", "trainer.shared_prompt=true", "cluster.gpus_per_node=2")
    shared = [line for line in curves(tmp_path / "shared") if "train/loss" in line]
    assert all(line["perf/tokens_computed"] < 0.6 for line in shared)
    assert not any("perf/tokens_computed" in line for line in steps)
    for name in ("train/loss", "train/grad_norm", "train/entropy", "train/kl", "train/reward/total", "rollout/length"):
        found, expected = ([line[name] for line in lines] for lines in (shared, steps))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6), name


def test_two_ranks(tmp_path: Path) -> None:
    run(tmp_path, SMALL, "cluster.gpus_per_node=2")
    folder = tmp_path / "run" / "training"
    assert losses(tmp_path / "run") == [1, 2]
    shards = sorted(path.name for path in (folder / "checkpoints" / "global_step_2" / "actor").glob("model_*"))
    assert shards == ["model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"]
    one = run(tmp_path, SMALL, "name=one", "cluster.gpus_per_node=1")
    assert "training" in one
    # What two ranks trained and put together is what one rank trained, but for the order of sums.
    import torch
    from safetensors.torch import load_file

    two = load_file(folder / "model" / "model.safetensors")
    single = load_file(tmp_path / "one" / "training" / "model" / "model.safetensors")
    assert two.keys() == single.keys()
    assert all(torch.allclose(two[name], single[name], atol=2e-3) for name in two)
    said = run(tmp_path, SMALL, "algorithm.steps=2", "cluster.gpus_per_node=1", "name=run")
    assert "a finished training found" in said, "where it is trained does not make it another training"


def test_other_gpus_are_refused_on_resume(tmp_path: Path) -> None:
    started = Started(tmp_path, SMALL, "algorithm.steps=50")
    started.wait_until(step_reached(tmp_path / "run", 2))
    assert started.stop(signal.SIGKILL) == -signal.SIGKILL
    cluster_processes(patience=30)
    said = run(tmp_path, SMALL, "algorithm.steps=50", "cluster.gpus_per_node=2", expect=1)
    assert re.search(r"was written by 1 GPUs and this run has 2: go on with .* = 1", said)


def test_adapters(tmp_path: Path) -> None:
    adapters = ("trainer.lora={_target_: rearank.training.base.Lora, rank: 4}", "algorithm.learning_rate=1e-2")
    measured = ("task=pipeline", "engine=transformers", "evaluation.samples=0", "benchmark.collection.query_count=8")
    run(tmp_path, SMALL, *adapters, *measured)
    config = json.loads((tmp_path / "run" / "training" / "model" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"], "merged: any tool loads it"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "grpo" in summary


@pytest.mark.parametrize("targets", ["ideal", "grades", "teacher"])
def test_fine_tuning(targets: str, tmp_path: Path) -> None:
    sft = ("task=sft", "sft.steps=6", "sft.batch=8", "sft.learning_rate=1e-3", f"sft.targets={targets}",
           "trainer.validate_every=3")  # fmt: skip
    if targets == "teacher":
        run(tmp_path, SMALL, "task=distill", "engine=scripted", "name=run")  # in the same folder
    run(tmp_path, SMALL, *sft)
    logged = lines(tmp_path / "run" / "sft" / "sft.jsonl")
    trained = [line["train/loss"] for line in logged if "train/loss" in line]
    assert len(trained) == 6
    assert trained[-1] < trained[0]
    validated = [line for line in logged if "val/loss" in line]
    assert len(validated) == (0 if targets == "teacher" else 2), "a teacher is asked about training windows only"
    model = tmp_path / "run" / "sft" / "model"
    run(tmp_path, SMALL, "name=rl", f"model.path={model}")
    assert losses(tmp_path / "rl") == [1, 2], "RL starts from it"


@pytest.mark.parametrize("what", ["ppo", "adapters", "sft"])
def test_what_else_is_resumed(what: str, tmp_path: Path) -> None:
    settings = {
        "ppo": ("algorithm=ppo", "algorithm.group_size=1", "algorithm.prompts_per_step=8", "algorithm.steps=3"),
        "adapters": ("trainer.lora={_target_: rearank.training.base.Lora, rank: 4}", "algorithm.steps=3"),
        "sft": ("task=sft", "sft.steps=6", "sft.batch=8", "trainer.validate_every=1", "sft.learning_rate=1e-3"),
    }[what]
    name = "sft" if what == "sft" else "training"
    last = 6 if what == "sft" else 3
    checkpoints = tmp_path / "run" / name / "checkpoints"
    started = Started(tmp_path, SMALL, *settings, "trainer.guard.patience=null")
    started.wait_until(lambda: any(checkpoints.glob("global_step_*/complete")))
    started.process.kill()
    started.process.wait()
    cluster_processes(patience=30)
    said = run(tmp_path, SMALL, *settings, "trainer.guard.patience=null")
    assert re.search(r"continued from step [1-5]", said)
    logged = lines(tmp_path / "run" / name / ("sft.jsonl" if what == "sft" else "train.jsonl"))
    assert [line["step"] for line in logged if "train/loss" in line] == list(range(1, last + 1))


def test_a_killed_worker_ends_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    started = Started(tmp_path, SMALL, "algorithm.steps=40")
    started.wait_until(step_reached(tmp_path / "run", 2))
    for pid in pids(r"ray::WorkerDict"):
        os.kill(pid, signal.SIGKILL)
    assert started.process.wait(timeout=200) == 1
    last = started.said.strip().splitlines()[-2:]
    assert "training failed: a process of the cluster" in last[0]
    assert "failure.txt" in last[1]
    assert "Traceback" not in started.said
    assert cluster_processes(patience=30) == []
    done = max(losses(tmp_path / "run"))
    run(tmp_path, SMALL, f"algorithm.steps={done + 2}", "trainer.guard.patience=null", expect=0)


def test_a_dead_rollout_engine_ends_the_run_in_time(tmp_path: Path) -> None:
    started = Started(tmp_path, SMALL, "algorithm.steps=60", "cluster.seconds_to_sync=10")
    started.wait_until(step_reached(tmp_path / "run", 2))
    for pid in pids(r"VLLM::Worker"):
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    assert started.process.wait(timeout=150) == 1
    assert time.monotonic() - began < 90
    assert "training failed: " in started.said
    assert cluster_processes(patience=30) == []


def test_a_killed_ray_ends_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    started = Started(tmp_path, SMALL, "algorithm.steps=3", "trainer.validate_every=3")
    started.wait_until(step_reached(tmp_path / "run", 1))
    for pid in pids(r"raylet/raylet|/raylet "):
        os.kill(pid, signal.SIGKILL)
    assert started.process.wait(timeout=200) != 0
    assert cluster_processes(patience=30) == []
    run(tmp_path, SMALL, "algorithm.steps=3", "trainer.validate_every=3")
    assert losses(tmp_path / "run") == [1, 2, 3]


@pytest.mark.parametrize("when", ["starting", "training"])
def test_ctrl_c(when: str, tmp_path: Path) -> None:
    before = {path.name for path in Path("/dev/shm").glob("psm_*")}
    started = Started(tmp_path, SMALL, "algorithm.steps=60")
    if when == "starting":
        started.wait_until(lambda: bool(pids(r"ray::WorkerDict")))
    else:
        started.wait_until(step_reached(tmp_path / "run", 2))
    assert started.stop(signal.SIGINT) == 130
    assert "interrupted; the same command goes on from here" in started.said
    assert cluster_processes(patience=30) == []
    if when == "training":
        assert {path.name for path in Path("/dev/shm").glob("psm_*")} <= before, "shared memory is put away"


def test_a_reward_that_raises_ends_the_run_with_its_message(tmp_path: Path) -> None:
    (tmp_path / "broken_reward.py").write_text(
        "from dataclasses import dataclass\n"
        "from rearank.rewards import Reward\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class BrokenReward(Reward):\n"
        '    """Raises."""\n'
        "    def rank_score(self, measured):\n"
        "        raise ArithmeticError('the moon is in the wrong house')\n"
    )
    places = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    reward = "reward._target_=broken_reward.BrokenReward"
    done = subprocess.run(
        command(tmp_path, SMALL, "reward=absolute", reward),
        env={**environment(), "PYTHONPATH": places}, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 1, said[-3000:]
    assert "ArithmeticError: the moon is in the wrong house" in said.strip().splitlines()[-2]
    assert "Traceback" not in said
    assert "Traceback" in (tmp_path / "run" / "training" / "failure.txt").read_text()
    assert cluster_processes(patience=30) == []


def test_a_sweep_of_two_jobs(tmp_path: Path) -> None:
    run(tmp_path, ("-m", *SMALL), "reward=ndcg,absolute", "algorithm.steps=1")
    found = sorted(tmp_path.glob("run-sweep/*/training/result.json"))
    assert len(found) == 2, "each in its own folder"
    jobs = [json.loads((path.parent / "settings.json").read_text())["reward"]["_target_"] for path in found]
    assert sorted(name.rpartition(".")[2] for name in jobs) == ["AbsoluteReward", "NdcgReward"]
    assert cluster_processes(patience=30) == []


def test_an_existing_cluster_of_two_nodes_is_left_as_it_was(two_nodes: str, tmp_path: Path) -> None:
    there = f"cluster.address={two_nodes}"
    run(tmp_path, SMALL, there, "cluster.nodes=2", "cluster.gpus_per_node=1")
    assert losses(tmp_path / "run") == [1, 2]
    assert len(pids(r"raylet/raylet")) == 2, "still there"
    ours = re.compile(r"VLLM::|ray::(WorkerDict|Runner|Reward|Rollout|vLLM|Transfer)")
    assert cluster_processes(patience=40, pattern=ours) == []
    said = run(tmp_path, SMALL, "name=more", there, "cluster.gpus_per_node=4", expect=1)
    assert "the Ray cluster's machines have 2, 2 GPUs, and cluster.nodes=1 with cluster.gpus_per_node=4" in said
    # A run with a Ray of its own does not touch it.
    run(tmp_path, SMALL, "name=own", "algorithm.steps=1")
    assert len(pids(r"raylet/raylet")) == 2


def test_no_cluster_there(tmp_path: Path) -> None:
    said = run(tmp_path, SMALL, "cluster.address=127.0.0.1:26399", expect=1)
    assert "no Ray can be reached" in said
    assert "Traceback" not in said


def test_early_stop(tmp_path: Path) -> None:
    still = ("algorithm.steps=20", "algorithm.learning_rate=1e-12", "trainer.guard.patience=1", "trainer.save_every=50")
    run(tmp_path, SMALL, *still)
    found = result(tmp_path / "run")
    assert (found["steps"], found["best_step"]) == (2, 0)
    assert "1 validations in a row without a better nDCG@10" in found["stopped"]
    (tmp_path / "run" / "training" / "result.json").unlink()  # killed just before its end
    said = run(tmp_path, SMALL, *still)
    assert "starting Ray" not in said
    assert result(tmp_path / "run") == found
