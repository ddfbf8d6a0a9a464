"""``task=report`` over what a scripted evaluation left: windows found again, several runs, what is missing, sizes."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.tasks.runs import QUERIES, SMALL, made, report_of

from rearank.data.trec import read_run
from rearank.experiment import Run
from rearank.report import Report, ReportError
from rearank.tasks.pipeline import evaluate_models
from rearank.tasks.report import report_at_end, report_of_sweep

NOISY = (*SMALL, "engine.behaviour=noisy", "evaluation.measures=[ndcg_cut_10,recall_10]", "evaluation.samples=0")
NO_FIGURES = "report.figures=false"


def blocks(page: Path) -> dict[str, Any]:
    """The page's JSON, by id."""
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page.read_text(), re.DOTALL)
    return {name: json.loads(content) for name, content in found}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Evaluated once; tests only look at it."""
    found = made(tmp_path_factory.mktemp("report"), *NOISY)
    evaluate_models(found)
    (found.folder / "training").mkdir()
    lines = [{"step": step, "train/reward/total": step / 10, "val/ndcg@10": 0.5} for step in range(5)]
    (found.folder / "training" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return found


def with_report(run: Run, **changes: Any) -> Run:
    return replace(run, experiment=replace(run.experiment, report=Report(**changes)))


def test_every_window_is_found_again_and_leads_to_the_run(run: Run) -> None:
    page = blocks(report_of(with_report(run, figures=False)))
    queries, size = page["queries-0"], run.experiment.strategy.size
    number = next(n for n, one in enumerate(page["data"]["benchmarks"][0]["systems"]) if one["name"] == "scripted")
    ranked = read_run(run.folder / "evaluation" / "synthetic" / "scripted" / "run.trec")
    assert queries["full"] == list(range(QUERIES))
    for place, query in enumerate(queries["ids"]):
        detail = page[f"query-0-{place}"]
        windows = detail["windows"][number]
        assert (
            len(windows)
            == run.experiment.strategy.calls(len(detail["passages"]))
            == queries["counts"][number][place][0]
        )
        order = list(range(len(detail["passages"])))
        for window in windows:  # put into effect one after the other they are the run
            where = order.index(window["shown"][0])
            assert order[where : where + size] == window["shown"]
            order[where : where + size] = window["order"]
        ids = [page["passages-0"][detail["passages"][index]][0] for index in order]
        assert ids == [passage for passage, _ in ranked[query]]
        grades = "".join("-" if (g := detail["grades"][index]) is None else str(g) for index in order)
        assert queries["strips"][number][place] == grades


def test_the_same_folder_gives_the_same_bytes_and_figures(run: Run) -> None:
    first = report_of(run).read_bytes()
    drawn = {path.name: path.read_bytes() for path in (run.folder / "figures").iterdir()}
    assert report_of(run).read_bytes() == first
    assert {path.name: path.read_bytes() for path in (run.folder / "figures").iterdir()} == drawn
    assert {"curve_reward.png", "curve_reward.svg", "statuses_synthetic.svg"} <= set(drawn)
    assert any(name.startswith("change_synthetic_scripted") for name in drawn)


def test_what_was_run_is_said(run: Run) -> None:
    data = blocks(report_of(with_report(run, figures=False, title="A title")))["data"]
    (facts,) = data["runs"]
    assert data["title"] == "A title"
    assert {key: facts["names"][key] for key in ("model", "benchmark", "engine", "prompt")} == {
        **{"model": "tiny", "benchmark": "synthetic", "engine": "scripted, changed", "prompt": "compact"},
    }
    assert ["strategy.size", "20", "5"] in facts["settings"]
    assert not [key for key, before, here in facts["settings"] if before == here]
    assert facts["seed"] == 1
    assert "numpy" in facts["packages"]
    assert set(data["curves"]["lines"][0]["series"]) == {"train/reward/total", "val/ndcg@10"}
    assert data["curves"]["lines"][0]["series"]["train/reward/total"]["mean"] == [0, 0.1, 0.2, 0.3, 0.4]
    assert data["notes"] == []


def test_only_those_that_changed_most_are_in_full_and_a_page_too_large_has_fewer(run: Run) -> None:
    page = blocks(report_of(with_report(run, figures=False, full_text=3)))
    queries, (first, scripted) = page["queries-0"], (0, 1)
    values = queries["values"]["ndcg_cut_10"]
    changes = sorted((abs(b - a) for a, b in zip(values[first], values[scripted], strict=True)), reverse=True)
    assert len(queries["full"]) == 3
    assert min(abs(values[scripted][n] - values[first][n]) for n in queries["full"]) == pytest.approx(changes[2])
    assert all(count is not None for count in queries["counts"][scripted])
    whole = report_of(with_report(run, figures=False)).stat().st_size
    none = report_of(with_report(run, figures=False, full_text=0)).stat().st_size
    limit = (whole + none) / 2 / 1_000_000
    path = report_of(with_report(run, figures=False, megabytes=limit))
    assert path.stat().st_size <= limit * 1_000_000
    assert 0 < len(blocks(path)["queries-0"]["full"]) < QUERIES


def test_runs_side_by_side(run: Run, tmp_path: Path) -> None:
    random = made(tmp_path / "random", *SMALL, "engine.behaviour=random", "evaluation.samples=0")
    evaluate_models(random)
    both = made(tmp_path, *SMALL, NO_FIGURES, f"report.runs=['noisy={run.folder}',{random.folder}]")
    page = blocks(report_of(both))
    (benchmark,) = page["data"]["benchmarks"]
    labels = [one["label"] for one in benchmark["systems"]]
    assert labels[0] == "first stage (bm25)"
    assert {"noisy: scripted: noisy", "run: scripted: random"} < set(labels)
    assert len(benchmark["tests"]["rows"]) == 3
    assert sum(found is not None for found in page["query-0-0"]["windows"]) == 2
    assert [one["label"] for one in page["data"]["runs"]] == ["noisy", "run"]


def test_a_killed_evaluation_and_missing_parts_are_said(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run.folder, broken)
    there = made(tmp_path, *NOISY, NO_FIGURES, f"paths.cache={run.folder.parent}/cache")
    (broken / "completions.sqlite").unlink()
    page = blocks(report_of(there))
    assert "completions.sqlite isn't there" in page["data"]["notes"][0]
    (broken / "evaluation" / "synthetic" / "scripted" / "engine.json").unlink()
    assert "evaluate again to record its engine" in blocks(report_of(there))["data"]["notes"][0]
    settings = broken / "evaluation" / "synthetic" / "bm25" / "settings.json"
    settings.write_text("{}")
    assert "the collection isn't at hand" in blocks(report_of(there))["data"]["notes"][0]
    values = blocks(report_of(there))["queries-0"]["values"]["ndcg_cut_10"]
    assert len(values[0]) == QUERIES


def test_a_sweep_ends_with_the_report_of_its_jobs(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    report_of_sweep(tmp_path, [])
    assert not list(tmp_path.iterdir())
    jobs = [tmp_path / name for name in ("seed=1", "seed=2")]
    for job in jobs:
        shutil.copytree(run.folder, job)
        (job / ".hydra").mkdir()
        config = {"paths": {"outputs": str(run.folder.parent), "cache": "${paths.outputs}/cache"}}
        config["report"] = {"_target_": "rearank.report.Report", "figures": False}
        (job / ".hydra" / "config.yaml").write_text(json.dumps(config))
    report_of_sweep(tmp_path, jobs)
    assert capsys.readouterr().out == f"the report: {tmp_path}/report.html\n"
    data = blocks(tmp_path / "report.html")["data"]
    assert data["title"] == tmp_path.name
    assert [one["label"] for one in data["runs"]] == ["seed=1", "seed=2"]
    assert not caplog.text


@pytest.mark.parametrize(("write", "jobs", "sweeps"), [(True, 1, 1), ("sweep", 0, 1), (False, 0, 0)])
def test_who_writes_a_report_at_its_end(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], write: bool | str, jobs: int, sweeps: int
) -> None:
    job = tmp_path / "seed=1"
    shutil.copytree(run.folder, job, ignore=shutil.ignore_patterns("report.html"))
    (job / ".hydra").mkdir()
    section = {"_target_": "rearank.report.Report", "figures": False, "write": write}
    config = {"paths": {"outputs": str(run.folder.parent), "cache": "${paths.outputs}/cache"}, "report": section}
    (job / ".hydra" / "config.yaml").write_text(json.dumps(config))
    settings = replace(run.experiment.report, write=write, figures=False)  # type: ignore[arg-type]
    report_at_end(job, settings, run.cache)
    assert len(list(job.glob("report.html"))) == jobs
    report_of_sweep(tmp_path, [job])
    assert len(list(tmp_path.glob("report.html"))) == sweeps
    assert capsys.readouterr().out.count("the report: ") == jobs + sweeps
    with pytest.raises(ValueError, match="true, false or sweep"):
        replace(settings, write="sometimes")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def study(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms of two seeds as a sweep leaves them, whose answers differ in all four; a third arm isn't finished."""
    folder = tmp_path_factory.mktemp("studies") / "noises-sweep"
    for arm, noise in (("little", 0.3), ("much", 3.0)):
        for seed in (1, 2):
            options = (f"engine.noise={noise}", f"engine.seed={seed}", f"seed={seed}")
            one = made(folder / "made" / f"{arm}{seed}", *NOISY, *options, f"paths.cache={run.folder.parent}/cache")
            evaluate_models(one)
            job = folder / f"arm={arm},seed={seed}"
            one.folder.rename(job)
            (job / "training").mkdir()
            (job / "training" / "train.jsonl").write_text(json.dumps({"step": 1, "val/ndcg@10": seed / 10}) + "\n")
            (job / ".hydra").mkdir()
            overrides = [f"engine.noise={noise}", f"arm={arm}", f"seed={seed}"]
            (job / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
            choices = {"arm": arm, "seed": str(seed)}
            stored = {"status": "finished", "choices": choices, "fixed": []}
            (job / "job.json").write_text(json.dumps(stored))
    failed = folder / "arm=failed,seed=1"
    failed.mkdir()
    (failed / "job.json").write_text(json.dumps({"status": "failed", "choices": {"arm": "failed"}, "fixed": []}))
    swept = {"arm": ["little", "much", "failed"], "seed": ["1", "2"]}
    (folder / "sweep.json").write_text(json.dumps({"swept": swept, "overrides": []}))
    return folder


def test_a_studys_folder_stands_for_its_jobs_and_seeds_are_together(study: Path, run: Run, tmp_path: Path) -> None:
    shown = f"report.runs=[{study}]"
    page = blocks(report_of(made(tmp_path, *NOISY, NO_FIGURES, shown, f"paths.cache={run.folder.parent}/cache")))
    data = page["data"]
    assert data["title"] == "noises-sweep"
    assert [(arm["label"], arm["changes"], arm["seeds"]) for arm in data["arms"]] == [
        ("little", ["engine.noise=0.3"], ["1", "2"]),
        ("much", ["engine.noise=3.0"], ["1", "2"]),
    ]
    systems = data["benchmarks"][0]["systems"]
    assert [one["label"] for one in systems] == [
        *("first stage (bm25)", "little: scripted: noisy", "much: scripted: noisy", "ideal order of the candidates"),
    ]
    assert [(line["label"], line["seeds"]) for line in data["curves"]["lines"]] == [("little", 2), ("much", 2)]
    assert [(row["a"], row["b"]) for row in data["benchmarks"][0]["tests"]["rows"]] == [
        ("little: scripted: noisy", "much: scripted: noisy")
    ]
    # Figures are means over the seeds; the windows and the ranking are the first one's.
    folders = [study / f"arm=much,seed={seed}" / "evaluation" / "synthetic" / "scripted" for seed in (1, 2)]
    measured = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    queries = page["queries-0"]
    for place, query in enumerate(queries["ids"]):
        mean = sum(one["per_query"]["ndcg_cut_10"][query] for one in measured) / 2
        assert queries["values"]["ndcg_cut_10"][2][place] == pytest.approx(mean, abs=1e-4)
    ranked = read_run(folders[0] / "run.trec")
    detail, shown_query = page["query-0-0"], queries["ids"][0]
    order = list(range(len(detail["passages"])))
    for window in detail["windows"][2]:
        where = order.index(window["shown"][0])
        order[where : where + len(window["order"])] = window["order"]
    assert [page["passages-0"][detail["passages"][n]][0] for n in order] == [one for one, _ in ranked[shown_query]]
    assert ranked[shown_query] != read_run(folders[1] / "run.trec")[shown_query]
    assert systems[2]["windows_of"] == "1"


def test_a_sweep_whose_jobs_all_failed_has_no_report(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps({"swept": {}, "overrides": []}))
    with pytest.raises(ReportError, match="none of this sweep's jobs is finished"):
        report_of(made(tmp_path, *NOISY, f"report.runs=[{tmp_path}]"))


def test_a_page_that_no_fewer_texts_make_small_enough_has_no_figures_of_analyses(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    figures = folder / "analysis" / "synthetic" / "figures"
    figures.mkdir(parents=True)
    (figures / "length.png").write_bytes(bytes(1_000_000))
    tables = {"length": [{"system": "s", "tau": 1.0}]}
    (folder / "analysis" / "analysis.json").write_text(json.dumps({"benchmarks": {"synthetic": {"tables": tables}}}))
    there = made(tmp_path, *NOISY, f"paths.cache={run.folder.parent}/cache")
    whole = blocks(report_of(with_report(there, figures=False)))["data"]
    assert len(whole["analyses"][0]["figures"]) == 1
    path = report_of(with_report(there, figures=False, megabytes=1.0))
    assert path.stat().st_size < 1_000_000
    data = blocks(path)["data"]
    assert data["analyses"][0]["figures"] == []
    assert data["analyses"][0]["tables"] == whole["analyses"][0]["tables"]
    assert "figures of analyses are left out" in data["notes"][-1]


def test_a_report_that_fails_takes_nothing_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    empty = made(tmp_path, *SMALL)
    empty.folder.mkdir()
    with pytest.raises(ReportError):
        report_of(empty)
    report_at_end(empty.folder, empty.experiment.report, empty.cache)
    assert "no report was written (ReportError: " in caplog.text
    caplog.clear()
    report_at_end(empty.folder, replace(empty.experiment.report, write=False), empty.cache)
    assert not caplog.text
