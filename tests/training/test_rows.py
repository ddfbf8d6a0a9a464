"""Rows come back as they were written; a bad one is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rearank.data import PromptedWindow
from rearank.neutral import Reserved, Reserving
from rearank.prompts import CompactPrompt
from rearank.training.rows import RowError, guarded, read_rows, save_rows, write_rows
from rearank.types import JudgedWindow, Message, Passage, Query, Window

PROMPT = CompactPrompt()


def windows() -> list[JudgedWindow]:
    passages = tuple(Passage(f"d{i}", f"text {i} \ud800") for i in range(3))
    window = Window(Query("q1", "what"), passages)
    return [JudgedWindow(window, (0, 2, 1), (3, 2, 1)), JudgedWindow(Window(window.query, passages[:2]), (1, -1))]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "rows" / "train.parquet"
    write_rows(path, windows(), PROMPT, "here", "train")
    rows = read_rows(path)
    assert [row.judged.relevance for row in rows] == [(0, 2, 1), (1, -1)]
    assert [row.judged.ideal for row in rows] == [(3, 2, 1), None]
    assert [p.id for p in rows[0].judged.window.passages] == ["d0", "d1", "d2"]
    assert rows[1].index == 1
    assert rows[1].split == "train"
    assert "[2] text 1 ?" in rows[0].prompt[-1].content
    assert {"data_source", "prompt", "ability", "reward_model", "extra_info"} == set(pq.read_table(path).column_names)
    assert [p.name for p in path.parent.iterdir()] == ["train.parquet"]


def test_a_teachers_order_travels_and_is_no_field_of_files_without_one(tmp_path: Path) -> None:
    plain, taught = windows()
    write_rows(tmp_path / "plain.parquet", [plain], PROMPT, "here", "train")
    truth = pq.read_table(tmp_path / "plain.parquet").to_pylist()[0]["reward_model"]["ground_truth"]
    assert set(truth) == {"relevance", "ideal", "has_ideal"}
    assert read_rows(tmp_path / "plain.parquet")[0].judged.gold is None
    write_rows(tmp_path / "taught.parquet", [plain, replace(taught, gold=(1,))], PROMPT, "here", "train")
    assert [row.judged.gold for row in read_rows(tmp_path / "taught.parquet")] == [None, (1,)]


def test_an_answer_to_learn_from_travels_and_is_no_column_of_files_without_one(tmp_path: Path) -> None:
    window = windows()[1].window
    given = PromptedWindow(window, (1, 0), prompt=(Message("user", "?"),), completion="<answer> [1] > [2] </answer>")
    bare = replace(given, completion=None)
    write_rows(tmp_path / "with.parquet", [given, bare], PROMPT, "here", "train")
    assert [row.completion for row in read_rows(tmp_path / "with.parquet")] == [given.completion, None]
    write_rows(tmp_path / "without.parquet", [bare], PROMPT, "here", "train")
    assert "completion" not in pq.read_schema(tmp_path / "without.parquet").names
    assert read_rows(tmp_path / "without.parquet")[0].completion is None


def test_a_trainer_takes_its_models_own_tokens_out_of_the_rows(tmp_path: Path) -> None:
    tokenizer = Reserving(Reserved(("<table>", "<think>")))
    window = Window(Query("q", "<table>"), (Passage("a", "a <table> <think>"), Passage("b", "y")))
    for prompt, shown in (
        (PROMPT, "Query: \u2039table>\n[1] a \u2039table> \u2039think>\n[2] y\n"),
        (replace(PROMPT, neutralise=False), "Query: <table>\n[1] a <table> <think>\n[2] y\n"),
    ):
        write_rows(tmp_path / "rows.parquet", [JudgedWindow(window, (0, 1))], prompt, "here", "train")
        save_rows(tmp_path / "again.parquet", guarded(read_rows(tmp_path / "rows.parquet"), tokenizer))
        (row,) = read_rows(tmp_path / "again.parquet")
        assert row.prompt[0].content == shown + PROMPT.final.format(num=2)


def damage(path: Path, change: Any) -> Path:
    write_rows(path, windows(), PROMPT, "here", "train")
    records = pq.read_table(path).to_pylist()
    change(records[1])
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["reward_model"]["ground_truth"].update(relevance=[1]), "row 1: 1 graded passages"),
        (lambda r: r["reward_model"]["ground_truth"].update(relevance=[1, 0, 2]), "row 1: .*3 grades for 2 passages"),
        (lambda r: r["reward_model"]["ground_truth"].update(gold=[0, 0]), "row 1: .*gold must hold some"),
        (lambda r: r.update(prompt=[]), "row 1: prompt must be chat messages"),
        (lambda r: r["prompt"][0].update(role="tool"), "row 1: prompt must be chat messages"),
        (lambda r: r["prompt"][0].update(role="assistant"), "row 1: prompt ends with the assistant's turn"),
        (lambda r: r["extra_info"].update(passage_ids=None), "row 1: "),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(RowError, match=r"train\.parquet: " + message):
        read_rows(damage(tmp_path / "train.parquet", change))


def test_files_that_are_no_rows(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="task=prepare"):
        read_rows(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(RowError, match="not a parquet file"):
        read_rows(tmp_path / "text.parquet")
    write_rows(tmp_path / "empty.parquet", [], PROMPT, "here", "train")
    with pytest.raises(RowError, match="no row; loosen"):
        read_rows(tmp_path / "empty.parquet")
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "odd.parquet")
    with pytest.raises(RowError, match="no column data_source"):
        read_rows(tmp_path / "odd.parquet")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write_rows(path, windows() * 50, PROMPT, "here", "train")
    whole = path.read_bytes()
    refused = []
    for place in range(0, len(whole), 41):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_rows(path)
        except RowError as error:
            refused.append(str(error))
    assert len(refused) > len(whole) / 41 / 2
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in refused)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RowError, match=r"or a damaged one .*; run task=prepare rerun=true"):
        read_rows(path)
