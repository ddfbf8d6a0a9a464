"""``task=compare`` over output folders and TREC runs."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.tasks.runs import QUERIES, SMALL, made, read

from rearank.data import DataError
from rearank.data.benchmark import BenchmarkList
from rearank.evaluation import for_terminal, paired_test
from rearank.experiment import Run
from rearank.sections import Compare
from rearank.tasks.compare import compare_runs
from rearank.tasks.compare_inputs import CompareError, gather
from rearank.tasks.pipeline import evaluate_models
from rearank.tasks.report import read_run_folder

JUDGED = 12


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two evaluated folders, ``oracle/run`` and ``random/run``, of two measures."""
    place = tmp_path_factory.mktemp("compare")
    for behaviour in ("oracle", "random"):
        options = (f"engine.behaviour={behaviour}", "evaluation.measures=[ndcg_cut_10,recip_rank]")
        evaluate_models(made(place / behaviour, *SMALL, f"paths.cache={place}/cache", *options))
    return place


@cache
def base() -> Run:
    """Composed once; ``compared`` changes the section ``compare`` and the folder."""
    options = [option for option in SMALL if option.startswith("benchmark.")]
    return made(Path("nowhere"), "task=compare", "benchmark=synthetic", *options)


def compared(place: Path, runs: Sequence[Any], **changes: Any) -> Mapping[str, Any]:
    node = Compare(runs=tuple(map(str, runs)), **{"permutations": 500, **changes})
    changed = replace(base().experiment, compare=node, output_dir=str(place / "run"))
    compare_runs(changed.compare, changed.benchmark, Path(changed.output_dir) / "comparison")
    content: Mapping[str, Any] = read(place / "run" / "comparison" / "comparison.json")
    return content


def test_folders(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = [f"good={runs}/oracle/run", f"bad={runs}/random/run"]
    found = compared(tmp_path, both, measures=("ndcg_cut_10", "recip_rank"), moved=3)
    means = {row["system"]: row for row in found["means"]}
    assert list(means) == ["bm25", "good", "bad"], "what both share is one system; the ideal order is none"
    stored = read(runs / "oracle/run/evaluation/synthetic/scripted/metrics.json")
    assert means["good"]["nDCG@10"] == pytest.approx(stored["mean"]["ndcg_cut_10"])
    assert means["good"]["queries"] == QUERIES
    pairs = [(one["measure"], one["a"], one["b"]) for one in found["comparisons"]]
    assert len(pairs) == 6
    one = found["comparisons"][pairs.index(("ndcg_cut_10", "good", "bad"))]
    other = read(runs / "random/run/evaluation/synthetic/scripted/metrics.json")
    test = paired_test(stored["per_query"]["ndcg_cut_10"], other["per_query"]["ndcg_cut_10"], permutations=500)
    assert one["test"] == test.as_json()
    assert one["test"]["p_value"] <= one["holm"] <= 6 * one["test"]["p_value"]
    assert one["test"]["losses"] == QUERIES
    folder = tmp_path / "run" / "comparison"
    moved = list(csv.DictReader((folder / "moved.csv").read_text().splitlines()))
    texts = read(runs / "oracle/run/evaluation/synthetic/queries.json")
    assert len(moved) == 9
    assert all(row["text"] == texts[row["query"]] for row in moved)
    assert {path.suffix for path in folder.iterdir()} == {".md", ".csv", ".tex", ".json"}
    assert for_terminal((folder / "comparison.md").read_text().rstrip(), "comparison.md") in capsys.readouterr().out
    assert r"nDCG@10" in (folder / "tests.tex").read_text()


def test_all_against_a_baseline(runs: Path, tmp_path: Path) -> None:
    found = compared(tmp_path, [runs / "oracle/run", f"bad={runs}/random/run"], baseline="bm25", ideal=True)
    pairs = [(one["a"], one["b"]) for one in found["comparisons"]]
    assert pairs == [("bm25", "run"), ("bm25", "ideal"), ("bm25", "bad")]


def test_one_system_by_its_own_folder(runs: Path, tmp_path: Path) -> None:
    places = [runs / name / "run/evaluation/synthetic/scripted" for name in ("oracle", "random")]
    found = compared(tmp_path, [f"a={places[0]}", f"b={places[1]}"])
    assert [(one["a"], one["b"]) for one in found["comparisons"]] == [("a", "b")]


def written(
    path: Path, ranked: Mapping[str, Sequence[str]], scores: Sequence[str], order: random.Random | None
) -> Path:
    lines = [
        f"{query} Q0 {passage} {rank} {scores[rank - 1]} tag"
        for query, passages in ranked.items()
        for rank, passage in enumerate(passages, 1)
    ]
    if order is not None:
        order.shuffle(lines)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def judged(tmp_path: Path) -> tuple[Path, dict[str, list[str]], dict[str, list[str]]]:
    """Judgements and two systems' rankings of 12 queries."""
    chance = random.Random(4)
    passages = [f"d{i}" for i in range(10)]
    qrels = tmp_path / "qrels.txt"
    queries = [f"q{i}" for i in range(JUDGED)]
    qrels.write_text("".join(f"{q} 0 {p} {chance.randint(0, 3)}\n" for q in queries for p in passages))
    a, b = ({q: chance.sample(passages, 10) for q in queries} for _ in range(2))
    return qrels, a, b


@pytest.mark.parametrize(
    "scores",
    [
        [str(10 - i) for i in range(10)],
        [f"{1 - i * 1e-12:.15f}" for i in range(10)],  # equal as 32-bit floats
        ["0.5"] * 10,  # ties: the rank column decides
        [f"{-i}e-3" for i in range(10)],
    ],
)
def test_score_types_and_ties_change_nothing(
    scores: list[str], judged: tuple[Path, dict[str, list[str]], dict[str, list[str]]], tmp_path: Path
) -> None:
    qrels, a, b = judged
    plain = [str(10 - i) for i in range(10)]
    files = [written(tmp_path / f"{name}.trec", ranked, plain, None) for name, ranked in (("a", a), ("b", b))]
    expected = compared(tmp_path / "plain", files, qrels=str(qrels))
    order = random.Random(1)
    files = [written(tmp_path / f"{name}.trec", ranked, scores, order) for name, ranked in (("a", a), ("b", b))]
    assert compared(tmp_path / "other", files, qrels=str(qrels)) == expected
    assert [row["system"] for row in expected["means"]] == ["a", "b"]
    assert expected["comparisons"][0]["test"]["queries"] == JUDGED


def test_a_query_that_a_run_lacks(
    judged: tuple[Path, dict[str, list[str]], dict[str, list[str]]], tmp_path: Path
) -> None:
    qrels, a, b = judged
    plain = [str(10 - i) for i in range(10)]
    del b["q3"]
    files = [written(tmp_path / f"{name}.trec", ranked, plain, None) for name, ranked in (("a", a), ("b", b))]
    zero = compared(tmp_path / "zero", files, qrels=str(qrels))
    skip = compared(tmp_path / "skip", files, qrels=str(qrels), missing="skip")
    assert [content["comparisons"][0]["test"]["queries"] for content in (zero, skip)] == [JUDGED, JUDGED - 1]


def test_what_a_run_lacks_is_marked(
    judged: tuple[Path, dict[str, list[str]], dict[str, list[str]]], tmp_path: Path
) -> None:
    qrels, a, b = judged
    plain = [str(10 - i) for i in range(10)]
    del b["q3"], b["q7"]
    files = [written(tmp_path / f"{name}.trec", ranked, plain, None) for name, ranked in (("a", a), ("b", b))]
    found = compared(tmp_path, files, qrels=str(qrels))
    assert [row["judged@10"] for row in found["means"]] == [1.0, 1.0]
    folder = tmp_path / "run" / "comparison"
    for name in ("means.csv", "means.tex", "tests.csv", "comparison.md"):
        assert "b (2 missing)" in (folder / name).read_text()
    line = f"b: judged queries that are missing in the run file: 2; {JUDGED} are counted, 2 of them as 0"
    assert line in (folder / "comparison.md").read_text()


def test_run_files_of_one_name_are_called_after_their_folders(
    judged: tuple[Path, dict[str, list[str]], dict[str, list[str]]], tmp_path: Path
) -> None:
    qrels, a, b = judged
    plain = [str(10 - i) for i in range(10)]
    places = [tmp_path / one / "evaluation" / "dl19" / "base" for one in ("first", "second")]
    for place, ranked in zip(places, (a, b), strict=True):
        place.mkdir(parents=True)
        written(place / "run.trec", ranked, plain, None)
    files = [place / "run.trec" for place in places]
    found = compared(tmp_path, files, qrels=str(qrels))
    assert [row["system"] for row in found["means"]] == ["first/run", "second/run"]
    deeper = [*files, written(tmp_path / "first" / "run.trec", b, plain, None), f"mine={files[0]}"]
    found = compared(tmp_path, deeper, qrels=str(qrels))
    assert [row["system"] for row in found["means"]] == [
        *("first/evaluation/dl19/base/run", "second/evaluation/dl19/base/run", "first/run", "mine")
    ]
    with pytest.raises(CompareError, match="two systems are labelled 'run'; give each its own label"):
        compared(tmp_path, [files[0], files[0]], qrels=str(qrels))


def test_trec_evals_order_of_ties(tmp_path: Path) -> None:
    """Equal scores by passage id, descending; by default the rank column decides."""
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("q1 0 b 1\nq2 0 b 1\n")
    tied = written(tmp_path / "tied.trec", {"q1": ["a", "b"], "q2": ["a", "b"]}, ["1.0000000001", "1.0"], None)
    best = written(tmp_path / "best.trec", {"q1": ["b", "a"], "q2": ["b", "a"]}, ["2", "1"], None)
    for ties, value in (("rank", 0.5), ("trec_eval", 1.0)):
        found = compared(tmp_path, [tied, best], qrels=str(qrels), ties=ties, measures=("RR",))
        assert [row["MRR"] for row in found["means"]] == [value, 1.0]


def test_a_run_file_beside_folders(runs: Path, tmp_path: Path) -> None:
    """Scored by the benchmark's judgements it has its folder's values; by other judgements it isn't compared."""
    ranked = runs / "oracle/run/evaluation/synthetic/scripted/run.trec"
    found = compared(tmp_path, [f"bad={runs}/random/run", f"again={ranked}"])
    means = {row["system"]: row["nDCG@10"] for row in found["means"]}
    stored = read(ranked.parent / "metrics.json")["mean"]["ndcg_cut_10"]
    assert means["again"] == pytest.approx(stored)
    wrong = tmp_path / "wrong.txt"
    lines = [line.split() for line in ranked.read_text().splitlines()]
    wrong.write_text("".join(f"{cells[0]} 0 {cells[2]} 1\n" for cells in lines))
    with pytest.raises(CompareError, match="was evaluated by other judgements"):
        compared(tmp_path, [f"bad={runs}/random/run", f"again={ranked}"], qrels=str(wrong))


def test_what_can_not_be_compared(
    runs: Path, judged: tuple[Path, dict[str, list[str]], dict[str, list[str]]], tmp_path: Path
) -> None:
    qrels, a, _ = judged
    plain = [str(10 - i) for i in range(10)]
    one = written(tmp_path / "one.trec", a, plain, None)
    strange = written(tmp_path / "strange.trec", {"x1": ["d1"], "x2": ["d2"]}, plain, None)
    folder = runs / "oracle/run"
    with pytest.raises(CompareError, match=r"compare\.runs is empty"):
        compared(tmp_path, [])
    with pytest.raises(CompareError, match="no such output folder or run file"):
        compared(tmp_path, [tmp_path / "nowhere"])
    with pytest.raises(CompareError, match=r"no metrics\.json in it"):
        compared(tmp_path, [tmp_path])
    several = BenchmarkList("several", {name: replace(base().experiment.benchmark, name=name) for name in "ab"})
    listed = replace(base().experiment, benchmark=several, compare=Compare(runs=(str(one),)))
    with pytest.raises(CompareError, match=r"set compare\.qrels=<file>, or choose one benchmark .*several is a list"):
        compare_runs(listed.compare, listed.benchmark, Path(listed.output_dir) / "comparison")
    with pytest.raises(CompareError, match=r"strange\.trec: none of its 2 queries is judged in"):
        compared(tmp_path, [one, strange], qrels=str(qrels))
    with pytest.raises(CompareError, match=r"nothing to compare: qrels\.txt: only one was measured on it"):
        compared(tmp_path, [one], qrels=str(qrels))
    with pytest.raises(CompareError, match=r"no map in it, only ndcg_cut_10, recip_rank; set compare\.measures"):
        compared(tmp_path, [folder, runs / "random/run"], measures=("map",))
    with pytest.raises(CompareError, match="two systems are labelled 'run'; give each its own label"):
        compared(tmp_path, [folder, runs / "random/run"])
    other = tmp_path / "other"
    evaluate_models(made(other, *SMALL, f"paths.cache={runs}/cache", "benchmark.collection.split=dev"))
    with pytest.raises(CompareError, match=r"share 0 queries, a comparison needs two at least"):
        compared(tmp_path, [f"a={folder}", f"b={other}/run"])


def test_a_folder_with_values_that_are_none_is_named(runs: Path, tmp_path: Path) -> None:
    """JSON files may hold NaN: it would pass into means and tests."""
    place = tmp_path / "odd" / "evaluation" / "synthetic" / "scripted"
    place.mkdir(parents=True)
    content = read(runs / "oracle/run/evaluation/synthetic/scripted/metrics.json")
    query = next(iter(content["per_query"]["ndcg_cut_10"]))
    content["per_query"]["ndcg_cut_10"][query] = float("nan")
    (place / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(CompareError, match=rf"metrics\.json: is not what task=evaluate writes .*{query}.*nan"):
        compared(tmp_path, [tmp_path / "odd", runs / "random/run"])


def test_a_run_of_another_collections_passages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("q1 0 d1 1\nq1 0 d2 0\n")
    (tmp_path / "a.trec").write_text("q1 Q0 d1 1 2.5 t\n")
    (tmp_path / "b.trec").write_text("q1 Q0 x1 1 2.5 t\n")
    runs = (f"a={tmp_path}/a.trec", f"b={tmp_path}/b.trec")
    settings = Compare(runs=runs, qrels=str(tmp_path / "qrels"))
    with pytest.raises(CompareError, match=r"b\.trec: none of the passages that it ranks is judged"):
        gather(settings, made(tmp_path, *SMALL).experiment.benchmark)


@pytest.mark.parametrize("output", ["out.trec", "out.jsonl", "out.parquet"])
def test_what_task_rerank_wrote_is_compared_as_a_run_file_is(tmp_path: Path, output: str) -> None:
    passages = [{"id": f"d{p}", "text": "may"} for p in range(4)]
    rows = [{"id": f"q{n}", "query": "rain", "passages": passages} for n in (1, 2)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels.txt").write_text("q1 0 d3 1\nq2 0 d0 1\n")
    asked = ("task=rerank", "experiment=quickstart", "engine=scripted", "engine.behaviour=reverse", "tracking=none")
    run = made(tmp_path, *asked, f"rerank.input={tmp_path}/in.jsonl", f"rerank.output={tmp_path}/{output}")
    run.experiment.task.run(run)
    (tmp_path / "given.trec").write_text("".join(f"q{n} Q0 d{p} {p + 1} {9 - p} x\n" for n in (1, 2) for p in range(4)))
    settings = Compare(
        runs=(f"mine={run.folder}", f"{tmp_path}/given.trec"), qrels=f"{tmp_path}/qrels.txt", measures=("recip_rank",)
    )
    found = gather(settings, run.experiment.benchmark)
    assert {one.scored.label: dict(one.scored.values["recip_rank"]) for one in found.entries} == {
        "mine": {"q1": 1.0, "q2": 0.25},
        "given": {"q1": 0.25, "q2": 1.0},
    }
    assert read_run_folder(run.folder, None).reranked["queries"] == 2
    (tmp_path / output).write_bytes(b"changed")
    with pytest.raises(DataError, match="isn't there, or has changed; run that command again"):
        gather(settings, run.experiment.benchmark)
