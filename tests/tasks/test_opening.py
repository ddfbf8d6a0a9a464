"""Preflight opens what a run will read: all that is wrong is named at once, before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.tasks.runs import made

import rearank.training
from rearank.data import opening
from rearank.experiment import Run
from rearank.tasks.preflight import PreflightError, preflight

TINY = Path(rearank.training.__file__).parent / "assets" / "tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BEIR folder of three passages and two queries, one a split."""
    place = tmp_path / "beir"
    (place / "qrels").mkdir(parents=True)
    (place / "corpus.jsonl").write_text(
        "\n".join(json.dumps({"_id": f"d{n}", "title": "", "text": f"passage {n}"}) for n in range(3)) + "\n"
    )
    (place / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": f"q{n}", "text": f"query {n}"}) for n in range(2)) + "\n"
    )
    for split, query in (("train", "q0"), ("test", "q1")):
        (place / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{query}\td1\t1\n")
    return place


def run_of(folder: Path, tmp_path: Path, *more: str) -> Run:
    given = (
        *("experiment=quickstart", "engine=scripted", "tracking=none", "~dataset@validation", "dataset=local_beir"),
        *(f"dataset.collection.path={folder}", "benchmark=local_beir", f"benchmark.collection.path={folder}"),
    )
    return made(tmp_path, *given, *more)


def problems(run: Run) -> str:
    with pytest.raises(PreflightError) as refusal:
        preflight(run)
    return str(refusal.value)


def test_data_in_order_is_opened_and_passes(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    preflight(run_of(folder, tmp_path))


def test_all_that_is_wrong_is_named_at_once(folder: Path, tmp_path: Path) -> None:
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nnobody\td1\t1\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tnothing\t1\n")
    run = run_of(folder, tmp_path, "model=local", f"model.path={tmp_path}/missing", "model.name=x")
    message = problems(run)
    assert "dataset=local_beir: none of the 1 judged queries is among the 2 topics" in message
    assert "benchmark=local_beir: none of the 1 judged passages is in the collection" in message
    assert "missing: there is no such folder" in message


def test_a_broken_line_is_found_before_anything_is_trained(folder: Path, tmp_path: Path) -> None:
    with (folder / "corpus.jsonl").open("a") as file:
        file.write("{broken\n")
    assert "corpus.jsonl:4: not JSON" in problems(run_of(folder, tmp_path))


def test_of_large_files_the_first_lines_are_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    monkeypatch.setattr(opening, "_SMALL", 10)
    preflight(run_of(folder, tmp_path))
    (folder / "queries.jsonl").write_text("{broken\n")
    assert "queries.jsonl:1: not JSON" in problems(run_of(folder, tmp_path))


def test_judgements_without_a_relevant_passage(folder: Path, tmp_path: Path) -> None:
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t0\nq1\td2\t-1\n")
    run = run_of(folder, tmp_path)
    assert "benchmark=local_beir: no passage has a grade above 0; check the column of grades" in problems(run)


def test_a_run_of_other_queries(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other.trec").write_text("another Q0 d1 1 1.0 x\n")
    run = run_of(folder, tmp_path, "retriever=run_file", f"retriever.path={tmp_path}/other.trec")
    assert "other.trec: no line of a judged query" in problems(run)


def test_a_benchmark_that_is_missing_among_others_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "irds"))
    monkeypatch.setattr(opening, "reachable", lambda url: False)
    given = ("experiment=quickstart", "engine=scripted", "tracking=none", "task=evaluate")
    (tmp_path / "irds" / "msmarco-passage").mkdir(parents=True)
    preflight(made(tmp_path, *given, "benchmark=paper"))
    printed = capsys.readouterr().out
    assert "preflight: WARNING: benchmark=nfcorpus: ir_datasets 'beir/nfcorpus/test' isn't on this machine" in printed
    assert "dl19" not in printed
    (tmp_path / "irds" / "msmarco-passage").rmdir()
    message = problems(made(tmp_path, *given, "benchmark=dl19"))
    assert "ir_datasets 'msmarco-passage/trec-dl-2019/judged' isn't on this machine" in message
    assert "the network can't be reached" in message


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
            "{% for m in messages %}{{ m.content }}{% endfor %}",
            "refuses the system role (System role not supported): set prompt.system=''",
        ),
        ("{% for m in messages %}{{ m.role + m.content }}{% endfor %}", ""),
    ],
)
def test_the_models_own_template_is_tried(template: str, problem: str, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    model = Path(shutil.copytree(TINY, tmp_path / "model"))
    (model / "chat_template.jinja").write_text(template)
    given = ("experiment=quickstart", "tracking=none", "prompt=rearank", "model.prompt=null", f"model.path={model}")
    run = made(tmp_path, *given)
    if problem:
        assert problem in problems(run)
    else:
        preflight(run)
