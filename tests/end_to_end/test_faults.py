"""What a user gets wrong, and what a machine does: a few lines that help, exit status 1, nothing lost."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.end_to_end.pipeline import ROOT, SMALL, command, environment, run

from rearank.runs.stage import locked

pytestmark = pytest.mark.slow


def said(*overrides: str, expect: int = 1) -> str:
    done = subprocess.run(
        [sys.executable, "run.py", *overrides], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == expect, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["modle=tiny"], "modle: there is no such group or key; did you mean model?"),
        (["model=tny"], "model=tny: there is no such model; did you mean tiny?"),
        (["reward=ndgc"], "reward=ndgc: there is no such reward; did you mean ndcg?"),
        (["reward.flor=1"], "reward.flor: reward has no such key; did you mean floor?"),
        (["evaluatoin.samples=3"], "did you mean evaluation"),
        (["reward.k=ten"], "reward.k: Value 'ten' of type 'str' could not be converted to Integer (expected int)"),
        (["reward.k=0"], "reward: k must be at least 1, not 0"),
        (["reward.partial=scores"], "reward.partial: 'scores' is none of score, unparsed; did you mean score?"),
        (["experiment=quickstart", "prompt=rearank"], "set prompt=compact"),
        (["experiment=quickstart", "model.path=./nowhere"], "model.path=./nowhere: there is no such folder"),
        (["model=local"], "model.path: a value is missing; set model.path=..."),
        (["reward"], "write key=value"),
        (["experiment=quickstart", "trainer.micro_batch=7"], "trainer.micro_batch (7) must divide"),
    ],
)
def test_a_wrong_command_line_is_answered(overrides: list[str], message: str, tmp_path: Path) -> None:
    assert message in said(*overrides, f"paths.outputs={tmp_path}")


def test_the_paper_on_a_machine_without_gpus(tmp_path: Path) -> None:
    answer = said(f"paths.outputs={tmp_path}")
    assert "trainer=verl" in answer
    assert "engine=vllm" in answer
    assert "python run.py experiment=quickstart" in answer
    assert "experiment=quickstart" in said("--help", expect=0)


def test_composing_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "run.py", "--cfg", "job"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported
    assert not imported & {"torch", "transformers", "trl", "vllm", "verl", "ray", "wandb", "ir_datasets", "bm25s"}


def test_a_full_disk_while_rows_are_written(tmp_path: Path) -> None:
    prepared = tmp_path / "run" / "prepared"
    prepared.mkdir(parents=True)
    (prepared / "train.parquet.partial").symlink_to("/dev/full")
    failed = run(tmp_path, "task=prepare", expect=1)
    assert "free some disk space and run the same command again" in failed.stderr
    assert not (prepared / "train.parquet").exists()
    (prepared / "train.parquet.partial").unlink(missing_ok=True)
    run(tmp_path, "task=prepare")
    assert json.loads((prepared / "summary.json").read_text())["training_windows"] > 0


def test_no_room_for_weights(tmp_path: Path) -> None:
    limit = 1_000_000  # bytes a file: less than the weights

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    failed = subprocess.run(
        command(tmp_path, "task=train", "algorithm.steps=2"),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=limited,
        timeout=300,
        check=False,
    )
    assert failed.returncode == 1, failed.stderr[-2000:]
    assert "run the same command again" in failed.stderr
    run(tmp_path, "task=train", "algorithm.steps=2")
    assert (tmp_path / "run" / "training" / "model" / "model.safetensors").is_file()


def test_an_output_folder_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = said(*SMALL, f"paths.outputs={tmp_path}/file")
    assert "a file stands where a folder is needed" in answer


def test_a_command_that_the_lock_refuses_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(tmp_path, "task=prepare")

    def held() -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    before = held()
    assert {".hydra/config.yaml", "commands.jsonl", "environment.json", "prepared/summary.json"} <= before.keys()
    with locked(folder):
        second = run(tmp_path, "task=prepare", "prepare.queries=3", expect=1)
    assert f"another run (process {os.getpid()}) is at work here" in second.stderr
    assert held() == before
    run(tmp_path, "task=prepare", "prepare.queries=3")
    after = held()
    assert after["environment.json"] == before["environment.json"], "the first command's"
    assert len(after["commands.jsonl"].splitlines()) == 2
    assert after["prepared.1/train.parquet"] == before["prepared/train.parquet"], "other settings' rows are kept"


BASE = (*SMALL, "task=evaluate", "engine=scripted")


def test_failed_queries_are_named_and_tried_again(tmp_path: Path) -> None:
    outputs = f"paths.outputs={tmp_path}"
    answer = said(*BASE, outputs, "engine.failing=0.05")
    assert "queries failed, the first: query " in answer
    assert "run the same command again" in answer
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["scripted"] < summary["ideal"], "a failed query counts 0, it doesn't keep its order"
    answer = said(*BASE, outputs, "engine.failing=0.05", "evaluation.max_failed=1", expect=0)
    assert '"calls_paid_now": 0' not in answer, "the failed ones were tried again"
    said(*BASE, outputs, expect=0)
    metrics = json.loads((tmp_path / "run/evaluation/synthetic/scripted/metrics.json").read_text())
    assert metrics["calls"]["failed"] == 0
    assert metrics["mean"]["ndcg_cut_10"] > summary["scripted"] > 0


def test_an_engine_that_always_fails(tmp_path: Path) -> None:
    answer = said(*BASE, f"paths.outputs={tmp_path}", "engine.failing=1.0")
    assert "every query failed, the first: query " in answer


def test_malformed_answers_are_counted(tmp_path: Path) -> None:
    answer = said(*BASE, f"paths.outputs={tmp_path}", "engine.behaviour=malformed", expect=0)
    metrics = json.loads((tmp_path / "run/evaluation/synthetic/scripted/metrics.json").read_text())
    assert metrics["calls"]["unparsed"] > 0
    assert metrics["calls"]["status_empty"] > 0
    assert "answers could not be read" in answer


MISSING = (
    "{{_target_:rearank.data.benchmark.Benchmark,name:gone,"
    "collection:{{_target_:rearank.data.beir.BeirFolder,path:'{}/gone'}},"
    "retriever:{{_target_:rearank.data.bm25.Bm25}}}}"
)
SYNTHETIC = (
    "{_target_:rearank.data.benchmark.Benchmark,name:here,depth:20,"
    "collection:{_target_:rearank.data.synthetic.SyntheticCollection,split:test,query_count:4},"
    "retriever:{_target_:rearank.data.bm25.Bm25}}"
)


def test_a_missing_benchmark_is_left_out_of_a_list(tmp_path: Path) -> None:
    answer = said(
        *(option for option in BASE if not option.startswith("benchmark.")),
        f"paths.outputs={tmp_path}",
        "benchmark._target_=rearank.data.benchmark.BenchmarkList",
        "~benchmark.collection",
        "~benchmark.retriever",
        "~benchmark.depth",
        "~benchmark.measures",
        "~benchmark.missing",
        *(
            f"~benchmark.{key}"
            for key in ("relevant_from", "own_passage", "language", "lucene_index", "known", "published")
        ),
        f"+benchmark.members={{gone:{MISSING.format(tmp_path)},here:{SYNTHETIC}}}",
        expect=0,
    )
    assert "benchmark gone is left out" in answer
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["benchmarks"]) == ["here"]


def test_a_prompt_longer_than_the_context(tmp_path: Path) -> None:
    long = (
        *SMALL,
        "task=evaluate",
        "evaluation.samples=0",
        "strategy.size=20",
        "strategy.step=10",
        "benchmark.collection.query_count=4",
        "prompt=rearank",
        "model.prompt=null",
        "model.max_tokens=600",
    )
    refused = run(tmp_path, *long, "engine.overflow=refuse", expect=1)
    assert "set engine.overflow=truncate" in refused.stderr
    cut = run(tmp_path, *long)
    counts = json.loads((tmp_path / "run/evaluation/synthetic/base/metrics.json").read_text())["calls"]
    assert counts["truncated_prompts"] == 4
    assert '"truncated_prompts": 4' in cut.stdout + cut.stderr


def test_one_judged_query_is_measured_without_a_test(tmp_path: Path) -> None:
    (tmp_path / "docs.tsv").write_text("d1\tcats and dogs\nd2\tdogs bark\nd3\tbirds sing\n")
    (tmp_path / "topics.tsv").write_text("q1\tdogs\nq2\tzebra\n")
    (tmp_path / "qrels").write_text("q1 0 d1 1\nq1 0 d2 -1\n")
    answer = said(
        *("task=evaluate", "engine=scripted", "model=tiny", "prompt=compact", "tracking=none", "name=run"),
        *("benchmark=local", f"paths.outputs={tmp_path}"),
        f"benchmark.collection.docs={tmp_path}/docs.tsv",
        f"benchmark.collection.topics={tmp_path}/topics.tsv",
        f"benchmark.collection.qrels_file={tmp_path}/qrels",
        expect=0,
    )
    assert "1 queries" in answer
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["scripted"] == 1.0
