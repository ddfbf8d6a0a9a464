"""Nothing is measured on what it was trained on, unless somebody says so."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.tasks.runs import made, priced

from rearank.data.synthetic import SyntheticCollection
from rearank.experiment import Run
from rearank.runs.layout import TRAIN_ROWS, VALIDATION_ROWS
from rearank.runs.reader import read_systems
from rearank.sections import Compare, Preparation
from rearank.tasks.compare import compare_runs
from rearank.tasks.overlap import OverlapError
from rearank.tasks.pipeline import evaluate_models, prepare_rows, refuse_measured_queries, rows_stage
from rearank.tasks.preflight import PreflightError, preflight
from rearank.training.base import TrainingResult, write_result
from rearank.training.rows import read_rows

SPLIT = {"train": range(0, 12), "test": range(8, 16)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEIR folder whose splits share four queries by text: the training split has them under ids of its own."""
    place = tmp_path_factory.mktemp("beir")
    source = SyntheticCollection(seed=1, split="train", passage_count=600, query_count=16, name="x")
    lines = [json.dumps({"_id": p.id, "text": p.text}) for p in source.iter_passages()]
    (place / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    topics = list(source.queries().values())
    named = {split: [(f"{split}{n}#{n % 2}", topics[n]) for n in numbers] for split, numbers in SPLIT.items()}
    queries = [json.dumps({"_id": qid, "text": f"{query.text}?"}) for all_ in named.values() for qid, query in all_]
    (place / "queries.jsonl").write_text("\n".join(queries) + "\n")
    (place / "qrels").mkdir()
    for split, there in named.items():
        rows = [
            f"{qid}\t{passage}\t{grade}" for qid, query in there for passage, grade in source.qrels()[query.id].items()
        ]
        (place / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return place


def run_of(folder: Path, outputs: Path, *more: str, validation: bool = False) -> Run:
    given = (
        *("experiment=quickstart", "engine=scripted", "tracking=none"),
        *(() if validation else ("~dataset@validation",)),
        *("dataset=local_beir", f"dataset.collection.path={folder}", "augmentation.filter.maximum_initial=null"),
        *("benchmark=local_beir", f"benchmark.collection.path={folder}", "prepare.validation_share=0.3"),
    )
    return made(outputs, *given, *more)


def trained_on(rows: Path) -> set[str]:
    return {row.judged.window.query.id for row in read_rows(rows)}


def test_a_dataset_of_ones_own_trains_on_its_training_split(folder: Path, tmp_path: Path) -> None:
    rows = prepare_rows(run_of(folder, tmp_path))
    assert {query[:5] for query in trained_on(rows.folder / TRAIN_ROWS)} == {"train"}


def test_a_split_that_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dev\.tsv.*splits are test, train: set collection\.split"):
        prepare_rows(run_of(folder, tmp_path, "dataset.collection.split=dev"))


def test_queries_of_the_benchmark_are_refused(folder: Path, tmp_path: Path) -> None:
    run = run_of(folder, tmp_path, "prepare.validation_windows=0")
    with pytest.raises(OverlapError, match=r"4 of 12 training queries are also in local_beir.*prepare\.overlap=drop"):
        refuse_measured_queries(run, prepare_rows(run))


@pytest.mark.parametrize("task", ["train", "sft", "pipeline"])
def test_no_task_trains_on_them(task: str, folder: Path, tmp_path: Path) -> None:
    run = run_of(folder, tmp_path, "prepare.validation_windows=0", f"task={task}")
    with pytest.raises(OverlapError, match="4 of 12 training queries"):
        run.experiment.task.run(run)
    assert not list(tmp_path.rglob("checkpoints"))


def test_or_dropped(folder: Path, tmp_path: Path) -> None:
    run = run_of(folder, tmp_path, "prepare.validation_windows=0", "prepare.overlap=drop")
    rows = prepare_rows(run)
    assert trained_on(rows.folder / TRAIN_ROWS) == {f"train{n}#{n % 2}" for n in range(8)}
    assert json.loads((rows.folder / "summary.json").read_text())["queries_dropped_as_measured"] == 4
    refuse_measured_queries(run, rows)


def test_or_allowed_with_a_warning(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = run_of(folder, tmp_path, "prepare.validation_windows=0", "prepare.overlap=allow")
    with caplog.at_level(logging.WARNING):
        refuse_measured_queries(run, prepare_rows(run))
    assert "4 of 12 training queries are also in local_beir" in caplog.text


def test_what_is_allowed_makes_the_same_rows(folder: Path, tmp_path: Path) -> None:
    rows = prepare_rows(run_of(folder, tmp_path))
    before = (rows.folder / TRAIN_ROWS).stat().st_mtime_ns
    again = prepare_rows(run_of(folder, tmp_path, "prepare.overlap=allow"))
    assert (again.folder / TRAIN_ROWS).stat().st_mtime_ns == before
    prepare_rows(run_of(folder, tmp_path, "prepare.overlap=drop"))
    assert (rows.folder / TRAIN_ROWS).stat().st_mtime_ns != before


@pytest.fixture
def measured(folder: Path, tmp_path: Path) -> Run:
    """A run that was trained on four queries of its benchmark, and allows it."""
    run = run_of(folder, tmp_path, "prepare.validation_windows=0", "prepare.overlap=allow", "evaluation.samples=0")
    prepare_rows(run)
    checkpoint = run.folder / "training" / "model"
    checkpoint.mkdir(parents=True)
    write_result(checkpoint.parent, TrainingResult(str(checkpoint), steps=4, best_step=2, best_ndcg=0.5))
    return priced(run, dollars=0.001)


def test_a_checkpoint_is_not_measured_on_its_own_queries(folder: Path, measured: Run) -> None:
    refused = replace(measured, experiment=replace(measured.experiment, prepare=Preparation(depth=20)))
    with pytest.raises(OverlapError, match=r"4 of 12 training queries .*prepare\.overlap=allow"):
        evaluate_models(refused)
    untrained = replace(refused.experiment, evaluation=replace(refused.experiment.evaluation, trained=False))
    evaluate_models(replace(refused, experiment=untrained))


def test_a_comparison_says_what_was_trained_on_its_queries(measured: Run, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_models(measured)
    capsys.readouterr()
    compare_runs(Compare(runs=(str(measured.folder),)), measured.experiment.benchmark, measured.folder / "comparison")
    warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING")]
    assert warned == [
        "WARNING: run: trained was trained on 4 of the 8 queries of local_beir: its scores there say nothing about new "
        "queries"
    ]


def test_what_another_algorithm_left_no_longer_counts(measured: Run) -> None:
    evaluate_models(replace(measured, choices={**measured.choices, "algorithm": "dapo"}))
    evaluate_models(replace(measured, choices={**measured.choices, "algorithm": "grpo"}))
    there = {one.name for one in read_systems(measured.folder)}
    assert "grpo" in there
    assert "dapo" not in there
    assert (measured.folder / "evaluation" / "local_beir" / "dapo.1" / "metrics.json").is_file()


def test_a_validation_dataset_is_no_part_of_the_training_set(folder: Path, tmp_path: Path) -> None:
    validation = ("dataset@validation=local_beir", f"validation.collection.path={folder}")
    run = run_of(folder, tmp_path, *validation, "validation.collection.split=test", validation=True)
    with pytest.raises(OverlapError, match="4 of 12 training queries are also in validation=local_beir"):
        prepare_rows(run)


def test_windows_of_one_query_are_held_out_together(tmp_path: Path) -> None:
    """Two ids with one text: the same side of the split, for any seed."""
    source = SyntheticCollection(seed=1, split="train", passage_count=600, query_count=10, name="x")
    (tmp_path / "corpus.jsonl").write_text(
        "\n".join(json.dumps({"_id": p.id, "text": p.text}) for p in source.iter_passages()) + "\n"
    )
    ids = [(f"{query.id}#{n}", query) for query in source.queries().values() for n in range(3)]
    (tmp_path / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": qid, "text": query.text}) for qid, query in ids) + "\n"
    )
    (tmp_path / "qrels").mkdir()
    rows = [f"{qid}\t{p}\t{g}" for qid, query in ids for p, g in source.qrels()[query.id].items()]
    (tmp_path / "qrels" / "train.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    for seed in range(4):
        made_rows = prepare_rows(run_of(tmp_path, tmp_path / str(seed), f"seed={seed}"))
        sides: Sequence[set[str]] = [
            {query.partition("#")[0] for query in trained_on(made_rows.folder / name)}
            for name in (TRAIN_ROWS, VALIDATION_ROWS)
        ]
        assert sides[0]
        assert sides[1]
        assert not sides[0] & sides[1]


def test_preflight_finds_it_before_any_row_is_made(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    with pytest.raises(PreflightError, match=r"4 of 12 training queries are also in local_beir"):
        preflight(run_of(folder, tmp_path))
    preflight(run_of(folder, tmp_path, "prepare.overlap=allow"))


def test_where_all_is_dropped_the_cause_is_named(folder: Path, tmp_path: Path) -> None:
    same = ("benchmark.collection.split=train", "prepare.overlap=drop", "prepare.validation_windows=0")
    with pytest.raises(ValueError, match=r"leaves no training query, as all 12 are also in local_beir"):
        prepare_rows(run_of(folder, tmp_path, *same))


def test_code_that_splits_queries_and_reads_answers_counts(folder: Path, tmp_path: Path) -> None:
    run = run_of(folder, tmp_path)
    assert {"rearank.tasks.prepare", "rearank.data.overlap", "rearank.training.rows"} <= rows_stage(run).code.keys()
    read = {"rearank.parsing", "rearank.marks", "rearank.yes_no", "rearank.evaluation.scoring"}
    evaluate_models(replace(run, experiment=replace(run.experiment, prepare=Preparation(overlap="allow"))))
    (stored,) = (run.folder / "evaluation" / "local_beir").glob("scripted/settings.json")
    assert read <= json.loads(stored.read_text())["code"].keys()
