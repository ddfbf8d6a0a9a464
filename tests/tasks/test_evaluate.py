"""An evaluation's files, tables and summaries, with real BM25 and the scripted engine."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from tests.tasks.runs import QUERIES, SMALL, SpendError, made, priced, read, report_of, with_benchmark

from rearank.data import DataError
from rearank.data.beir import BeirFolder
from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.data.trec import RunFile, read_run, write_run
from rearank.experiment import Run
from rearank.runs.reader import SYSTEM
from rearank.sections import Compare
from rearank.tasks.compare import compare_runs
from rearank.tasks.evaluate.scores import Places, score_and_write
from rearank.tasks.pipeline import evaluate_models

MEASURES = "evaluation.measures=[ndcg_cut_10,map,recall_20,recip_rank,P_10]"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests of this file keep their index."""
    return tmp_path_factory.mktemp("evaluate")


def system(folder: Path, name: str, benchmark: str = "synthetic") -> Path:
    return folder / "run" / "evaluation" / benchmark / name


def test_every_measure_is_in_the_table_and_per_query(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(place, *SMALL, MEASURES)
    summary = evaluate_models(run)
    metrics = read(system(place, "scripted") / "metrics.json")
    assert list(metrics["mean"]) == metrics["measures"] == ["ndcg_cut_10", "map", "recall_20", "recip_rank", "P_10"]
    for measure, values in metrics["per_query"].items():
        assert len(values) == QUERIES
        assert metrics["mean"][measure] == fmean(values.values())
        low, high = metrics["interval_95"][measure]
        assert low <= metrics["mean"][measure] <= high
    assert summary["scripted"] == metrics["mean"]["ndcg_cut_10"]
    assert summary["measures"]["scripted"]["map"] == metrics["mean"]["map"]
    said = capsys.readouterr().out
    assert max(len(line) for line in said.splitlines() if line.startswith("|")) <= 100
    table = (system(place, "scripted").parent / "table.md").read_text()
    assert "| nDCG@10 | 95% interval" in table
    for name in ("MAP", "R@20", "MRR", "P@10"):
        assert f" {name} |" in said
        assert f" {name} |" in table
    rows = list(csv.DictReader((system(place, "scripted").parent / "table.csv").read_text().splitlines()))
    assert float(rows[1]["MAP"]) == metrics["mean"]["map"]
    assert r"\toprule" in (system(place, "scripted").parent / "table.tex").read_text()
    assert len(read(system(place, "x").parent / "queries.json")) == QUERIES


def test_a_stopped_run_keeps_what_it_has_and_goes_on_to_the_same_bytes(tmp_path: Path, place: Path) -> None:
    options = (*SMALL, "evaluation.samples=0", f"paths.cache={place}/cache")
    evaluate_models(priced(made(tmp_path / "whole", *options), dollars=0.001))
    stopped = made(tmp_path, *options, "evaluation.max_concurrent_queries=1")
    with pytest.raises(SpendError, match="the budget is spent"):
        evaluate_models(priced(stopped, dollars=0.001, most=20))
    here, there = system(tmp_path, "base"), system(tmp_path / "whole", "base")
    partial = read_run(here / "run.partial.trec")
    assert 0 < len(partial) < QUERIES
    assert not (here / "metrics.json").exists()
    summary = read(tmp_path / "run" / "summary.json")
    assert summary["stopped"].startswith("SpendError")
    assert summary["bm25"] > 0
    evaluate_models(priced(made(tmp_path, *options), dollars=0.001))
    assert not (here / "run.partial.trec").exists()
    for name in ("run.trec", "metrics.json"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    assert (tmp_path / "run/summary.json").read_bytes() == (tmp_path / "whole/run/summary.json").read_bytes()
    lines = [json.loads(line) for line in (here / "cost.jsonl").read_text().splitlines()]
    calls = read(here / "metrics.json")["calls"]
    assert [line["ended"] for line in lines] == ["stopped: SpendError", "finished"]
    answered = [line["calls_paid_now"] - line["calls_failed_now"] for line in lines]
    assert answered == [20, calls["calls"] - 20]
    assert sum(line["cost_paid_now"] for line in lines) == pytest.approx(calls["cost"])
    assert calls["cost"] == pytest.approx(0.001 * calls["calls"])
    assert read(tmp_path / "run" / "summary.json")["cost"] == calls["cost"]


def test_failed_queries_are_marked_in_every_table(tmp_path: Path, place: Path) -> None:
    """They count 0, or are left out, and every table says how many."""
    failing = ("engine.failing=0.2", "evaluation.max_failed=1", f"paths.cache={place}/cache")
    run = made(tmp_path, *SMALL, *failing)
    summary = evaluate_models(run)
    metrics = read(system(tmp_path, "scripted") / "metrics.json")
    failed = metrics["calls"]["failed"]
    assert 0 < failed < QUERIES
    assert summary["failed"] == {"scripted": failed}
    label = f"scripted: oracle ({failed} failed)"
    folder = system(tmp_path, "scripted").parent
    for name in ("table.md", "table.csv", "table.tex"):
        assert label in (folder / name).read_text()
    assert f"as they failed: {failed}; they count 0, {QUERIES} are counted" in (folder / "table.md").read_text()
    row = next(row for row in csv.DictReader((folder / "table.csv").read_text().splitlines()) if row["system"] == label)
    assert int(row["queries"]) == QUERIES
    ranked = metrics["judged_per_query"]["judged_10"]
    assert len(ranked) == QUERIES - failed, "what has no ranking has no judged share"
    assert sum(value for query, value in metrics["per_query"]["ndcg_cut_10"].items() if query not in ranked) == 0
    assert label in report_of(run).read_text()
    compared = Compare(runs=(f"good={run.folder}",), permutations=10)
    compare_runs(compared, run.experiment.benchmark, tmp_path / "comparison")
    for name in ("means.csv", "means.tex", "tests.csv", "tests.tex", "comparison.md"):
        assert f"good ({failed} failed)" in (tmp_path / "comparison" / name).read_text()
    left_out = made(tmp_path / "skip", *SMALL, *failing, "benchmark.missing=skip")
    assert evaluate_models(left_out)["failed"] == {"scripted": failed}
    folder = system(tmp_path / "skip", "scripted").parent
    row = next(row for row in csv.DictReader((folder / "table.csv").read_text().splitlines()) if row["system"] == label)
    assert int(row["queries"]) == QUERIES - failed
    assert f"are left out (benchmark.missing=skip), {QUERIES - failed} are counted" in (folder / "table.md").read_text()


def test_how_much_is_judged_stands_beside_ndcg(place: Path) -> None:
    """The share of a ranking's first 10 that the judgements know, counted here by hand from the files."""
    run = made(place, *SMALL, "evaluation.measures=[map,nDCG@10]")
    summary = evaluate_models(run)
    folder = system(place, "scripted").parent
    row = next(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    names = list(row)
    assert names[names.index("nDCG@10") + 1] == "judged@10"
    qrels = run.experiment.benchmark.collection.qrels()
    ranked = read_run(folder / "bm25" / "run.trec")
    shares = [sum(one in qrels[query] for one, _ in rows[:10]) / len(rows[:10]) for query, rows in ranked.items()]
    assert float(row["judged@10"]) == pytest.approx(fmean(shares))
    assert summary["judged"]["bm25"] == pytest.approx(fmean(shares))
    assert summary["measure"] == "map"
    evaluate_models(made(place, *SMALL, "evaluation.measures=[map]"))
    assert "judged@10" not in (folder / "table.csv").read_text()


def test_a_summary_names_what_was_asked(place: Path) -> None:
    scripted = evaluate_models(made(place, *SMALL))
    assert (scripted["model"], scripted["engine"]) == (None, "scripted: oracle")
    nothing = evaluate_models(made(place, *SMALL, "engine=none"))
    assert (nothing["model"], nothing["engine"]) == (None, "none")
    assert evaluate_models(priced(made(place, *SMALL, "evaluation.samples=0")))["model"] == "tiny"


def test_a_sample_that_lacks_a_query_left_out_of_others(place: Path) -> None:
    """Its mean is over the samples that rank it."""
    benchmark = replace(made(place, *SMALL).experiment.benchmark, missing="skip")
    query, *others = sorted(benchmark.judgements.grades)
    best = {
        one: sorted(grades, key=grades.__getitem__, reverse=True) for one, grades in benchmark.judgements.grades.items()
    }
    (place / "samples").mkdir()
    few = {one: best[one] for one in others}
    found = score_and_write(place / "samples", benchmark, [few, best], label="two", role=SYSTEM)
    assert set(found.values) == {query, *others}
    assert found.mean == 1.0


def test_no_engine_shows_the_first_stage_beside_what_is_known(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(
        place, *SMALL, "engine=none", "+benchmark.known={paper: 0.5, pyserini: 0.75}", "benchmark.published=dl19"
    )
    summary = evaluate_models(run)
    ours = summary["bm25"]
    said = capsys.readouterr().out
    assert f"nDCG@10 {ours:.4f}; known of BM25 here: paper 0.5000 ({ours - 0.5:+.4f}), pyserini 0.7500" in said
    assert "ideal order of the candidates" in said
    assert "scripted" not in summary
    assert summary["published"]["bm25"]["value"] == 50.58
    assert "| 0.5058 | yes" in " ".join(said.split()).replace("published |", "|")


def test_ours_stands_beside_the_published_number_of_the_same_setting(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("benchmark.published=dl19", "++model.published=REARANK-7B", "evaluation.samples=1")
    summary = evaluate_models(priced(made(place, *SMALL, *overrides)))
    found = summary["published"]
    assert set(found) == {"bm25", "base"}, "samples and the ideal order have no published number"
    assert (found["base"]["value"], found["base"]["row"]) == (74.16, "REARANK-7B")
    assert found["base"]["differences"] == [
        "20 candidates, not 100",
        "strategy windows of 5 by steps of 2, not windows of 20 by steps of 10",
    ]
    said = capsys.readouterr().out
    assert "published 0.7416: REARANK-7B, Zhang et al., REARANK (EMNLP 2025, arXiv 2505.20046), Table 1" in said
    assert "here: 20 candidates, not 100; strategy windows of 5" in said
    other = evaluate_models(priced(made(place, *SMALL, *overrides, "evaluation.measures=[map]")))
    assert other["published"] == {}, "published numbers are nDCG@10"


def test_the_models_thinking_switch_reaches_the_engine(place: Path) -> None:
    given: list[Any] = []
    evaluate_models(priced(made(place, *SMALL, "++model.thinking=false", "evaluation.samples=0"), asked=given.append))
    assert given == [{"thinking": False, "revision": None}]


def test_two_stages(tmp_path: Path, place: Path) -> None:
    """The first 5 of another system's run are reranked, the rest stays below them."""
    cache = f"paths.cache={place}/cache"
    evaluate_models(made(tmp_path / "one", *SMALL, cache, "engine.behaviour=random"))
    first = read_run(system(tmp_path / "one", "scripted") / "run.trec")
    path = f"{tmp_path}/one/run/evaluation/{{benchmark}}/scripted/run.trec"
    two = ("retriever=run_file", f"retriever.path='{path}'", "evaluation.depth=5", "evaluation.kept_depth=20")
    summary = evaluate_models(made(tmp_path / "two", *SMALL, cache, *two, MEASURES))
    second = read_run(system(tmp_path / "two", "scripted") / "run.trec")
    for query, ranked in second.items():
        given = [passage for passage, _ in first[query]]
        ids = [passage for passage, _ in ranked]
        assert ids[5:] == given[5:]
        assert sorted(ids[:5]) == sorted(given[:5])
    measures = summary["measures"]
    assert measures["scripted"]["recall_20"] == measures["runfile"]["recall_20"] == measures["ideal"]["recall_20"]
    assert measures["runfile"]["ndcg_cut_10"] < measures["scripted"]["ndcg_cut_10"]


def listed(run: Any, *names: str, missing: Path | None = None) -> BenchmarkList:
    one: Benchmark = run.experiment.benchmark
    small = replace(one.collection, query_count=QUERIES // 2)
    members: dict[str, Any] = {
        name: replace(one, name=name, collection=small if number else one.collection)
        for number, name in enumerate(names)
    }
    if missing is not None:
        members["gone"] = replace(one, name="gone", collection=BeirFolder(str(missing)))
    return BenchmarkList("trec_dl", members)


def test_what_is_missing_stands_by_the_numbers(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = made(place, *SMALL)
    one: Benchmark = run.experiment.benchmark
    ranked = {item.candidates.query.id: [p.id for p in item.candidates.passages] for item in one.judged()}
    write_run(place / "some.trec", dict(list(ranked.items())[2:]))
    some = replace(one, name="some", retriever=RunFile(str(place / "some.trec")))
    evaluate_models(with_benchmark(run, BenchmarkList("both", {"whole": replace(one, name="whole"), "some": some})))
    missing = f"some: 2 of {QUERIES} judged queries can't be ranked (0 not among the topics, 2 without a candidate"
    assert missing in (place / "run" / "evaluation" / "table.md").read_text()
    assert missing.removeprefix("some: ") in (place / "run" / "evaluation" / "some" / "table.md").read_text()
    assert [line for line in caplog.messages if "can't be ranked" in line] == [f"some: {some.gaps}"]
    for name, without in (("whole", 0), ("some", 2)):
        for metrics in (place / "run" / "evaluation" / name).glob("*/metrics.json"):
            assert read(metrics)["coverage"]["without_candidates"] == without
            assert read(metrics)["queries"]["ndcg_cut_10"] == QUERIES


def test_a_list_has_one_table_with_its_average(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = priced(made(place, *SMALL, "++model.published=REARANK-7B", "evaluation.samples=0"), dollars=0.01)
    summary = evaluate_models(with_benchmark(run, listed(run, "dl19", "dl20")))
    parts = summary["benchmarks"]
    average = summary["averages"]["trec_dl"]
    assert average["complete"] is True
    assert average["base"] == pytest.approx((parts["dl19"]["base"] + parts["dl20"]["base"]) / 2)
    assert average["first_stage"] == pytest.approx((parts["dl19"]["bm25"] + parts["dl20"]["bm25"]) / 2)
    assert summary["cost"] == pytest.approx(parts["dl19"]["cost"] + parts["dl20"]["cost"])
    table = (place / "run" / "evaluation" / "table.md").read_text()
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}
    assert lines["system"].replace(" ", "") == "|system|dl19|dl20|average|judged@10|"
    assert lines["REARANK-7B, published"].replace(" ", "") == "|REARANK-7B,published|0.7416|0.7000|0.720||"
    assert lines["BM25, published"].replace(" ", "") == "|BM25,published|0.5058|0.4796|0.4927||"
    assert f"{average['base']:.4f}" in lines["tiny, greedy"]
    assert table.splitlines()[0] in capsys.readouterr().out
    rows = list(csv.DictReader((place / "run" / "evaluation" / "table.csv").read_text().splitlines()))
    assert float(rows[0]["average"]) == average["first_stage"]
    assert "0.7416" in (place / "run" / "evaluation" / "table.tex").read_text()


def test_an_average_over_a_part_of_a_list_says_so(tmp_path: Path, place: Path) -> None:
    run = made(place, *SMALL, "engine=none")
    summary = evaluate_models(with_benchmark(run, listed(run, "dl20", "other", missing=tmp_path / "nothing")))
    average = summary["averages"]["trec_dl"]
    assert (average["complete"], average["over"]) == (False, ["dl20", "other"])
    assert list(summary["missing"]) == ["gone"]
    table = (place / "run" / "evaluation" / "table.md").read_text()
    assert "mean of 2 of 3" in table
    assert "| average" not in table
    assert "gone is left out: " in table
    published = next(line for line in table.splitlines() if line.startswith("| BM25, published"))
    assert published.count("0.4796") == 1, "no mean over parts that aren't all printed"


def test_lists_in_a_list_have_an_average_each(place: Path) -> None:
    run = made(place, *SMALL, "engine=none")
    inner = listed(run, "dl19", "dl20")
    outer = BenchmarkList("both", {"trec_dl": inner, "beir": replace(listed(run, "a", "b"), name="beir")})
    summary = evaluate_models(with_benchmark(run, outer))
    assert set(summary["averages"]) == {"trec_dl", "beir"}
    assert "trec_dl: average" in (place / "run" / "evaluation" / "table.md").read_text()


def test_nothing_to_measure(tmp_path: Path, place: Path) -> None:
    run = made(place, *SMALL, "engine=none")
    gone = {
        name: replace(run.experiment.benchmark, name=name, collection=BeirFolder(str(tmp_path / name))) for name in "ab"
    }
    with pytest.raises(DataError, match="none of the 2 benchmarks"):
        evaluate_models(with_benchmark(run, BenchmarkList("x", gone)))


def test_another_benchmark_of_a_list_leaves_what_was_measured(tmp_path: Path) -> None:
    """Its collection's code decides nothing about the others."""
    alone = made(tmp_path, *SMALL)

    def opened(run: Run) -> Path:
        places = Places(run.stage("evaluation", "model", "prompt", "strategy", "engine"), run.cache)
        return places.open(alone.experiment.benchmark, "base")

    place = opened(alone)
    (place / "metrics.json").touch()
    other = replace(alone.experiment.benchmark, name="other", collection=BeirFolder(path="nowhere"))
    both = with_benchmark(
        alone, BenchmarkList(name="both", members={"here": alone.experiment.benchmark, "other": other})
    )
    assert opened(both) == place
    assert (place / "metrics.json").exists()
    assert not list(place.parent.glob("base.*"))
