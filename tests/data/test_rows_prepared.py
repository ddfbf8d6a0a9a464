"""Rows of a user's own become training rows, and are held against benchmarks, as any other dataset is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.data.rearank_rows import write_jsonl
from tests.tasks.runs import made

from rearank.experiment import Run
from rearank.tasks.overlap import OverlapError
from rearank.tasks.pipeline import prepare_rows, rows_stage
from rearank.tasks.preflight import PreflightError, preflight

Make: TypeAlias = Callable[..., Run]
SMALL = ("experiment=quickstart", "engine=none", "tracking=none", "~dataset@validation", "prepare.validation_share=0.2")
TOPICS = ("bee", "nectar", "honey", "hive", "queen", "drone", "comb", "wax", "smoke", "sting", "larva", "pollen")


def graded(tmp_path: Path, *more: str) -> Run:
    rows = [
        {"query": f"about {topic}", "pos": [f"all of {topic}"], "neg": [f"{other} alone" for other in TOPICS]}
        for topic in TOPICS
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    return made(tmp_path / "graded", *SMALL, "dataset=bge", f"dataset.path={path}", "augmentation.size=6", *more)


def conversations(tmp_path: Path, *more: str) -> Run:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"[1] {topic}\n[2] no\nSearch Query: {topic}. Rank the two."},
                {"role": "assistant", "content": f"[{1 + number % 2}] > [{2 - number % 2}]"},
            ]
        }
        for number, topic in enumerate(TOPICS)
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    return made(tmp_path / "held", *SMALL, "dataset=conversations", f"dataset.path={path}", *more)


def test_windows_of_graded_rows(tmp_path: Path) -> None:
    rows = prepare_rows(graded(tmp_path)).train()
    assert len({row.judged.window.query.id for row in rows}) > 5
    for row in rows:
        assert len(row.judged.relevance) == 6
        assert sum(row.judged.relevance) == 1
        (relevant,) = (n for n, grade in enumerate(row.judged.relevance) if grade)
        topic = row.judged.window.query.text.removeprefix("about ")
        shown = row.prompt[-1].content
        assert f"[{relevant + 1}] all of {topic}" in shown
    assert {row.judged.relevance.index(1) for row in rows} > {1, 3}, "at many places"


def test_conversations_bring_their_answers(tmp_path: Path) -> None:
    rows = prepare_rows(conversations(tmp_path)).train()
    assert len(rows) > 5
    for row in rows:
        best = int((row.completion or "")[1]) - 1
        assert row.judged.gold == (best, 1 - best)
        assert row.judged.relevance[best] == 1
        assert row.prompt[-1].content.startswith(f"[1] {row.judged.window.query.text}\n")


@pytest.mark.parametrize("make", [graded, conversations])
def test_what_they_hold_decides_what_is_made_of_them(make: Make, tmp_path: Path) -> None:
    first = rows_stage(make(tmp_path)).identity
    assert rows_stage(make(tmp_path)).identity == first
    assert rows_stage(make(tmp_path, "dataset.max_rows=3")).identity != first
    run = make(tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text().replace("nectar", "venom"))
    assert rows_stage(run).identity != first


@pytest.mark.parametrize("make", [graded, conversations])
def test_queries_that_are_also_validated_on_are_refused(make: Make, tmp_path: Path) -> None:
    own = make(tmp_path)
    twice = replace(own, experiment=replace(own.experiment, validation=own.experiment.dataset))
    with pytest.raises(OverlapError, match=r"12 of 12 training queries are also in validation="):
        prepare_rows(twice)


def test_preflight_says_where_the_file_is_missing(tmp_path: Path) -> None:
    run = graded(tmp_path, "task=prepare")
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(PreflightError, match=r"rows\.jsonl: no such file; set dataset\.path"):
        preflight(run)
