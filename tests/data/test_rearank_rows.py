"""The authors' rows: read as they are, whatever is wrong with one named by file and row, oddities counted."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.rearank_rows import WRITERS, Row, rows, write_jsonl, write_parquet, write_qrels

from rearank.data import DataError, HoldsRows
from rearank.data.rows.rearank_rows import RearankRows

Made = tuple[list[Row], dict[str, dict[str, int]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return rows(tmp_path_factory.mktemp("cache"), queries=3, sets=2)


def dataset(path: Path, qrels: Path | str, **more: Any) -> RearankRows:
    return RearankRows("mini", str(path), (str(qrels),), **more)


@pytest.fixture
def judged(tmp_path: Path, made: Made) -> Path:
    return write_qrels(tmp_path / "qrels.txt", made[1])


@pytest.mark.parametrize("name", WRITERS)
def test_rows_are_read_as_they_are(name: str, tmp_path: Path, made: Made, judged: Path, caplog: Any) -> None:
    some, qrels = made
    source = dataset(WRITERS[name](tmp_path / name, some), judged)
    assert isinstance(source, HoldsRows)
    assert source.preflight() == []
    held = source.rows()
    assert held.left_out == {}
    assert not caplog.records, "nothing odd, nothing said"
    assert len(held.windows) == len(some) > 3 == len({w.window.query.id for w in held.windows})
    for window, row in zip(held.windows, some, strict=True):
        assert [(m.role, m.content) for m in window.prompt] == [(m["role"], m["content"]) for m in row["prompt"]]
        assert [p.id for p in window.window.passages] == [hit["docid"] for hit in row["hits"]]
        grades = qrels[row["hits"][0]["qid"]]
        assert window.relevance == tuple(grades.get(hit["docid"], 0) for hit in row["hits"])
        assert sorted(window.ideal or ()) == sorted(grade for grade in grades.values() if grade > 0), "all the query's"
        assert window.window.query.text == row["query"]


def test_a_folder_is_loaded_as_the_hub_is(
    tmp_path: Path, made: Made, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", made[0])
    by_file = dataset(write_parquet(tmp_path / "rows.parquet", made[0]), judged).rows()
    assert dataset(tmp_path / "hub", judged).rows() == by_file


def test_what_the_hub_does_not_give_is_said_with_the_way_around_it(
    judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"nobody/nothing: can't be loaded.*set dataset\.path=<file>"):
        dataset(Path("nobody/nothing"), judged).rows()


@pytest.mark.parametrize("path", ["no/such/rows.parquet", "rows.jsonl", "folder/rows.jsonl", "a/b/c"])
def test_a_file_that_is_not_there_is_no_hub_id(path: str, judged: Path) -> None:
    source = dataset(Path(path), judged)
    (said,) = source.preflight()
    assert said.startswith(f"{path}: no such file; set dataset.path")
    with pytest.raises(DataError, match="no such file"):
        source.rows()


def damaged(some: list[Row], change: Callable[[Row], Any]) -> list[Row]:
    changed = copy.deepcopy(some)
    change(changed[1])
    return changed


FAULTS: dict[str, tuple[Callable[[Row], Any], str]] = {
    "no hits": (lambda r: r.update(hits=[]), "hits must be a list of at least two objects"),
    "one hit": (lambda r: r.update(hits=r["hits"][:1]), "hits must be a list of at least two objects"),
    "hits are text": (lambda r: r.update(hits="many"), "hits must be a list"),
    "no docid": (lambda r: r["hits"][0].pop("docid"), "none of the fields docid"),
    "twice": (lambda r: r["hits"].append(r["hits"][0]), "document '.*' occurs twice among the hits"),
    "two queries": (lambda r: r["hits"][1].update(qid="other"), "hits of two queries, '.*' and 'other'"),
    "no query": (lambda r: r.update(query=" "), "query must be the query's text"),
    "another text": (lambda r: r.update(query="another"), "has another text in a row before"),
    "no prompt": (lambda r: r.update(prompt=[]), "prompt must be a list of chat messages"),
    "bad role": (lambda r: r["prompt"][0].update(role="tool"), "a role of system, user, assistant and a text"),
    "no content": (lambda r: r["prompt"][0].update(content=None), "a role of system, user, assistant and a text"),
    "answered": (
        lambda r: r["prompt"].append({"role": "assistant", "content": "x"}),
        "the prompt ends with the assistant's turn",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_row_is_named_or_skipped_and_counted(fault: str, tmp_path: Path, made: Made, judged: Path) -> None:
    change, message = FAULTS[fault]
    path = write_jsonl(tmp_path / "rows.jsonl", damaged(made[0], change))
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*{message}.*dataset\.on_bad_row=skip"):
        dataset(path, judged).rows()
    held = dataset(path, judged, on_bad_row="skip").rows()
    assert held.left_out == {"bad row": 1}
    assert len(held.windows) == len(made[0]) - 1


def test_a_query_that_nobody_judged(tmp_path: Path, made: Made) -> None:
    some, qrels = made
    absent = some[0]["hits"][0]["qid"]
    fewer = write_qrels(tmp_path / "fewer.txt", {q: grades for q, grades in qrels.items() if q != absent})
    path = write_parquet(tmp_path / "rows.parquet", some)
    with pytest.raises(DataError, match=rf"rows\.parquet: row 0: no judgement of query '{absent}'.*on_unjudged=skip"):
        dataset(path, fewer).rows()
    held = dataset(path, fewer, on_unjudged="skip").rows()
    gone = sum(row["hits"][0]["qid"] == absent for row in some)
    assert held.left_out == {"query not judged": gone}
    assert len(held.windows) == len(some) - gone


def test_judgements_are_joined_and_must_agree(tmp_path: Path, made: Made, judged: Path) -> None:
    some, qrels = made
    path = write_parquet(tmp_path / "rows.parquet", some)
    halves = [write_qrels(tmp_path / f"{n}.txt", {q: qrels[q]}) for n, q in enumerate(qrels)]
    joined = RearankRows("mini", str(path), tuple(map(str, halves)))
    assert joined.rows() == dataset(path, judged).rows()
    query, grades = next(iter(qrels.items()))
    document, grade = next(iter(grades.items()))
    other = write_qrels(tmp_path / "other.txt", {query: {document: grade + 1}})
    with pytest.raises(
        DataError, match=rf"other\.txt: query '{query}', document '{document}' has grade {grade + 1} here"
    ):
        RearankRows("mini", str(path), (str(judged), str(other))).rows()
    with pytest.raises(DataError, match=r"dataset\.qrels: there is no file 'none\.txt' here, and ir_datasets has no"):
        dataset(path, "none.txt").rows()
    with pytest.raises(ValueError, match="qrels must name at least one"):
        RearankRows("mini", str(path), ())


def test_another_ndcg_than_stored_is_counted_and_said(
    tmp_path: Path, made: Made, judged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    some = damaged(made[0], lambda r: r["best_metrics"].update({"NDCG@10": 0.12345}))
    some[2].pop("metrics")  # stored nDCG is optional
    with caplog.at_level(logging.WARNING):
        held = dataset(write_jsonl(tmp_path / "rows.jsonl", some), judged).rows()
    assert len(held.windows) == len(some)
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"1 of {len(some)} rows store another nDCG@10" in said
    assert "rows.jsonl:2 (best_metrics: 0.12345, here " in said


def test_scores_that_do_not_fall_are_counted_and_said(
    tmp_path: Path, made: Made, judged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def shuffled(row: Row) -> None:
        row["hits"][0]["score"], row["hits"][1]["score"] = row["hits"][1]["score"], row["hits"][0]["score"]

    with caplog.at_level(logging.WARNING):
        held = dataset(write_jsonl(tmp_path / "rows.jsonl", damaged(made[0], shuffled)), judged).rows()
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"1 of {len(made[0])} rows have scores that don't fall with the position" in said
    assert [p.id for p in held.windows[1].window.passages] == [hit["docid"] for hit in made[0][1]["hits"]]


def test_files_that_are_no_rows(tmp_path: Path, judged: Path) -> None:
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"cut\.parquet: not a whole parquet file"):
        dataset(cut, judged).rows()
    text = tmp_path / "text.jsonl"
    text.write_text("not json\n")
    with pytest.raises(DataError, match=r"text\.jsonl:1: not JSON"):
        dataset(text, judged).rows()
