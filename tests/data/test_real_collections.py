"""Published figures, from real files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import pytrec_eval

from rearank.data import Source
from rearank.data.bm25 import Bm25
from rearank.data.rankllm import RankLlmCandidates, RankLlmFile
from rearank.data.trec import RunFile, TrecFiles, read_qrels, read_run


def mean_ndcg(run: Mapping[str, Sequence[str]], qrels: Mapping[str, Mapping[str, int]]) -> float:
    """nDCG@10 by trec_eval. Whole-number scores: it would round close ones to the same 32-bit float."""
    ranked = {qid: {d: len(ids) - i for i, d in enumerate(ids)} for qid, ids in run.items()}
    judged = {qid: dict(grades) for qid, grades in qrels.items()}
    scores = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut_10"}).evaluate(ranked)
    return sum(s["ndcg_cut_10"] for s in scores.values()) / len(scores)


def source_ndcg(source: Source, depth: int = 100) -> float:
    rows = source.judged(depth)
    run = {r.candidates.query.id: [p.id for p in r.candidates.passages] for r in rows}
    return mean_ndcg(run, {r.candidates.query.id: r.grades for r in rows})


def test_vaswani_bm25(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "vaswani"
    vaswani = TrecFiles(*(str(folder / name) for name in ("doc-text.trec", "query-text.trec", "qrels")))
    assert len(list(vaswani.iter_passages())) == 11429
    source = Source("vaswani", vaswani, Bm25(cache_dir=str(tmp_path), backend="numpy"))
    assert source_ndcg(source) == pytest.approx(0.4378, abs=5e-5)  # bm25s on Lucene's tokens; Lucene itself: .4368


@pytest.mark.parametrize(("year", "queries", "expected"), [("19", 43, 0.5058), ("21", 53, 0.4458)])
def test_runs_and_judgements(shared_data: Path, year: str, queries: int, expected: float) -> None:
    run = read_run(shared_data / "runs" / f"bm25.dl{year}.top100.trec")
    qrels = read_qrels(shared_data / "qrels" / f"qrels.dl{year}-passage.txt")
    assert len(qrels.keys() & run.keys()) == queries
    assert mean_ndcg({q: [d for d, _ in ranked] for q, ranked in run.items()}, qrels) == pytest.approx(
        expected, abs=5e-5
    )


@pytest.mark.parametrize(
    ("path", "qrels", "queries", "expected"),
    [
        ("noveleval/data.json", "noveleval/qrels.txt", 21, 0.6503),
        ("dl19_top20/dl19_bm25_top20.jsonl", "qrels/qrels.dl19-passage.txt", 43, 0.5058),
    ],
)
def test_given_orders(shared_data: Path, path: str, qrels: str, queries: int, expected: float) -> None:
    file = str(shared_data / path)
    collection = RankLlmFile(file, str(shared_data / qrels))
    source = Source("given", collection, RankLlmCandidates(file))
    assert len(source.judged(20)) == queries
    assert source_ndcg(source) == pytest.approx(expected, abs=5e-5)


def test_dl21_top_100_through_a_source(shared_data: Path, tmp_path: Path) -> None:
    """The paper's training path on a real run and judgements; the texts are stand-ins, since only ids are at hand."""
    run_path = shared_data / "runs" / "bm25.dl21.top100.trec"
    run = read_run(run_path)
    docs, topics = tmp_path / "docs", tmp_path / "topics"
    ids = dict.fromkeys(docid for ranked in run.values() for docid, _ in ranked)
    docs.write_text("".join(f'{{"pid": "{i}", "passage": "text of {i}"}}\n' for i in ids))
    topics.write_text("".join(f"{qid}\tquery {qid}\n" for qid in run))
    qrels = str(shared_data / "qrels" / "qrels.dl21-passage.txt")
    collection = TrecFiles(str(docs), str(topics), qrels, check_qrels=False)
    source = Source("dl21", collection, RunFile(str(run_path)))
    rows = source.judged(100)
    assert len(rows) == 53
    assert {len(r.candidates.passages) for r in rows} == {100}
    assert source_ndcg(source) == pytest.approx(0.4458, abs=5e-5)


def test_negative_grades_count_as_not_relevant() -> None:
    run = {"q": ["a", "b"]}
    assert mean_ndcg(run, {"q": {"a": -2, "b": 1}}) == mean_ndcg(run, {"q": {"a": 0, "b": 1}})


LOCAL = {
    # the words of the command line that measure it, queries, nDCG@10
    "noveleval": (["benchmark=noveleval", "paths.data={data}"], 21, 0.6503),
    "vaswani": (
        [
            "benchmark=local",
            "benchmark.collection.docs={data}/vaswani/doc-text.trec",
            "benchmark.collection.topics={data}/vaswani/query-text.trec",
            "benchmark.collection.qrels_file={data}/vaswani/qrels",
        ],
        93,
        0.4378,
    ),
    "dl19_top20": (
        [
            "benchmark=local_rankllm",
            "benchmark.collection.path={data}/dl19_top20/dl19_bm25_top20.jsonl",
            "benchmark.collection.qrels_file={data}/qrels/qrels.dl19-passage.txt",
        ],
        43,
        0.5058,
    ),
}


@pytest.mark.parametrize("name", LOCAL)
def test_the_command_line_measures_the_known_values(shared_data: Path, tmp_path: Path, root: Path, name: str) -> None:
    """`task=evaluate engine=none`, as a user checks a first stage before paying for the second."""
    words, queries, expected = LOCAL[name]
    settled = ["task=evaluate", "engine=none", "tracking=none", "model=tiny", "prompt=compact", "name=run"]
    given = [word.format(data=shared_data) for word in words]
    command = [sys.executable, str(root / "run.py"), *settled, f"paths.outputs={tmp_path}", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    (metrics,) = (
        json.loads(path.read_text())
        for path in (tmp_path / "run/evaluation").glob("*/*/metrics.json")
        if path.parent.name != "ideal"
    )
    assert metrics["queries"]["ndcg_cut_10"] == queries
    assert metrics["mean"]["ndcg_cut_10"] == pytest.approx(expected, abs=5e-5)
