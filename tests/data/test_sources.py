"""BEIR folders, ir_datasets, candidates files, and sources joined for training."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import ir_datasets
import pytest

from rearank.data import Collection, DataError, Joined, Retriever, Source
from rearank.data.beir import BeirFolder
from rearank.data.irds import Irds, ScoredDocs
from rearank.data.rankllm import RankLlmCandidates, RankLlmFile, read_candidates
from rearank.data.trec import RunFile, TrecFiles
from rearank.types import Candidates, Passage, Query


@pytest.fixture
def beir(tmp_path: Path) -> BeirFolder:
    (tmp_path / "qrels").mkdir()
    corpus = b'{"_id": "d1", "title": "Fruit", "text": "red apples"}\n{"_id": "d2", "title": "", "text": ""}\n'
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "apples"}\n{"_id": "r", "text": "pears"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
    return BeirFolder(str(tmp_path))


def test_beir_folder(beir: BeirFolder) -> None:
    assert isinstance(beir, Collection)
    assert list(beir.iter_passages()) == [Passage("d1", "red apples", "Fruit"), Passage("d2", "")]
    assert beir.qrels() == {"q": {"d1": 1}}
    with pytest.raises(DataError) as refused:
        BeirFolder(beir.path, split="dev").qrels()
    assert str(refused.value) == (
        f"{beir.path}/qrels/dev.tsv: no such file of a BEIR folder; give the path of an existing file; the folder's "
        "splits are test: set collection.split"
    )
    assert beir.queries() == {"q": Query("q", "apples"), "r": Query("r", "pears")}
    assert beir.passages(["d2"]) == {"d2": Passage("d2", "")}
    assert beir.lacks(["d1", "d3"]) == {"d3"}
    with pytest.raises(DataError, match=r"corpus\.jsonl\.gz: 1 of 2 passages .* 'd3'"):
        beir.passages(["d1", "d3"])


def test_the_split_of_a_beir_folder_is_logged(beir: BeirFolder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "rearank.data.beir"):
        beir.qrels()
    assert caplog.messages == ["beir: judgements of the split 'test'"]


def test_missing_files_of_a_beir_folder(beir: BeirFolder, tmp_path: Path) -> None:
    (tmp_path / "qrels" / "train.tsv.gz").write_bytes(gzip.compress(b"q\td2\t1\n"))
    assert BeirFolder(beir.path, split="train").qrels() == {"q": {"d2": 1}}
    with pytest.raises(DataError, match=r"; the folder's splits are test, train: set collection\.split$"):
        BeirFolder(beir.path, split="dev").qrels()
    (tmp_path / "none").mkdir()
    missing = f"{tmp_path}/none/qrels/test.tsv: no such file of a BEIR folder; give the path of an existing file"
    for folder, line in (
        (BeirFolder(f"{tmp_path}/none"), missing),
        (BeirFolder(f"{tmp_path}/none", name="n", obtain="ask its owners"), f"{missing}; n: ask its owners"),
    ):
        with pytest.raises(DataError) as refused:
            folder.qrels()
        assert str(refused.value) == line


def test_a_fingerprint_is_of_the_passages(beir: BeirFolder, tmp_path: Path) -> None:
    lists, docs = tmp_path / "lists", tmp_path / "docs"
    lists.write_text(json.dumps(LINE))
    docs.write_text("d1\tapples\n")
    for collection, passages in (
        (beir, tmp_path / "corpus.jsonl.gz"),
        (TrecFiles(str(docs), ""), docs),
        (RankLlmFile(str(lists)), lists),
    ):
        before = collection.fingerprint()
        assert collection.fingerprint() == before
        passages.write_bytes(passages.read_bytes() + b"\n")
        assert collection.fingerprint() != before
        passages.unlink()
        with pytest.raises(DataError, match=r"no such (file of a BEIR folder|document file|candidates file);"):
            collection.fingerprint()


LINE = {
    "query": {"text": "apples", "qid": 7},
    "candidates": [
        {"docid": "b", "score": 2.5, "doc": {"title": "Fruit", "segment": "red apples"}},
        {"docid": "a", "score": 1.5, "doc": {"contents": "green apples"}},
    ],
}


def test_rankllm_lines_are_a_collection_and_a_first_stage(tmp_path: Path) -> None:
    path, qrels = tmp_path / "c.jsonl", tmp_path / "qrels"
    path.write_text(json.dumps(LINE) + "\n")
    qrels.write_text("7 0 a 3\n7 0 elsewhere 1\n8 0 x 1\n")
    file, lists = RankLlmFile(str(path), str(qrels)), RankLlmCandidates(str(path))
    assert isinstance(file, Collection)
    assert isinstance(lists, Retriever)
    (row,) = Source("s", file, lists).judged(10)
    assert row.candidates.passages == (Passage("b", "red apples", "Fruit"), Passage("a", "green apples"))
    assert row.candidates.scores == (2.5, 1.5)
    assert row.grades == {"a": 3, "elsewhere": 1}
    assert Source("s", file, ScoredDocs()).judged(10) == [row]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q"}, "c:1: no list 'candidates'"),
        ({"query": "q", "candidates": []}, "c:1: no query id"),
        ({**LINE, "candidates": [LINE["candidates"][0]] * 2}, "c:1: query '7': a passage id occurs twice"),
        ({**LINE, "candidates": ["text"]}, "c:1: a candidate must be a JSON object"),
        ({**LINE, "candidates": [{"docid": "a", "score": "high", "doc": "text"}]}, "c:1: score 'high'"),
        (
            {**LINE, "candidates": [{"docid": "a", "score": math.nan, "doc": "text"}]},
            r"^\S*c:1: score nan isn't a finite",
        ),
        ({**LINE, "candidates": [{"docid": "a", "score": 10**400, "doc": "text"}]}, "c:1: score 10+ isn't a finite"),
        ({**LINE, "candidates": [{"docid": "a\ud83d", "doc": "text"}]}, r"c:1: the document id 'a\\ud83d' holds half"),
        ({**LINE, "candidates": [{"docid": "a b", "doc": "x"}, {"docid": "a_b", "doc": "y"}]}, "c:1: .*occurs twice"),
        ({**LINE, "candidates": [{"docid": "a", "doc": {}}]}, "c:1: none of the fields text"),
    ],
)
def test_bad_candidates_files(tmp_path: Path, row: object, message: str) -> None:
    (tmp_path / "c").write_text(json.dumps(row))
    with pytest.raises(DataError, match=message):
        RankLlmFile(str(tmp_path / "c")).queries()


def test_candidates_without_a_score_are_an_order(tmp_path: Path) -> None:
    items = [{"docid": "b c", "score": None, "doc": "half \ud83d"}, {"docid": "a", "score": 1.5, "doc": "y"}]
    path = tmp_path / "c"
    path.write_text(json.dumps({"query": {"text": "q \udc00", "qid": "q 7"}, "candidates": items}))
    (tmp_path / "qrels").write_text("q_7 0 a 1\n")
    file = RankLlmFile(str(path), str(tmp_path / "qrels"))
    (row,) = Source("s", file, RankLlmCandidates(str(path))).judged(10)
    assert row.candidates.query == Query("q_7", "q ?")
    assert row.candidates.passages == (Passage("b_c", "half ?"), Passage("a", "y"))
    assert row.candidates.scores == ()
    (again,) = Source("s", file, ScoredDocs()).judged(10)
    assert again.candidates.passages == row.candidates.passages


HIT = {"qid": 7, "docid": "b", "score": 2.5, "content": "red apples"}
HITS = {"query": "apples", "hits": [HIT, {"docid": "a", "score": 1, "content": "green apples"}]}
OF_HITS = Candidates(Query("7", "apples"), (Passage("b", "red apples"), Passage("a", "green apples")), (2.5, 1.0))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(HITS),
        json.dumps([HITS]),
        "\n" + json.dumps(HITS),
        "\n  " + json.dumps([HITS], indent=1),
        json.dumps({**HITS, "query": {"id": "7", "query": "apples"}}),
        json.dumps({**HITS, "query": {"_id": "7", "text": "apples"}}),
        json.dumps({"query": {"qid": "7", "id": "8", "text": "apples", "query": "x"}, "candidates": HITS["hits"]}),
        *(
            json.dumps(HITS).replace('"docid": "a"', f'"{key}": "a"').replace('"docid": "b"', f'"{key}": "b"')
            for key in ("doc_id", "_id", "id", "pid")
        ),
    ],
)
def test_rankgpts_hits_by_line_and_in_an_array(tmp_path: Path, content: str) -> None:
    (tmp_path / "c").write_text(content)
    assert read_candidates(str(tmp_path / "c")) == {"7": OF_HITS}


def test_a_documents_own_fields_dont_name_it(tmp_path: Path) -> None:
    item = {"docid": "a", "doc": {"_id": "b", "docid": "c", "title": "T", "text": "x"}}
    (tmp_path / "c").write_text(json.dumps({"query": {"text": "q", "qid": 1}, "candidates": [item]}))
    assert read_candidates(str(tmp_path / "c"))["1"].passages == (Passage("a", "x", "T"),)


def candidates_of(*items: Any, **query: Any) -> str:
    return json.dumps({"query": query or {"text": "q", "qid": "7"}, "candidates": list(items)})


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[{}, 3]", "1: no list 'candidates' (RankLLM) or 'hits' (RankGPT)"),
        (json.dumps([HITS, 3]), "1: entry 2 isn't a JSON object; see RankLLM's format"),
        ('[\n{"query":}]', "2: not JSON (Expecting value); fetch the file again"),
        ('{"query":}', "1: not JSON (Expecting value); one JSON object a line is expected"),
        ('{"hits": []}', "1: no query id; write query as {text, qid}"),
        ('{"query": "apples", "hits": ["x"]}', "1: no query id; write query as {text, qid}"),
        ('{"query": "apples", "hits": {}}', "1: no list 'candidates' (RankLLM) or 'hits' (RankGPT)"),
        (
            json.dumps({**HITS, "hits": [HITS["hits"][1]]}),  # type: ignore[index]
            "1: none of the fields qid is there as text; rename the field to 'qid'",
        ),
        (
            candidates_of(text="q", number=1),
            "1: none of the fields qid, id, _id is there as text; rename the field to 'qid'",
        ),
        (candidates_of(qid="7"), "1: none of the fields text, query is there as text; rename the field to 'text'"),
        (candidates_of(text="q", qid=" "), "1: a query with an empty id; give each its identifier"),
        (candidates_of(3), "1: a candidate must be a JSON object with docid and doc, not int"),
        (
            candidates_of({"doc": "x"}),
            "1: none of the fields docid, doc_id, _id, id, pid is there as text; rename the field to 'docid'",
        ),
        (candidates_of({"docid": "", "doc": "x"}), "1: a document with an empty id; give each its identifier"),
        (
            candidates_of({"docid": "a", "doc": ["x"]}),
            "1: doc of 'a' must be a text or a JSON object with its text",
        ),
        (
            candidates_of({"docid": "a", "doc": {"title": "x"}}),
            "1: none of the fields text, contents, content, passage, segment, body is there as text; rename the field "
            "to 'text'",
        ),
        (
            candidates_of({"docid": "a", "doc": "x", "score": [1]}),
            "1: score of type list isn't a finite number; write one, or null where there is none",
        ),
        (
            candidates_of({"docid": "a", "doc": "x"}, {"docid": "a", "doc": "y"}),
            "1: query '7': a passage id occurs twice among its candidates; remove the repetition",
        ),
        (candidates_of() + "\n\n" + candidates_of(), "3: query id '7' occurs twice; keep one of them"),
    ],
)
def test_faults_of_a_candidates_file_in_full(tmp_path: Path, content: str, line: str) -> None:
    path = tmp_path / "c"
    path.write_text(content)
    with pytest.raises(DataError) as refused:
        read_candidates(str(path))
    assert str(refused.value) == f"{path}:{line}"


def test_a_missing_candidates_file_is_named() -> None:
    with pytest.raises(DataError, match=r"^nowhere: no such candidates file; "):
        read_candidates("nowhere")


def test_a_candidates_file_as_a_collection(tmp_path: Path) -> None:
    path = tmp_path / "c"
    items = [{"docid": docid, "doc": docid} for docid in ("b", "a", "c")]
    path.write_text(f"{json.dumps(HITS)}\n{candidates_of(*items, text='q', qid='8')}\n")
    file = RankLlmFile(str(path))
    assert (file.name, file.qrels(), list(file.queries())) == ("rankllm", {}, ["7", "8"])
    assert [passage.id for passage in file.iter_passages()] == ["b", "a", "c"]
    # An order without scores falls from 1 as 1/2, 1/3.
    assert file.scoreddocs() == {"7": [("b", 2.5), ("a", 1.0)], "8": [("b", 1.0), ("a", 1 / 2), ("c", 1 / 3)]}
    with pytest.raises(DataError, match=rf"^{path}: 1 of 2 passages asked for .* 'd'"):
        file.passages(["a", "d"])


def test_lists_are_cut_at_the_depth_and_empty_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text(json.dumps(HITS))
    lists, queries = RankLlmCandidates(str(path)), {"7": Query("7", "as typed"), "9": Query("9", "other")}
    file = RankLlmFile(str(path))
    assert lists.retrieve(file, queries, 1) == {
        "7": Candidates(Query("7", "as typed"), (Passage("b", "red apples"),), (2.5,)),
        "9": Candidates(Query("9", "other"), ()),
    }
    assert len(lists.retrieve(file, queries, 2)["7"].passages) == 2
    with pytest.raises(ValueError, match="depth must be at least 1, not 0"):
        lists.retrieve(file, queries, 0)
    with pytest.raises(DataError, match=rf"^{path}: no list for any of the 1 queries"):
        lists.retrieve(file, {"9": Query("9", "other")}, 1)


def test_candidates_file_faults(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text((json.dumps(LINE) + "\n") * 2)
    with pytest.raises(DataError, match="c:2: query id '7' occurs twice"):
        RankLlmFile(str(path)).queries()
    path.write_text('[{"query":\n')
    with pytest.raises(DataError, match="not JSON"):
        RankLlmFile(str(path)).queries()
    path.write_text("")
    with pytest.raises(DataError, match="no candidate in it"):
        list(RankLlmFile(str(path)).iter_passages())


@pytest.fixture
def trec(tmp_path: Path) -> TrecFiles:
    (tmp_path / "docs").write_text("d1\tred apples\nd2\tgreen pears\n")
    (tmp_path / "topics").write_text("1\tapples\n2\tpears\n3\tunjudged\n")
    (tmp_path / "qrels").write_text("1 0 d1 1\n2 0 d2 -2\n")
    (tmp_path / "run").write_text("1 Q0 d2 1 2 t\n1 Q0 d1 2 1 t\n3 Q0 d1 1 1 t\n")
    return TrecFiles(*(str(tmp_path / name) for name in ("docs", "topics", "qrels")))


def test_queries_without_candidates_or_judgements(trec: TrecFiles, tmp_path: Path) -> None:
    run = RunFile(str(tmp_path / "run"))
    with pytest.raises(DataError, match=r"1 of 2 judged queries have no candidate, the first is '2'.*on_empty"):
        Source("s", trec, run).judged(10)
    assert [r.candidates.query.id for r in Source("s", trec, run, on_empty="skip").judged(10)] == ["1"]
    kept = Source("s", trec, run, on_empty="keep").judged(10)
    assert kept[1].candidates.passages == ()
    assert kept[1].grades == {"d2": -2}
    Path(trec.qrels_file).write_text("9 0 d1 1\n")
    with pytest.raises(DataError, match=r"no query has a judgement.*1 queries are judged"):
        Source("s", trec, run).judged(10)


def test_joined_sources_keep_query_ids_apart(trec: TrecFiles, tmp_path: Path) -> None:
    run = RunFile(str(tmp_path / "run"))
    members = {name: Source(name, trec, run, on_empty="skip") for name in ("dl21", "dl22")}
    rows = Joined("both", members).judged(10)
    assert [r.candidates.query for r in rows] == [Query("dl21/1", "apples"), Query("dl22/1", "apples")]
    with pytest.raises(ValueError, match="two members are named 'dl21'"):
        Joined("both", {"a": members["dl21"], "b": members["dl21"]})
    with pytest.raises(ValueError, match="at least one"):
        Joined("none", {})


@pytest.fixture
def registered(trec: TrecFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An ir_datasets entry over local files, as a user registers their own."""
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "irds"))
    dataset = ir_datasets.create_dataset(docs_tsv=trec.docs, queries_tsv=trec.topics, qrels_trec=trec.qrels_file)
    name = f"rearank-test-{tmp_path.name}"
    ir_datasets.registry.register(name, dataset)
    return name


def test_ir_datasets_by_id(registered: str) -> None:
    collection = Irds(registered)
    assert collection.queries()["1"] == Query("1", "apples")
    assert collection.qrels() == {"1": {"d1": 1}, "2": {"d2": -2}}
    assert collection.passages(["d2"]) == {"d2": Passage("d2", "green pears")}
    assert [p.id for p in collection.iter_passages()] == ["d1", "d2"]
    assert Irds(registered).fingerprint() == collection.fingerprint()
    with pytest.raises(DataError, match="'d9'"):
        collection.passages(["d1", "d9"])
    with pytest.raises(DataError, match="has no scoreddocs"):
        ScoredDocs().retrieve(collection, collection.queries(), 5)
    with pytest.raises(DataError, match="ir_datasets has no 'nope'"):
        Irds("nope").queries()


def test_paper_members_exist_with_everything_needed() -> None:
    for year in (2021, 2022, 2023):
        dataset = ir_datasets.load(f"msmarco-passage-v2/trec-dl-{year}/judged")
        assert dataset.has_scoreddocs()
        assert dataset.has_qrels()
        assert dataset.has_docs()


def test_scoreddocs_need_a_collection_that_has_them(trec: TrecFiles) -> None:
    with pytest.raises(DataError, match="publishes no scored documents"):
        ScoredDocs().retrieve(trec, trec.queries(), 5)
