"""TREC files: what is accepted, and what each fault is answered with."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from rearank.data.base import DataError
from rearank.data.trec import RunFile, TrecFiles, read_documents, read_qrels, read_run, read_topics, write_run
from rearank.types import Passage, Query

DOCS = "d1\tred apples\nd2\tgreen pears\n"


@pytest.fixture
def write(tmp_path: Path):
    def _write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return _write


@pytest.mark.parametrize(
    "content",
    [
        DOCS.encode(),
        b"\xef\xbb\xbf" + DOCS.encode(),
        DOCS.replace("\n", "\r\n").encode(),
        gzip.compress(DOCS.encode()),
        gzip.compress(b"\xef\xbb\xbf" + DOCS.replace("\n", "\r\n").encode()),
        b'{"_id": "d1", "text": "red apples"}\n{"docid": "d2", "contents": "green pears"}\n',
        b"<DOC>\n<DOCNO> d1 </DOCNO>\nred apples\n</DOC>\n<DOC><DOCNO>d2</DOCNO><TEXT>green pears</TEXT></DOC>\n",
    ],
    ids=["tsv", "bom", "crlf", "gzip", "gzip-bom-crlf", "jsonl", "sgml"],
)
def test_documents_in_every_form(write, content: bytes) -> None:
    assert list(read_documents(write("docs", content))) == [Passage("d1", "red apples"), Passage("d2", "green pears")]


def test_titles(write) -> None:
    assert list(read_documents(write("a", "d1\tFruit\tred apples\n"))) == [Passage("d1", "red apples", "Fruit")]
    sgml = "<doc><docno>d1</docno><headline>Fruit &amp; veg</headline>\n<p>red</p>\napples</doc>"
    (found,) = read_documents(write("b", sgml))
    assert found.title == "Fruit & veg"
    assert found.text.split() == ["red", "apples"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("d1\ta\nd1\tb\n", r"docs:2: document id 'd1' occurs twice"),
        ("d1\ta\nd2\tb\tc\n", r"docs:2: 3 columns where 2 are expected"),
        ("d1\n", r"docs:1: 1 columns where 2 \(id, text\) or 3"),
        ("\ttext\n", r"docs:1: a document with an empty id"),
        (b"d1\ta\nd2\t\xff\n", r"docs:2: not UTF-8 .*iconv"),
        ('{"id": "d1", "text": "a"}\n{"id":\n', r"docs:2: not JSON"),
        ('{"id": "d1", "text": "a"}\n[1]\n', r"docs:2: a JSON object is expected"),
        ('{"id": "d1"}\n', r"docs:1: none of the fields text, .* rename"),
        ("<DOC>\n<DOCNO>d1</DOCNO>\ntext\n", r"docs:1: <DOC> is never closed"),
        ("<DOC>\n<DOC>\n", r"docs:2: <DOC> inside the <DOC> of line 1"),
        ("<DOC>\ntext</DOC>\n", r"docs:1: a document without <DOCNO>"),
        ("<DOC><DOCNO>d1</DOCNO></DOC>\nstray\n", r"docs:2: text outside <DOC>"),
    ],
)
def test_bad_documents(write, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_documents(write("docs", content)))


def test_damaged_gzip(write) -> None:
    with pytest.raises(DataError, match=r"docs:\d+: can't be read .*fetch"):
        list(read_documents(write("docs", gzip.compress(DOCS.encode())[:-12])))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such document file"):
        list(read_documents(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "content",
    [
        "7\tripe fruit\n",
        "<top>\n<num> Number: 7\n<title> ripe\nfruit\n\n<desc> Description:\nlong\n</top>\n",
        "<top><num>7</num><title>ripe fruit</title></top>",
        '{"_id": 7, "text": "ripe fruit"}\n',
    ],
)
def test_topics_in_every_form(write, content: str) -> None:
    assert read_topics(write("topics", content)) == {"7": Query("7", "ripe fruit")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\ta\n1\tb\n", "topics:2: query id '1' occurs twice"),
        ("1\ta\n2\n", "topics:2: 1 columns where 2"),
        ("1\t\n", "topics:1: query '1' has no text"),
        ("<top>\n<num>1\n</top>\n", "topics:1: a topic without <num> or <title>"),
    ],
)
def test_bad_topics(write, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_topics(write("topics", content))


def test_qrels_of_trec_and_beir_and_negative_grades(write) -> None:
    expected = {"q": {"a": 2, "b": -1}}
    assert read_qrels(write("a", "q 0 a 2\nq 0 b -1\n")) == expected
    assert read_qrels(write("b", "query-id\tcorpus-id\tscore\r\nq\ta\t2\r\nq\tb\t-1\r\n")) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q 0 a 1\nq 0 a 1\n", "qrels:2: query 'q': judgement of document 'a' occurs twice"),
        ("q 0 a 1\nq 0 a\n", "qrels:2: 3 columns where 4"),
        ("q 0 a 1.5\n", "qrels:1: grade '1.5' isn't a whole number"),
    ],
)
def test_bad_qrels(write, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_qrels(write("qrels", content))


def test_run_is_ordered_by_score_then_rank(write) -> None:
    run = read_run(write("run", "q Q0 a 3 1.0 t\nq Q0 b 2 1.0 t\nq Q0 c 1 2.5 t\n"))
    assert run == {"q": [("c", 2.5), ("b", 1.0), ("a", 1.0)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q Q0 a 1 1 t\nq Q0 a 2 0 t\n", "run:2: query 'q': document 'a' occurs twice"),
        ("q Q0 a 1 1\n", "run:1: 5 columns where 6"),
        ("q Q0 a 1 x t\n", "run:1: rank '1' or score 'x' isn't a number"),
        ("q Q0 a 1 nan t\n", "run:1: score 'nan' can't be ordered"),
    ],
)
def test_bad_runs(write, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_run(write("run", content))


def test_written_run_reads_back(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"q": ["b", "a"]})
    assert read_run(tmp_path / "run") == {"q": [("b", 2.0), ("a", 1.0)]}
    with pytest.raises(ValueError, match="without spaces"):
        write_run(tmp_path / "run", {"q": ["a b"]})
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.fixture
def collection(write) -> TrecFiles:
    return TrecFiles(write("docs", DOCS), write("topics", "q\tapples\n"), write("qrels", "q 0 d1 1\n"))


def test_run_with_an_unknown_document(write, collection: TrecFiles) -> None:
    run = RunFile(write("run", "q Q0 d1 1 2 t\nq Q0 d9 2 1 t\n"))
    with pytest.raises(DataError, match=r"run:2: document 'd9'.*same collection"):
        run.retrieve(collection, collection.queries(), 10)
    # What lies below the depth isn't asked for.
    assert run.retrieve(collection, collection.queries(), 1)["q"].passages == (Passage("d1", "red apples"),)


def test_qrels_for_absent_documents(write, collection: TrecFiles) -> None:
    qrels = write("qrels", "q 0 d1 1\nq 0 d7 1\n")
    with pytest.raises(DataError, match=r"qrels:2: document 'd7' isn't in .*check_qrels=false"):
        collection.qrels()
    assert TrecFiles(collection.docs, collection.topics, qrels, check_qrels=False).qrels() == {"q": {"d1": 1, "d7": 1}}


def test_unknown_passage_and_empty_collection(write, collection: TrecFiles) -> None:
    with pytest.raises(DataError, match=r"1 of 2 passages .* 'd9'"):
        collection.passages(["d1", "d9"])
    with pytest.raises(DataError, match="no document in it"):
        TrecFiles(write("none", ""), collection.topics).passages([])
