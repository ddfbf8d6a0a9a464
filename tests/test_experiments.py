"""The studies: what is written stands on ``results.json``, and what that says is what the sweep's files say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """``experiments/`` is a folder of scripts, no package: imported as its scripts import one another."""
    sys.path.insert(0, str(ROOT / "experiments"))
    try:
        import figures
        import results
        import studies
        import tables

        yield {"results": results, "studies": studies, "tables": tables, "figures": figures}
    finally:
        sys.path.remove(str(ROOT / "experiments"))
        for name in ("results", "studies", "tables", "figures"):
            sys.modules.pop(name, None)


def _arms(path: Path) -> list[str]:
    return list(yaml.safe_load(path.read_text())["hydra"]["sweeper"]["arms"])


def test_every_study_has_its_two_experiments_and_names_the_arms_of_the_small_one(modules: Any) -> None:
    for study in modules["studies"].STUDIES:
        assert (ROOT / "conf" / "experiment" / f"{study.name}.yaml").is_file()
        small = ROOT / "conf" / "experiment" / "small" / f"{study.name}.yaml"
        assert sorted(_arms(small)) == sorted(study.labels), study.name
        assert study.baseline in study.labels
    small = {path.stem for path in (ROOT / "conf" / "experiment" / "small").glob("[!_]*.yaml")}
    assert small == {study.name for study in modules["studies"].STUDIES}


def test_every_study_was_run_and_its_readme_shows_what_results_json_says(modules: Any) -> None:
    tables = modules["tables"]
    for study in modules["studies"].STUDIES:
        readme = study.folder / "README.md"
        results = tables.stored(study)
        assert set(results["arms"]) == set(study.labels)
        assert results["commits"]
        assert tables.made(readme) == tables.study_table(study, results), (
            f"python experiments/run.py --only render: {readme}"
        )
        assert "TODO" not in readme.read_text()
        assert (study.folder / "figure.png").is_file()
        assert (study.folder / "figure.svg").is_file()


def test_the_tables_of_all_studies_are_those_of_their_results(modules: Any) -> None:
    tables = modules["tables"]
    assert tables.made(ROOT / "experiments" / "README.md") == tables.index_table()
    assert tables.made(ROOT / "README.md") == tables.effects_table()


def test_effects_name_arms_of_their_studies(modules: Any) -> None:
    for effect in modules["studies"].EFFECTS:
        study = modules["studies"].named(effect.study)
        assert {effect.arm, effect.other} <= set(study.labels)


def _values(*seeds: float) -> dict[str, dict[str, float]]:
    """Seed 1's mean, seed 2's...; the queries lie around it."""
    return {str(seed): {f"q{i}": mean + 0.01 * (i - 1.5) for i in range(4)} for seed, mean in enumerate(seeds, start=1)}


def test_a_difference_is_of_the_seeds_that_both_have(modules: Any) -> None:
    both = modules["results"]._both(_values(0.5, 0.6, 0.7), _values(0.6, 0.7))
    found = modules["results"].versus(*both)
    assert found["difference"] == pytest.approx(0.1)
    assert list(found["by_seed"]) == ["1", "2"]
    assert (found["wins"], found["ties"], found["losses"]) == (4, 0, 0)


def test_the_interval_is_students_over_the_seeds(modules: Any) -> None:
    found = modules["results"].versus(_values(0.5, 0.5, 0.5), _values(0.6, 0.61, 0.65))
    half = 4.302653 * 0.0264575 / 3**0.5  # t(.975, 2 degrees of freedom) x standard deviation / root of the seeds
    assert found["interval_95"] == pytest.approx([0.12 - half, 0.12 + half], abs=1e-5)
    assert found["p_over_seeds"] == pytest.approx(0.0158, abs=1e-4)
    assert not found["deterministic"]


def test_where_no_seed_changes_anything_the_queries_decide(modules: Any) -> None:
    results = modules["results"]
    found = results.versus(_values(0.5, 0.5, 0.5), _values(0.6, 0.6, 0.6))
    assert found["deterministic"]
    assert found["p_over_seeds"] is None
    assert results.deciding_p(found) == found["p_randomisation"]
    assert found["interval_95"] == found["interval_95_over_queries"]


def test_a_single_seed_decides_nothing(modules: Any) -> None:
    found = modules["results"].versus(_values(0.5), _values(0.6))
    assert not found["deterministic"]
    assert modules["results"].deciding_p(found) is None
    modules["results"]._correct([found])
    assert not modules["tables"].sure(found)
    assert not modules["tables"].suggestive(found)


def test_all_tests_of_a_study_are_corrected_together(modules: Any) -> None:
    tests = [{"deterministic": False, "p_over_seeds": p, "p_randomisation": 0.9} for p in (0.02, 0.04, 0.001)]
    tests.append({"deterministic": True, "p_over_seeds": None, "p_randomisation": 0.01})
    modules["results"]._correct(tests)
    assert [test["holm"] for test in tests] == pytest.approx([0.04, 0.04, 0.004, 0.03])
    assert modules["tables"].sure(tests[0])


def test_seeds_that_measure_the_same_are_one_model_and_refused(modules: Any, study: Any) -> None:
    check = modules["results"]._check_seeds
    check(study, {"normalised": _values(0.5, 0.6), "untrained": _values(0.5, 0.5)}, "end")
    with pytest.raises(ValueError, match="all seeds of normalised measure the same"):
        check(study, {"normalised": _values(0.5, 0.5)}, "end")


def _test(difference: float, p: float, half: float = 1.0) -> dict[str, Any]:
    """Suggestive below .05; corrected, p is ten times as large."""
    ends = [difference - half, difference + half]
    return {"difference": difference, "deterministic": False, "p_over_seeds": p, "holm": 10 * p, "interval_95": ends}


@pytest.mark.parametrize(
    ("direction", "early", "end", "said"),
    [
        (1, None, (0.1, 0.001), "yes"),
        (1, None, (0.1, 0.01), "suggestive: yes"),
        (1, None, (-0.1, 0.001), "no, the opposite"),
        (1, (0.1, 0.001), (0.1, 0.5), "yes, early alone"),
        (1, (-0.1, 0.01), (0.1, 0.5), "suggestive: no, the opposite, early alone"),
        (1, (0.1, 0.5), (0.1, 0.5), "can't tell"),
        (1, (0.1, 0.5), (0.001, 0.5, 0.003), "none within half a point"),
        (0, None, (0.1, 0.5), "can't tell"),
        (0, None, (0.001, 0.5, 0.003), "yes, none within half a point"),
        (0, None, (0.1, 0.001), "no, better"),
        (0, None, (-0.1, 0.01), "suggestive: no, worse"),
    ],
)
def test_the_verdict_on_a_direction(
    modules: Any, direction: int, early: tuple[float, ...] | None, end: tuple[float, ...], said: str
) -> None:
    effect = modules["studies"].Effect("x", "", direction, "rewards", "normalised", "absolute")
    found = {"end": _test(*end), **({"early": _test(*early)} if early else {})}
    assert modules["tables"].verdict(effect, found) == said


def test_a_test_is_turned_round_where_it_is_asked_for_that_way(modules: Any, study: Any) -> None:
    test = {**_test(0.1, 0.01, 0.05), "when": "end", "arm": "absolute", "other": "normalised", "by_seed": {"1": 0.1}}
    benchmark = {"tests": [test]}
    against = modules["tables"].against
    assert against(study, benchmark, "end", "absolute", "normalised") == test
    turned = against(study, benchmark, "end", "normalised", "absolute")
    assert (turned["difference"], turned["by_seed"]) == (-0.1, {"1": -0.1})
    assert turned["interval_95"] == pytest.approx([-0.15, -0.05])
    assert against(study, benchmark, "early", "absolute", "normalised") is None


def _job(folder: Path, arm: str, seed: int, means: dict[str, float]) -> None:
    """A finished job as the framework leaves it: systems by folder name, nDCG@10 around the mean of each."""
    place = folder / f"arm={arm},seed={seed}"
    place.mkdir(parents=True)
    arms = {"normalised": [], "absolute": ["reward=absolute"]}
    (folder / "multirun.yaml").write_text(json.dumps({"hydra": {"sweeper": {"arms": arms}}}))
    fixed = ["experiment=small/rewards", "paths.outputs=outputs", "algorithm.steps=3"]
    (place / "job.json").write_text(
        json.dumps({"status": "finished", "choices": {"arm": arm, "seed": str(seed)}, "fixed": fixed, "seconds": 36.0})
    )
    (place / "environment.json").write_text(json.dumps({"commit": "abcdef1234", "python": "3.11", "packages": {}}))
    for system, mean in means.items():
        role = {"bm25": "first stage", "ideal": "ideal"}.get(system, "system")
        metrics = {
            "system": system, "role": role, "benchmark": "synthetic", "measures": ["ndcg_cut_10"],
            "per_query": {"ndcg_cut_10": _values(mean)["1"]},
            "calls": {"calls": 8, "completion_tokens": 80, "prompt_tokens": 160, "status_ok": 6, "unparsed": 1},
        }  # fmt: skip
        path = place / "evaluation" / "synthetic" / system / "metrics.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(metrics))
    lines = [{"step": step, "val/ndcg@10": 0.4 + seed / 100 + step / 10} for step in (0, 1)]
    (place / "training").mkdir()
    (place / "training" / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))


@pytest.fixture
def study(modules: Any) -> Any:
    return modules["studies"].Study("rewards", "t", "q", "normalised", {"normalised": "a", "absolute": "b"})


def test_results_are_read_off_a_sweeps_jobs(modules: Any, study: Any, tmp_path: Path) -> None:
    for seed, (a, b) in enumerate([(0.70, 0.60), (0.72, 0.64)], start=1):
        fixed = {"bm25": 0.5, "ideal": 0.9}
        _job(tmp_path, "normalised", seed, {**fixed, "grpo_step6": a - 0.1, "grpo": a})
        _job(tmp_path, "absolute", seed, {**fixed, "grpo_step6": b - 0.05, "grpo": b})
    found = modules["results"].results_of(study, tmp_path)
    benchmark = found["benchmarks"]["synthetic"]
    assert benchmark["references"] == {"first stage": pytest.approx(0.5), "ideal": pytest.approx(0.9)}
    assert benchmark["early_step"] == 6
    assert benchmark["end"]["normalised"]["mean"] == pytest.approx(0.71)
    end, early = (
        modules["tables"].against(study, benchmark, when, "absolute", "normalised") for when in ("end", "early")
    )
    assert end["difference"] == pytest.approx(-0.09)
    assert early["difference"] == pytest.approx(-0.04)
    assert end["holm"] > end["p_over_seeds"]
    assert benchmark["answers"]["absolute"]["complete"] == pytest.approx(0.75)
    assert benchmark["answers"]["absolute"]["calls_a_query"] == pytest.approx(2)
    assert found["arms"]["absolute"] == {"sets": ["reward=absolute"], "seeds": [1, 2]}
    assert found["curves"]["normalised"]["val/ndcg@10"]["1"] == pytest.approx([0.515, 0.51, 0.52])
    assert found["curves"]["normalised"]["gain"]["1"] == pytest.approx([0.1, 0.1, 0.1])
    assert found["core_hours"] == pytest.approx(4 * 36 / 3600)
    assert found["command"] == "python run.py -m experiment=small/rewards algorithm.steps=3", "what was said beside"
    table = modules["tables"].study_table(study, found)
    assert "| b | 2 | 0.5700" in table
    assert "-0.0900 [" in table
    modules["figures"].draw(replace(study, name="drawn", place=tmp_path), found)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_an_unfinished_job_is_named(modules: Any, study: Any, tmp_path: Path) -> None:
    for arm in study.labels:
        _job(tmp_path, arm, 1, {"bm25": 0.5, "ideal": 0.9, "grpo": 0.7})
    path = tmp_path / "arm=absolute,seed=1" / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "failed"}))
    with pytest.raises(ValueError, match="arm=absolute,seed=1 not finished"):
        modules["results"].results_of(study, tmp_path)
    with pytest.raises(ValueError, match="no job of rewards"):
        modules["results"].results_of(study, tmp_path / "elsewhere")


def test_what_is_between_the_markers_is_replaced_and_nothing_else(modules: Any, tmp_path: Path) -> None:
    tables = modules["tables"]
    path = tmp_path / "README.md"
    path.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.put(path, "new")
    tables.put(path, "newer")
    assert path.read_text() == f"before\n{tables.BEGIN}\n\nnewer\n\n{tables.END}\nafter\n"
    path.write_text("none")
    with pytest.raises(ValueError, match="needs the lines"):
        tables.put(path, "new")
