"""``experiment=own``: a folder of one's own, divided into what is learnt and what is measured, and the gate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.tasks.runs import made, read

from rearank.config import ConfigError
from rearank.data import DataError
from rearank.data.own import TEACHERS_GRADES, OwnCollection, grades_of
from rearank.data.synthetic import SyntheticCollection
from rearank.data.trec import write_run
from rearank.runs.reader import FIRST, IDEAL, SYSTEM, Evaluated
from rearank.tasks.own import OwnTask, judge
from rearank.tasks.own.gate import GateError
from rearank.tasks.pipeline import prepare_rows
from rearank.tasks.preflight import PreflightError, preflight


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in collection in BEIR's layout, with one query twice under two ids."""
    place = tmp_path_factory.mktemp("beir")
    collection = SyntheticCollection(seed=1, split="train", passage_count=300, query_count=24, name="s")
    queries = {query: item.text for query, item in collection.queries().items()}
    qrels = collection.qrels()
    first = next(iter(queries))
    queries["again"], qrels["again"] = f"{queries[first].upper()}?", qrels[first]
    lines = {
        "corpus.jsonl": [{"_id": p.id, "text": p.text, "title": p.title} for p in collection.iter_passages()],
        "queries.jsonl": [{"_id": query, "text": text} for query, text in queries.items()],
    }
    for name, rows in lines.items():
        (place / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "qrels").mkdir()
    rows_of = [f"{query}\t{p}\t{grade}\n" for query, judged in qrels.items() for p, grade in judged.items()]
    (place / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows_of))
    half = [row for row in rows_of if row.startswith(("train-001", "train-002"))]
    (place / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(half))
    return place


def parts(folder: Path, **more: Any) -> tuple[OwnCollection, OwnCollection]:
    return OwnCollection(str(folder), "train", **more), OwnCollection(str(folder), "held_out", **more)


@pytest.mark.parametrize("seed", range(5))
def test_every_query_is_in_one_part_and_equal_texts_in_the_same(folder: Path, seed: int) -> None:
    train, held_out = parts(folder, seed=seed)
    assert not train.qrels().keys() & held_out.qrels().keys()
    every = train._folder.qrels()
    assert train.qrels() | held_out.qrels() == every
    assert "again" in every
    twice = [("again" in part.qrels(), next(iter(every)) in part.qrels()) for part in (train, held_out)]
    assert all(one == other for one, other in twice)
    more = parts(folder, seed=seed, held_out=0.6)[1]
    assert held_out.qrels().keys() <= more.qrels().keys(), "a larger share adds queries"


def test_a_split_of_its_own_is_held_out(folder: Path) -> None:
    train, held_out = parts(folder, held_out_split="test")
    assert len(train.qrels()) == 24
    assert held_out.qrels().keys() == {"train-001", "train-002"}


def test_a_teachers_order_in_place_of_judgements(folder: Path, tmp_path: Path) -> None:
    ids = [passage.id for passage in parts(folder)[0].iter_passages()][:12]
    order = {f"train-{n:03}": Random(n).sample(ids, 12) for n in range(1, 11)}
    write_run(tmp_path / "teacher.trec", order, "teacher")
    found = grades_of(str(tmp_path / "teacher.trec"))
    for query, ranked in order.items():
        assert [found[query][passage] for passage in ranked] == [*TEACHERS_GRADES, 0, 0]
    train, held_out = parts(folder, judged_by=str(tmp_path / "teacher.trec"))
    assert (train.qrels() | held_out.qrels()) == found
    assert train.qrels()
    assert held_out.qrels()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"judged_by": "x", "held_out_split": "test"}, "leave held_out_split out"),
        ({"held_out_split": "train"}, "what is trained on would be measured"),
        ({"held_out": 0.0}, "held_out"),
    ],
)
def test_parts_that_make_no_sense(folder: Path, more: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parts(folder, **more)
    with pytest.raises(ValueError, match=r"own\.collection=my/folder"):
        OwnCollection("", "train")


def test_too_few_queries_to_divide(folder: Path) -> None:
    with pytest.raises(DataError, match=r"2 judged queries can't be divided.*own\.held_out=0\.001"):
        parts(folder, split="test", held_out=0.001)[0].qrels()


def system(name: str, values: Mapping[str, float], role: str = SYSTEM, **more: Any) -> Evaluated:
    return Evaluated(name, name, role, "own", {"ndcg_cut_10": values}, {}, more, {}, {}, None, Path())


def of(values: Sequence[float]) -> dict[str, float]:
    return {f"q{n}": value for n, value in enumerate(values)}


def four(
    model: Sequence[float], cold: Sequence[float], base: Sequence[float], first: Sequence[float]
) -> list[Evaluated]:
    return [
        system("bm25", of(first), FIRST),
        system("base", of(base)),
        system("sft", of(cold)),
        system("grpo", of(model)),
        system("ideal", of([1.0] * len(model)), IDEAL),
    ]


def test_what_is_better_than_all_three_passes() -> None:
    low, high = [n / 40 for n in range(20)], [n / 40 + 0.2 for n in range(20)]
    verdict = judge(four(high, low, low, low), "grpo", ("base", "sft"), alpha=0.05, seed=1)
    assert verdict.passed
    assert [one.label for one in verdict.against] == ["bm25", "base", "sft"]
    assert "gate: passed" in verdict.shown()
    assert verdict.as_json()["passed"] is True
    assert "relevance by the judgements" in verdict.shown()
    taught = judge(four(high, low, low, low), "grpo", ("base", "sft"), alpha=0.05, seed=1, taught=True)
    assert "agreement with the teacher's order, which is no relevance" in taught.shown()


def test_one_that_it_does_not_beat_keeps_it_in() -> None:
    low, high = [n / 40 for n in range(20)], [n / 40 + 0.2 for n in range(20)]
    verdict = judge(four(high, high, low, low), "grpo", ("base", "sft"), alpha=0.05, seed=1)
    assert not verdict.passed
    assert "NOT PASSED: not shown to be better than sft" in verdict.shown()
    assert not judge(four(low, high, high, high), "grpo", ("base", "sft"), alpha=0.05, seed=1).passed, "it is worse"


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=2, max_size=12))
def test_to_pass_takes_a_higher_mean_and_a_small_p_against_each(rows: list[tuple[float, ...]]) -> None:
    model, cold, base, first = (list(values) for values in zip(*rows, strict=True))
    verdict = judge(four(model, cold, base, first), "grpo", ("base", "sft"), alpha=0.05, seed=1)
    for one, other in zip(verdict.against, (first, base, cold), strict=True):
        if one.better:
            assert sum(model) > sum(other)
            assert one.p < 0.05
            assert stats.wilcoxon(model, other).pvalue < 0.2, "another paired test leans the same way"
    assert verdict.passed == all(one.better for one in verdict.against)


def test_ids_of_one_text_count_once() -> None:
    """Ten ids of one query that the model gains on make no ten queries of it."""
    model, other = [0.9] * 10 + [0.5] * 4, [0.1] * 10 + [0.5] * 4
    first_of = {f"q{n}": "q0" for n in range(10)}
    systems = four(model, other, other, other)
    assert judge(systems, "grpo", ("base", "sft"), alpha=0.05, seed=1).passed
    verdict = judge(systems, "grpo", ("base", "sft"), alpha=0.05, seed=1, first_of=first_of)
    assert verdict.queries == 5
    assert not verdict.passed
    assert verdict.against[0].difference == pytest.approx(0.8 / 5)
    with pytest.raises(GateError, match="1 held-out queries"):
        judge(four([1.0], [0.0], [0.0], [0.0]), "grpo", ("base", "sft"), alpha=0.05, seed=1)


def test_nothing_is_judged_on_half_of_it() -> None:
    systems = four([1.0, 0.5], [0.5, 0.2], [0.5, 0.2], [0.5, 0.2])
    for left_out, said in (("grpo", "grpo: not measured"), ("sft", "sft: not measured"), ("bm25", "the first stage")):
        with pytest.raises(GateError, match=said):
            judge([one for one in systems if one.name != left_out], "grpo", ("base", "sft"), alpha=0.05, seed=1)
    with pytest.raises(GateError, match="2 queries failed"):
        judge([*systems[:3], replace(systems[3], calls={"failed": 2})], "grpo", ("base", "sft"), alpha=0.05, seed=1)
    with pytest.raises(GateError, match="weren't measured on the same queries"):
        judge([*systems[:3], system("grpo", {"q0": 1.0})], "grpo", ("base", "sft"), alpha=0.05, seed=1)


SMALL = (
    *(
        "experiment=own",
        "name=own",
        "model=tiny",
        "tracking=none",
        "trainer.lora=null",
        "algorithm.steps=2",
        "algorithm.prompts_per_step=2",
    ),
    *("algorithm.group_size=2", "sft.steps=2", "sft.batch=4", "trainer.device=cpu", "prepare.validation_windows=4"),
    *("augmentation.sets=2", "augmentation.size=5", "augmentation.depth=20", "prepare.depth=20", "benchmark.depth=10"),
    *("analyse.after_training=0", "report.write=false", "own.held_out=0.4", "trainer.validate_every=2"),
)


@pytest.mark.slow
def test_from_a_folder_to_a_verdict(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")
    run = made(tmp_path, *SMALL, f"own.collection={folder}")
    run = replace(run, choices={**run.choices, "algorithm": "grpo", "prompt": "compact", "strategy": "small_windows"})
    preflight(run)
    assert isinstance(run.experiment.task, OwnTask)
    run.experiment.task.run(run)
    assert "nothing is exported" in capsys.readouterr().out, "two steps of training beat nothing"
    assert not (run.folder / "export").exists()
    always = replace(run.experiment, own=replace(run.experiment.own, export="always"))
    run.experiment.task.run(replace(run, experiment=always))
    verdict = read(run.folder / "gate.json")
    assert verdict["queries"] == len(run.experiment.benchmark.benchmarks[0].collection.qrels())
    assert [one["label"] for one in verdict["against"]] == [
        "first stage (bm25)",
        "tiny, greedy",
        "tiny after SFT (step 0)",
    ]
    assert verdict["passed"] is all(one["better"] for one in verdict["against"])
    card = (run.folder / "export" / "README.md").read_text()
    assert "gate" in card.lower()
    assert "task=serve" in card
    said = capsys.readouterr().out
    assert "gate: " in said
    assert "held-out queries, relevance by the judgements" in said


def test_no_checkpoint_is_chosen_on_queries_that_are_measured(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    settings = (*SMALL, f"own.collection={folder}", "own.held_out_split=test", "prepare.validation_share=0.5")
    rows = prepare_rows(made(tmp_path, *settings, "prepare.validation_windows=500"))
    queries = {row.judged.window.query.id for row in (*rows.train(), *rows.validation())}
    assert queries
    assert not queries & {"train-001", "train-002", "again"}, "the last has the text of the first"


def test_what_is_missing_is_said_before_anything_starts(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"own\.collection=my/folder"):
        made(tmp_path, *SMALL)
    with pytest.raises(PreflightError, match=r"teacher\.jsonl isn't there; run task=distill"):
        preflight(made(tmp_path, *SMALL, f"own.collection={folder}", f"own.teacher={tmp_path}"))
    with pytest.raises(PreflightError, match=r"teacher\.jsonl isn't there; run task=distill"):
        preflight(made(tmp_path, *SMALL, f"own.collection={folder}", f"own.teacher={tmp_path}", "task=sft"))
    with pytest.raises(PreflightError, match=r"none\.trec"):
        preflight(made(tmp_path, *SMALL, f"own.collection={folder}", f"own.run={tmp_path}/none.trec"))
    write_run(tmp_path / "other.trec", {"nobody": ["p1"]}, "run")
    with pytest.raises(PreflightError, match=r"other\.trec: no line of a judged query"):
        preflight(made(tmp_path, *SMALL, f"own.collection={folder}", f"own.run={tmp_path}/other.trec"))
