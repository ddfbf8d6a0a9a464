"""A sweep's folders, its jobs' fates and its table, without starting a process."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tasks.runs import SMALL, made

from rearank.evaluation import for_terminal, holm, paired_test
from rearank.runs.reader import score_of
from rearank.runs.sharing import fingerprint, shared
from rearank.runs.sweeps import Job, Sweep
from rearank.tasks.pipeline import prepare_rows
from rearank.tasks.sweep.collect import CollectError, collect, failure_lines
from rearank.tasks.sweep.jobs import JobUnderWay
from rearank.tasks.sweep.plan import LONGEST, job_folder
from rearank.training.rows import read_rows

QUERIES = [f"q{number}" for number in range(12)]


def explain(error: BaseException) -> str | None:
    return "as foreseen" if isinstance(error, ValueError) else None


def job_of(sweep: Path, **choices: str) -> JobUnderWay:
    folder = sweep / ",".join(f"{key}={value}" for key, value in choices.items())
    folder.mkdir(parents=True, exist_ok=True)
    return JobUnderWay(sweep, folder, choices, ["experiment=quickstart", "model.path=a b"])


def metrics(folder: Path, system: str, role: str, values: dict[str, float], benchmark: str = "dl19") -> None:
    place = folder / "evaluation" / benchmark / system
    place.mkdir(parents=True)
    content = {"system": f"the {system}", "role": role, "benchmark": benchmark, "measures": ["ndcg_cut_10"],
               "mean": {"ndcg_cut_10": fmean(values.values())}, "per_query": {"ndcg_cut_10": values}}  # fmt: skip
    (place / "metrics.json").write_text(json.dumps(content))


def value(arm: int, seed: int, query: int) -> float:
    return 0.5 + 0.05 * arm + 0.01 * seed + 0.02 * math.sin(7 * query + 3 * arm)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Two rewards and two seeds; every job measured the same first stage and model."""
    folder = tmp_path / "rewards-sweep"
    for arm, reward in enumerate(("ndcg", "absolute")):
        for seed in (1, 2):
            job = job_of(folder, reward=reward, seed=str(seed))

            def work(job: JobUnderWay = job, arm: int = arm, seed: int = seed) -> float:
                metrics(job.folder, "bm25", "first stage", dict.fromkeys(QUERIES, 0.4))
                metrics(job.folder, "base", "system", dict.fromkeys(QUERIES, 0.45))
                metrics(job.folder, "grpo", "system", {q: value(arm, seed, n) for n, q in enumerate(QUERIES)})
                metrics(job.folder, "ideal", "ideal", dict.fromkeys(QUERIES, 1.0))
                metrics(job.folder, "grpo.1", "system", dict.fromkeys(QUERIES, 0.0))  # other settings', moved aside
                return 0.5

            job.carry_out({"seed": seed}, work, explain)
    swept = {"swept": {"reward": ["ndcg", "absolute"], "seed": ["1", "2"]}, "overrides": []}
    (folder / "sweep.json").write_text(json.dumps(swept))
    return Sweep.read(folder)


@given(st.text(min_size=0, max_size=400))
def test_every_job_folder_is_a_name_that_file_systems_take(overrides: str) -> None:
    name = job_folder(overrides)
    assert name
    assert "/" not in name
    assert len(name.encode(errors="surrogatepass")) <= LONGEST


def test_long_names_stay_apart() -> None:
    long = "model.path=outputs/one/model," + "a" * 300
    assert job_folder(long + "1") != job_folder(long + "2")
    assert job_folder("a/b=1") != job_folder("a_b=1")
    assert job_folder("reward=ndcg,seed=1") == "reward=ndcg,seed=1"


def test_a_finished_job_is_not_done_again(tmp_path: Path) -> None:
    job, done = job_of(tmp_path, seed="1"), []

    def work() -> float:
        (job.folder / "summary.json").write_text("{}")
        done.append(1)
        return 0.25

    config: dict[str, Any] = {
        "_target_": "rearank.experiment.Experiment",
        "seed": 1,
        "algorithm": {"steps": 3},
        "tracking": "wandb",
        "name": "a",
    }
    assert [job.carry_out(config, work, explain) for _ in range(3)] == [0.25] * 3
    assert len(done) == 1
    job.carry_out({**config, "tracking": "none", "name": "b"}, work, explain)
    assert len(done) == 1, "where it is tracked changes no result"
    job.carry_out({**config, "algorithm": {"steps": 4}}, work, explain)
    assert len(done) == 2
    (job.folder / "summary.json").unlink()
    job.carry_out({**config, "algorithm": {"steps": 4}}, work, explain)
    assert len(done) == 3, "its results are gone"


def test_a_failure_is_written_down_and_tried_again(tmp_path: Path) -> None:
    job = job_of(tmp_path, reward="ndcg", seed="2")

    def fail() -> float:
        raise ValueError("no")

    assert job.carry_out({}, fail, explain) is None
    (found,) = Sweep.read(tmp_path).jobs()
    assert (found.status, found.cause) == ("failed", "as foreseen")
    assert "ValueError: no" in (job.folder / "failure.txt").read_text()
    said = "\n".join(failure_lines([found]))
    assert "1 of 1 jobs failed" in said
    assert "rearank -m experiment=quickstart 'model.path=a b' reward=ndcg seed=2" in said
    assert job.carry_out({}, lambda: 1.0, explain) == 1.0
    assert not (job.folder / "failure.txt").exists()
    assert failure_lines(Sweep.read(tmp_path).jobs()) == []


def test_what_every_job_says_is_said_once(tmp_path: Path) -> None:
    def lacking(folder: Path) -> Callable[[], float]:
        def work() -> float:
            raise OSError(f"no GPU, and no room in {folder}")

        return work

    for seed in ("1", "2", "3"):
        job = job_of(tmp_path, seed=seed)
        job.carry_out({"seed": seed}, lacking(job.folder), lambda error: str(error))
    other = job_of(tmp_path, seed="4")
    other.carry_out({"seed": "4"}, lacking(tmp_path), lambda error: "something else")
    said = "\n".join(failure_lines(Sweep.read(tmp_path).jobs()))
    assert said.count("no GPU") == 1
    assert "for the same reason: seed=2, seed=3" in said
    assert "seed=4: something else" in said


def test_a_killed_job_counts_as_failed_and_one_at_work_does_not(tmp_path: Path) -> None:
    job = job_of(tmp_path, seed="1")
    seen: list[str] = []

    def look() -> None:
        seen.append(Job.read(job.folder).status)
        assert job.carry_out({}, lambda: 1.0, explain) is None, "another command leaves it alone"

    pid = os.fork()
    if pid == 0:  # killed in the middle
        job.carry_out({}, lambda: os._exit(9), explain)
    os.waitpid(pid, 0)
    assert (found := Job.read(job.folder)).failed
    assert "killed" in found.cause
    job.carry_out({}, look, explain)  # type: ignore[arg-type]
    assert seen == ["running"]


def test_the_table(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    summary = collect(sweep)
    rows = {row["arm"]: row for row in summary["arms"]}
    assert list(rows) == ["the bm25", "the base", "reward=ndcg", "reward=absolute"], "the command line's order"
    assert rows["the bm25"]["reference"]
    for arm, name in enumerate(("reward=ndcg", "reward=absolute")):
        by_seed = {str(s): fmean(value(arm, s, n) for n in range(12)) for s in (1, 2)}
        assert rows[name]["seeds"] == pytest.approx(by_seed)
        assert rows[name]["mean"] == pytest.approx(fmean(by_seed.values()))
        assert rows[name]["sd_of_seeds"] == pytest.approx(0.01 / math.sqrt(2))
        low, high = rows[name]["interval_95"]
        assert low < rows[name]["mean"] < high
    (one,) = summary["comparisons"]
    ours = [{q: fmean(value(arm, s, n) for s in (1, 2)) for n, q in enumerate(QUERIES)} for arm in (0, 1)]
    assert (one["a"], one["b"]) == ("reward=ndcg", "reward=absolute")
    assert one["test"]["p_value"] == pytest.approx(paired_test(*ours).p_value)
    by_seed = [{s: fmean(value(arm, s, n) for n in range(12)) for s in (1, 2)} for arm in (0, 1)]
    assert one["p_over_seeds"] == pytest.approx(paired_test(*by_seed).p_value, abs=1e-6)
    text = (sweep.folder / "table.md").read_text()
    assert for_terminal(text, "table.md") in capsys.readouterr().out + "\n"
    assert "4 of 4 jobs finished" in text
    assert {path.name for path in sweep.folder.glob("table.*")} == {"table.md", "table.csv", "table.tex"}


def test_holm_is_over_every_arm_and_benchmark(sweep: Sweep) -> None:
    for arm, reward in enumerate(("ndcg", "absolute")):
        for seed in (1, 2):
            folder = sweep.folder / f"reward={reward},seed={seed}"
            metrics(folder, "grpo", "system", {q: value(-arm, seed, n) for n, q in enumerate(QUERIES)}, "dl20")
    tests = collect(sweep)["comparisons"]
    assert [one["benchmark"] for one in tests] == ["dl19", "dl20"]
    assert [one["holm"] for one in tests] == pytest.approx(holm([one["test"]["p_value"] for one in tests]))


def test_another_baseline(sweep: Sweep) -> None:
    (one,) = collect(sweep, "reward=absolute")["comparisons"]
    assert (one["a"], one["b"]) == ("reward=absolute", "reward=ndcg")
    with pytest.raises(CollectError, match="there are reward=ndcg; reward=absolute"):
        collect(sweep, "reward=exact")


def test_what_makes_arms_incomparable_is_said(sweep: Sweep) -> None:
    folder = sweep.folder / "reward=absolute,seed=2"
    stored = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**stored, "status": "failed", "cause": "x"}))
    for seed, steps in ((1, 30), (2, 40)):
        place = sweep.folder / f"reward=ndcg,seed={seed}" / ".hydra"
        place.mkdir()
        (place / "config.yaml").write_text(f"seed: {seed}\nalgorithm:\n  steps: {steps}\n")
    collect(sweep)
    text = (sweep.folder / "table.md").read_text()
    assert "3 of 4 jobs finished" in text
    assert "Arms differ in their seeds: reward=ndcg: 1, 2; reward=absolute: 1" in text
    assert "reward=ndcg: its seeds differ in more than the seed: algorithm.steps: 30 -> 40" in text


def test_seeds_alone_are_one_arm_against_the_model_before(tmp_path: Path) -> None:
    for seed in (1, 2):
        job = job_of(tmp_path / "s", seed=str(seed))
        metrics(job.folder, "base", "system", dict.fromkeys(QUERIES, 0.45))
        metrics(job.folder, "grpo", "system", {q: value(0, seed, n) for n, q in enumerate(QUERIES)})
        job.carry_out({}, lambda: None, explain)
    summary = collect(Sweep.read(tmp_path / "s"))
    assert [row["arm"] for row in summary["arms"]] == ["the base", "all"]
    assert [(one["a"], one["b"]) for one in summary["comparisons"]] == [("the base", "all")]


def test_nothing_to_collect(tmp_path: Path) -> None:
    with pytest.raises(CollectError, match="no sweep's folder"):
        collect(Sweep.read(tmp_path))


def test_the_score_is_the_trained_systems_over_benchmarks(tmp_path: Path) -> None:
    assert score_of(tmp_path) is None
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "result.json").write_text('{"best_ndcg": 0.3}')
    assert score_of(tmp_path) == 0.3
    metrics(tmp_path, "base", "system", dict.fromkeys(QUERIES, 0.2))
    metrics(tmp_path, "grpo", "system", dict.fromkeys(QUERIES, 0.6))
    metrics(tmp_path, "base", "system", dict.fromkeys(QUERIES, 0.4), "dl20")
    assert score_of(tmp_path) == pytest.approx(0.5)


def test_rows_are_made_once_and_linked(tmp_path: Path) -> None:
    for job, first in (("a", True), ("b", False)):
        folder = tmp_path / job / "prepared"
        folder.mkdir(parents=True)
        with shared(tmp_path / "shared", {"seed": 1}, folder, ("rows", "summary.json")) as there:
            assert there is not first
            if not there:
                (folder / "rows").write_text("r")
                (folder / "summary.json").write_text("{}")
        assert (folder / "rows").read_text() == "r"
    assert (tmp_path / "a/prepared/rows").stat().st_ino == (tmp_path / "b/prepared/rows").stat().st_ino
    (tmp_path / "c/prepared").mkdir(parents=True)
    with shared(tmp_path / "shared", {"seed": 2}, tmp_path / "c/prepared", ("rows",)) as there:
        assert not there, "other settings"
        (tmp_path / "c/prepared/rows").write_text("s")
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_another_reward_prepares_nothing_again(tmp_path: Path) -> None:
    counts = ("dataset.collection.query_count=8", "validation.collection.query_count=4")
    small = (*counts, "engine=none", f"paths.cache={tmp_path}/cache")
    folders = {}
    for name, seed in (("ndcg", 1), ("absolute", 1), ("ndcg", 2)):
        run = made(tmp_path / name / str(seed), *SMALL, *small, f"reward={name}", f"seed={seed}")
        folders[name, seed] = prepare_rows(replace(run, sweep=tmp_path / "sweep")).folder
    inodes = {key: (folder / "train.parquet").stat().st_ino for key, folder in folders.items()}
    assert inodes["ndcg", 1] == inodes["absolute", 1] != inodes["ndcg", 2]
    rows = read_rows(folders["absolute", 1] / "train.parquet")
    assert len(rows) == json.loads((folders["absolute", 1] / "summary.json").read_text())["training_windows"]


def test_half_made_rows_are_not_shared(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="full"), shared(tmp_path / "shared", {}, tmp_path / "a", ("rows",)):  # noqa: PT012
        (tmp_path / "a" / "rows").write_text("half")
        raise OSError("full")
    (tmp_path / "b").mkdir()
    with shared(tmp_path / "shared", {}, tmp_path / "b", ("rows",)) as there:
        assert not there
        (tmp_path / "b" / "rows").write_text("whole")
