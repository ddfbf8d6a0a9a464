"""Named arms times seeds: the jobs that the sweeper makes of them, and the names they have in the table."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest
from hydra.errors import HydraException
from tests.tasks.test_sweep import QUERIES, explain, job_of, metrics

from hydra_plugins.rearank_arms_sweeper import ArmsSweeper
from rearank.runs.reader import read_systems, stands_for
from rearank.runs.sweeps import Sweep
from rearank.tasks.sweep.collect import collect

STUDY = ArmsSweeper(
    {"ndcg": [], "absolute": ["reward=absolute"], "few": ["reward=absolute", "+prepare.queries=10"]}, [1, 2]
)
FEW = ["reward=absolute", "+prepare.queries=10"]


def named(jobs: list[list[str]]) -> list[str]:
    """Arm and seed of each, which stand last."""
    return [" ".join(job[-2:]) for job in jobs]


def test_every_arm_with_the_first_seed_comes_first() -> None:
    assert STUDY.jobs(["experiment=study"]) == [
        ["experiment=study", "arm=ndcg", "seed=1"],
        ["experiment=study", "reward=absolute", "arm=absolute", "seed=1"],
        ["experiment=study", *FEW, "arm=few", "seed=1"],
        ["experiment=study", "arm=ndcg", "seed=2"],
        ["experiment=study", "reward=absolute", "arm=absolute", "seed=2"],
        ["experiment=study", *FEW, "arm=few", "seed=2"],
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["arm=few"], ["arm=few seed=1", "arm=few seed=2"]),
        (["arm=few,ndcg", "seed=7"], ["arm=few seed=7", "arm=ndcg seed=7"]),
        (["arm=ndcg,ndcg", "seed=1"], ["arm=ndcg seed=1"]),
        (["arm=ndcg", "seed=3,4"], ["arm=ndcg seed=3", "arm=ndcg seed=4"]),
        (["arm=ndcg", "seed=range(1,4)"], ["arm=ndcg seed=1", "arm=ndcg seed=2", "arm=ndcg seed=3"]),
    ],
)
def test_arms_and_seeds_are_chosen(given: list[str], expected: list[str]) -> None:
    assert named(STUDY.jobs(given)) == expected


def test_another_key_is_swept_beside() -> None:
    jobs = STUDY.jobs(["algorithm.steps=5,10", "trainer.threads=1", "arm=ndcg,few", "seed=1"])
    assert jobs == [
        ["algorithm.steps=5", "trainer.threads=1", "arm=ndcg", "seed=1"],
        ["algorithm.steps=5", "trainer.threads=1", *FEW, "arm=few", "seed=1"],
        ["algorithm.steps=10", "trainer.threads=1", "arm=ndcg", "seed=1"],
        ["algorithm.steps=10", "trainer.threads=1", *FEW, "arm=few", "seed=1"],
    ]


def test_what_an_arm_says_too_is_said_once() -> None:
    assert STUDY.jobs(["reward=absolute", "prepare.queries=10", "arm=few", "seed=1"]) == [
        [*FEW, "arm=few", "seed=1"],
    ]
    assert STUDY.jobs(["reward=absolute", "arm=ndcg", "seed=1"]) == [["reward=absolute", "arm=ndcg", "seed=1"]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["arm=absolut"], "arm=absolut: this study has no such arm; there are ndcg, absolute, few"),
        (["arm=ndcg,fwe"], "arm=fwe: this study has no such arm"),
        (["reward=exact"], "reward=exact: the arm absolute sets reward=absolute; leave it out"),
        (["++prepare.queries=20", "arm=few"], r"prepare.queries=20: the arm few sets \+prepare.queries=10"),
        (["reward=absolute,exact", "arm=absolute"], "reward=exact: the arm absolute sets reward=absolute"),
        (["algorithm.kl=interval(0,1)"], "algorithm.kl: a study sweeps over lists of values"),
    ],
)
def test_what_contradicts_the_study_is_named(given: list[str], message: str) -> None:
    with pytest.raises(HydraException, match=message):
        STUDY.jobs(given)


def test_a_sweeper_without_arms_says_so_instead_of_running_nothing() -> None:
    with pytest.raises(HydraException, match="no arms; set hydra"):
        ArmsSweeper({}, [1]).jobs([])


@pytest.mark.parametrize(
    ("systems", "expected"),
    [
        (("bm25", "base", "sft", "grpo"), "grpo"),
        (("grpo", "sft"), "grpo"),
        (("base", "sft", "base_sampled"), "sft"),
        (("base", "base_sampled"), "base"),
        (("sft.1", "base"), "base"),
        (("grpo_step10", "sft"), "sft"),
        (("bm25",), None),
    ],
)
def test_a_job_stands_for_what_was_trained_last(systems: tuple[str, ...], expected: str | None, tmp_path: Path) -> None:
    for name in systems:
        metrics(tmp_path, name, "first stage" if name == "bm25" else "system", dict.fromkeys(QUERIES, 0.5))
    found = stands_for(read_systems(tmp_path))
    assert (found.name if found is not None else None) == expected


def test_the_tables_rows_have_the_arms_names(tmp_path: Path) -> None:
    folder = tmp_path / "study-sweep"
    for number, (arm, steps) in enumerate((("ndcg", "5"), ("ndcg", "10"), ("few", "5"))):
        job = job_of(folder, **{"algorithm.steps": steps, "arm": arm, "seed": "1"})
        metrics(job.folder, "sft", "system", dict.fromkeys(QUERIES, 0.1))
        metrics(job.folder, "grpo", "system", dict.fromkeys(QUERIES, 0.2 + 0.1 * number))
        job.carry_out({}, lambda: None, explain)
    rows = {row["arm"]: row["mean"] for row in collect(Sweep.read(folder))["arms"]}
    assert rows == pytest.approx(
        {"algorithm.steps=5, ndcg": 0.2, "algorithm.steps=10, ndcg": 0.3, "algorithm.steps=5, few": 0.4}
    )


def test_arms_alone_are_named_by_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "study-sweep"
    for seed in ("1", "2"):
        for arm, high in (("ndcg", 0.5), ("few", 0.3)):
            job = job_of(folder, arm=arm, seed=seed)
            metrics(job.folder, "grpo", "system", {q: high + 0.01 * n for n, q in enumerate(QUERIES)})
            job.carry_out({}, lambda: None, explain)
    (folder / "sweep.json").write_text('{"swept": {"arm": ["ndcg", "few"], "seed": ["1", "2"]}, "overrides": []}')
    summary = collect(Sweep.read(folder))
    assert [row["arm"] for row in summary["arms"]] == ["ndcg", "few"]
    assert summary["arms"][0]["mean"] == pytest.approx(0.5 + 0.01 * fmean(range(len(QUERIES))))
    assert [(one["a"], one["b"]) for one in summary["comparisons"]] == [("ndcg", "few")]
