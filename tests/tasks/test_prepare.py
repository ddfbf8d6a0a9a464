"""``prepare.queries``: how many of the training queries are kept, and which."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tasks.runs import made, read

from rearank.tasks.prepare import TRAIN, VALIDATION, prepare
from rearank.training.rows import TrainingRow, read_rows

SMALL = (
    *("experiment=quickstart", "engine=none", "tracking=none", "~dataset@validation"),
    *("dataset.collection.query_count=40", "dataset.collection.passage_count=1000"),
    *("prepare.validation_share=0.2", "augmentation.sets=2"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests of this file keep their index."""
    return tmp_path_factory.mktemp("prepare")


def rows(place: Path, name: str, queries: int | None, seed: int = 1, *more: str) -> list[TrainingRow]:
    """The rows of ``name`` that so many queries come to."""
    folder = place / "-".join([str(queries), str(seed), *more]).replace("=", "_")
    given = f"prepare.queries={'null' if queries is None else queries}"
    run = made(folder, *SMALL, given, f"seed={seed}", f"paths.cache={place}/cache", *more)
    return read_rows(prepare(run) / name)


def query_ids(place: Path, queries: int | None, seed: int = 1, *more: str) -> list[str]:
    """Of the training windows, in their order, each once."""
    return list(dict.fromkeys(row.judged.window.query.id for row in rows(place, TRAIN, queries, seed, *more)))


def test_fewer_queries_are_some_of_those_of_more(place: Path) -> None:
    every, twenty, ten = (query_ids(place, count) for count in (None, 20, 10))
    assert len(every) > 25
    # A few of the queries drawn may leave no window that the quickstart's filter keeps.
    assert 15 <= len(twenty) <= 20
    assert 7 <= len(ten) <= 10
    assert set(ten) < set(twenty) < set(every)
    assert twenty == [query for query in every if query in set(twenty)], "in the collection's order"
    assert twenty != every[: len(twenty)], "by lot"
    assert read(place / "10-1" / "run" / "prepared" / "summary.json")["training_queries"] == 10


def test_each_seed_draws_its_own(place: Path) -> None:
    nothing_held_out = "prepare.validation_windows=0"  # that would differ by the seed, too
    one, other = (set(query_ids(place, 10, seed, nothing_held_out)) for seed in (1, 2))
    assert len(one & other) <= 6, "of ten by lot out of 40, two or three are in both"


def test_what_is_held_out_and_what_is_kept_stay_as_they_are(place: Path) -> None:
    assert rows(place, VALIDATION, 10) == rows(place, VALIDATION, None) != []
    kept = set(query_ids(place, 10))
    whole = [row for row in rows(place, TRAIN, None) if row.judged.window.query.id in kept]
    assert [row.judged for row in rows(place, TRAIN, 10)] == [row.judged for row in whole]


def test_more_than_there_are_is_all_of_them(place: Path) -> None:
    assert rows(place, TRAIN, 1000) == rows(place, TRAIN, None)


def test_no_query_is_no_number_of_them(place: Path) -> None:
    with pytest.raises(ValueError, match="prepare: queries must be at least 1, or null for all"):
        made(place, *SMALL, "prepare.queries=0")
