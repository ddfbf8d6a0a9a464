"""Which queries are kept and which held out; rows that a dataset holds are written as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.data.rearank_rows import Row, write_parquet, write_qrels
from tests.data.rearank_rows import rows as miniature
from tests.tasks.runs import made, read

from rearank.data import DataError
from rearank.experiment import Run
from rearank.metrics import ndcg
from rearank.runs.layout import TRAIN_ROWS, VALIDATION_LISTS, VALIDATION_ROWS
from rearank.tasks.pipeline import prepare_rows, rows_stage, train_model, training_stage
from rearank.tasks.preflight import PreflightError, preflight
from rearank.training.lists import drawn
from rearank.training.rows import TrainingRow, read_rows
from rearank.training.verl import Cluster, VerlTrainer

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
    return read_rows(prepare_rows(run).folder / name)


def query_ids(place: Path, queries: int | None, seed: int = 1, *more: str) -> list[str]:
    """Of the training windows, in their order, each once."""
    return list(dict.fromkeys(row.judged.window.query.id for row in rows(place, TRAIN_ROWS, queries, seed, *more)))


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
    assert rows(place, VALIDATION_ROWS, 10) == rows(place, VALIDATION_ROWS, None) != []
    kept = set(query_ids(place, 10))
    whole = [row for row in rows(place, TRAIN_ROWS, None) if row.judged.window.query.id in kept]
    assert [row.judged for row in rows(place, TRAIN_ROWS, 10)] == [row.judged for row in whole]


def test_more_than_there_are_is_all_of_them(place: Path) -> None:
    assert rows(place, TRAIN_ROWS, 1000) == rows(place, TRAIN_ROWS, None)


def test_no_query_is_no_number_of_them(place: Path) -> None:
    with pytest.raises(ValueError, match="prepare: queries must be at least 1, not 0"):
        made(place, *SMALL, "prepare.queries=0")


@pytest.fixture(scope="module")
def held(place: Path) -> list[Row]:
    """The rows of a file in the shape of the authors' set, 20 queries of 3 windows, which lies in ``place``."""
    some, qrels = miniature(place / "held-cache", queries=20, sets=3)
    write_parquet(place / "held.parquet", some)
    write_qrels(place / "held.qrels", qrels)
    return some


def of_held(place: Path, name: str, *more: str, validation: tuple[str, ...] = ("~dataset@validation",)) -> Run:
    """``validation=()`` is the quickstart's own, candidates of the built-in collection."""
    return made(
        place / name,
        *("experiment=quickstart", "engine=none", "tracking=none", "dataset=rearank_12k", *validation),
        *(f"dataset.path={place}/held.parquet", f"dataset.qrels=[{place}/held.qrels]", "dataset.prompt=compact"),
        *("prepare.validation_share=0.2", *more),
    )


def said(row: TrainingRow) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in row.prompt]


def test_held_rows_are_written_as_they_are_and_split_by_query(place: Path, held: list[Row]) -> None:
    # Neither the augmentation nor the prompt has a say.
    folder = prepare_rows(of_held(place, "held", "augmentation.sets=2", "prompt=rearank")).folder
    train, validation = (read_rows(folder / name) for name in (TRAIN_ROWS, VALIDATION_ROWS))
    shown = sorted(said(row) for row in (*train, *validation))
    assert shown == sorted([(turn["role"], turn["content"]) for turn in row["prompt"]] for row in held)
    queries = [{row.judged.window.query.id for row in some} for some in (train, validation)]
    assert queries[0].isdisjoint(queries[1])
    assert min(map(len, queries)) >= 2
    by_prompt = {row["prompt"][-1]["content"]: row for row in held}
    for row in train:
        source = by_prompt[row.prompt[-1].content]
        assert [p.id for p in row.judged.window.passages] == [hit["docid"] for hit in source["hits"]]
        assert row.judged.window.query.text == source["query"]
    summary = read(folder / "summary.json")
    assert (summary["training_windows"], summary["dropped"]) == (len(train), {})


def test_held_rows_are_drawn_by_query(place: Path, held: list[Row]) -> None:
    five = prepare_rows(of_held(place, "held-five", "prepare.queries=5")).train()
    every = prepare_rows(of_held(place, "held")).train()
    kept = {row.judged.window.query.id for row in five}
    assert len(kept) == 5
    assert [said(row) for row in five] == [said(row) for row in every if row.judged.window.query.id in kept]


def test_held_rows_are_the_same_whatever_does_not_apply(place: Path, held: list[Row]) -> None:
    plain = rows_stage(of_held(place, "held")).identity
    assert rows_stage(of_held(place, "held", "augmentation.sets=9", "prompt=rearank")).identity == plain
    assert rows_stage(of_held(place, "held", "dataset.on_unjudged=skip")).identity != plain
    # Validation windows of a collection are drawn and worded by these nodes.
    mixed, other = (
        rows_stage(of_held(place, "held", f"augmentation.sets={sets}", validation=())).identity for sets in (4, 9)
    )
    assert mixed != other


def test_rows_that_were_left_out_are_counted(place: Path, held: list[Row]) -> None:
    (place / "none.qrels").write_text("nobody 0 d 1\n")
    given = [f"dataset.qrels=[{place}/none.qrels]", "dataset.on_unjudged=skip"]
    with pytest.raises(DataError, match=rf"no rows to train on; query not judged: {len(held)} \(the first: "):
        prepare_rows(of_held(place, "held-none", *given))
    lines = (place / "held.qrels").read_text().splitlines(keepends=True)
    absent = held[0]["hits"][0]["qid"]
    (place / "fewer.qrels").write_text("".join(line for line in lines if line.split()[0] != absent))
    fewer = of_held(place, "held-fewer", f"dataset.qrels=[{place}/fewer.qrels]", "dataset.on_unjudged=skip")
    folder = prepare_rows(fewer).folder
    gone = sum(row["hits"][0]["qid"] == absent for row in held)
    assert read(folder / "summary.json")["dropped"] == {"query not judged": gone}


def test_rows_of_one_wording_go_with_no_windows_of_another(place: Path, held: list[Row]) -> None:
    # The choices of these runs say prompt=compact.
    prepares = "task=prepare"
    preflight(of_held(place, "held", prepares))
    preflight(of_held(place, "held", prepares, validation=()))
    preflight(of_held(place, "held", prepares, "dataset.prompt=rearank"))
    mixed = r"worded as prompt=rearank, and dataset@validation would show prompt=compact: set prompt=rearank"
    with pytest.raises(PreflightError, match=mixed):
        preflight(of_held(place, "held", prepares, "dataset.prompt=rearank", validation=()))
    preflight(of_held(place, "held", prepares, "dataset.prompt=null", validation=()))
    with pytest.raises(PreflightError, match=r"and benchmark would show prompt=compact: set prompt=rearank"):
        preflight(of_held(place, "held", "task=pipeline", "dataset.prompt=rearank"))


def test_a_missing_file_of_rows_is_said_before_anything_starts(place: Path, held: list[Row]) -> None:
    with pytest.raises(PreflightError, match=r"gone\.parquet: no such file; set dataset\.path"):
        preflight(of_held(place, "held", "task=prepare", "dataset.path=gone.parquet"))


@pytest.mark.slow
def test_a_model_is_trained_on_held_rows(place: Path, held: list[Row]) -> None:
    pytest.importorskip("trl")
    given = ("task=train", "reward=rearank_authors", "algorithm.steps=1", "algorithm.prompts_per_step=2")
    small = ("algorithm.group_size=4", "trainer.threads=1", "prepare.validation_windows=2")
    run = of_held(place, "held-trained", *given, *small)
    assert train_model(run, prepare_rows(run)).steps == 1
    curves = [json.loads(line) for line in (run.folder / "training" / "train.jsonl").read_text().splitlines()]
    assert [line["train/reward/total"] <= 1 for line in curves if "train/reward/total" in line] == [True]


def test_damaged_rows_are_prepared_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``read_rows`` once asked for ``task=prepare`` again, which did nothing: its summary was there."""
    run = made(tmp_path, *SMALL)
    folder = prepare_rows(run).folder
    files = {name: (folder / name).read_bytes() for name in (TRAIN_ROWS, VALIDATION_ROWS, "summary.json")}
    for name, content in files.items():
        (folder / name).write_bytes(content[: len(content) // 2])
        prepare_rows(run)
        assert f"{folder / name}: was changed after it was written; the rows are prepared again" in caplog.text
        assert {name: (folder / name).read_bytes() for name in files} == files
    (folder / "sealed.json").unlink()  # as an earlier version left it
    caplog.clear()
    prepare_rows(run)
    assert caplog.text == ""
    (folder / VALIDATION_ROWS).unlink()
    prepare_rows(run)
    assert f"{folder / VALIDATION_ROWS}: is missing; the rows are prepared again" in caplog.text
    (folder / "sealed.json").unlink()
    (folder / "summary.json").write_text('{"trai')
    prepare_rows(run)
    assert f"{folder / 'summary.json'}: can't be parsed; the rows are prepared again" in caplog.text
    assert {name: (folder / name).read_bytes() for name in files} == files


LISTS = "trainer.validate_on=lists"


def test_whole_lists_are_kept_where_they_are_validated_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = prepare_rows(made(tmp_path / "plain", *SMALL)).folder
    run = made(tmp_path, *SMALL, LISTS)
    rows = prepare_rows(run)
    files = {path.name for path in rows.folder.iterdir()} - {path.name for path in plain.iterdir()}
    assert files == {VALIDATION_LISTS}
    assert [(rows.folder / name).read_bytes() for name in (TRAIN_ROWS, VALIDATION_ROWS)] == [
        (plain / name).read_bytes() for name in (TRAIN_ROWS, VALIDATION_ROWS)
    ], "the rows are the same"
    lists = rows.lists()
    held_out = {row.judged.window.query.id for row in rows.validation()}
    assert held_out <= {one.candidates.query.id for one in lists}
    assert len(lists) == read(rows.folder / "summary.json")["validation_queries"]
    assert {one.candidates.query.id for one in lists}.isdisjoint(row.judged.window.query.id for row in rows.train())
    source = {one.candidates.query.id: one for one in run.experiment.dataset.judged(run.experiment.prepare.depth)}
    for one in lists:
        whole = source[one.candidates.query.id]
        assert (one.candidates.passages, one.grades) == (whole.candidates.passages, dict(whole.grades))
    assert VALIDATION_LISTS in rows.artefact().files
    path = rows.folder / VALIDATION_LISTS
    content = path.read_bytes()
    path.write_bytes(content[:100])
    prepare_rows(run)
    assert f"{path}: was changed after it was written; the rows are prepared again" in caplog.text
    assert path.read_bytes() == content


def test_lists_and_how_they_are_reranked_decide_the_training(tmp_path: Path) -> None:
    plain, narrow = (made(tmp_path, *SMALL, *more) for more in ((), ("strategy.size=4", "strategy.step=2")))
    assert training_stage(plain).identity == training_stage(narrow).identity, "windows know no strategy"
    assert "validation_lists" not in rows_stage(plain).identity
    wide, other = (made(tmp_path, *SMALL, LISTS, *more) for more in ((), ("strategy.size=4", "strategy.step=2")))
    assert rows_stage(wide).identity["validation_lists"] is True
    assert rows_stage(wide).identity == rows_stage(other).identity
    assert training_stage(wide).identity["strategy"] != training_stage(other).identity["strategy"]


@pytest.mark.slow
def test_a_model_is_validated_on_whole_lists(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    given = ("task=train", LISTS, "trainer.validation_queries=3", "trainer.threads=1", "model.max_tokens=64")
    small = ("algorithm.steps=1", "algorithm.prompts_per_step=2", "algorithm.group_size=2")
    run = made(tmp_path, *SMALL, *given, *small)
    preflight(run)
    result = train_model(run, prepare_rows(run))
    lines = [json.loads(line) for line in (run.folder / "training" / "train.jsonl").read_text().splitlines()]
    validated = [line for line in lines if "val/ndcg@10" in line]
    assert [line["step"] for line in validated] == [0, 1]
    assert result.best_ndcg == max(line["val/ndcg@10"] for line in validated)
    kept = drawn(prepare_rows(run).lists(), 3, run.experiment.seed)
    before = [ndcg([o.grades.get(p.id, 0) for p in o.candidates.passages], list(o.grades.values())) for o in kept]
    assert validated[0]["val/ndcg@10_given"] == pytest.approx(sum(before) / 3)
    assert train_model(run, prepare_rows(run)) == result, "done already"


def test_lists_that_nobody_has_are_said_before_anything_starts(place: Path, held: list[Row]) -> None:
    run = of_held(place, "held-lists", LISTS, "trainer=trl")
    with pytest.raises(PreflightError, match=r"holds windows and no candidate lists; name a dataset@validation"):
        preflight(run)
    with pytest.raises(DataError, match=r"holds windows and no candidate lists, which trainer\.validate_on=lists"):
        prepare_rows(run)
    with pytest.raises(DataError, match="no query is held out: raise prepare"):
        prepare_rows(made(place / "none-held-out", *SMALL, LISTS, "prepare.validation_windows=0"))
    with pytest.raises(ValueError, match="validate_on=lists needs trainer=trl"):
        VerlTrainer(Cluster(), validate_on="lists")
