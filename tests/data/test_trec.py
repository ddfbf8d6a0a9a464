"""TREC files: what is accepted, and what each fault is answered with."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from rearank.data.base import DataError
from rearank.data.trec import (
    RunFile,
    TrecFiles,
    documents_by_id,
    read_documents,
    read_qrels,
    read_run,
    read_topics,
    write_run,
)
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
        (
            "d1\ta\nd2\tb\tc\n",
            r"docs:2: 3 columns where 2 are expected; put one tab between columns and none inside a text$",
        ),
        ("d1\ta\tb\nd2\tb\n", r"docs:2: 2 columns where 3 are expected"),
        ("<DOC><DOCNO></DOCNO>x</DOC>\n", r"docs:1: a document without <DOCNO>; give each its identifier$"),
        ("d1\n", r"docs:1: 1 columns where 2 \(id, text\) or 3"),
        ("\ttext\n", r"docs:1: a document with an empty id"),
        (b"d1\ta\nd2\t\xff\n", r"docs:2: not UTF-8 \(.*\); convert the file to UTF-8 \(iconv -f .* -t utf-8\)$"),
        (b"\x1f\x8b no gzip", r"docs:1: can't be read \(.*\); fetch the file again$"),
        ('{"text": "a"}\n', r"docs:1: none of the fields _id, id, .*; rename the field to '_id'$"),
        ('{"id": "d1", "text": "a"}\n{"id":\n', r"docs:2: not JSON"),
        ('{"id": "d1", "text": "a"}\n[1]\n', r"docs:2: a JSON object is expected, not list$"),
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
    found: list[Passage] = []
    with pytest.raises(DataError) as refused:
        found.extend(read_documents(write("docs", gzip.compress(DOCS.encode())[:-12])))
    assert f"docs:{len(found) + 1}: can't be read (" in str(refused.value)
    assert str(refused.value).endswith("; fetch the file again")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such document file"):
        list(read_documents(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "content",
    [
        "7\tripe fruit\n",
        "<top>\n<num> Number: 7\n<title> ripe\nfruit\n\n<desc> Description:\nlong\n</top>\n",
        "<top><num>7</num><title>ripe fruit</title></top>",
        *(f'{{"{key}": 7, "text": " ripe fruit"}}\n' for key in ("_id", "id", "qid", "query_id")),
        *(f'\n{{"_id": "7", "{key}": "ripe fruit"}}\n' for key in ("text", "query", "title")),
        '<?xml version="1.0"?>\n<topics task="x" batch="all">\n  <topic number="7">\n    <query>ripe\n fruit</query>\n'
        "    <question>which?</question>\n  </topic>\n</topics>\n",
        "<top>\n<num> Number: 7 </num>\n<query> ripe fruit </query>\n<querytime> Tue </querytime>\n</top>\n",
        "<!-- w -->\n<topics><topic><number>7</number><title>ripe <![CDATA[fruit]]></title><a>n</a></topic></topics>",
        "<xml>\n<top lang='en'><num>7</num>\n<title>ripe fruit\n<desc>x</top></xml>",
        '<topics><topic number="7">ripe fruit</topic></topics>',
        "<queries><query><qid>7</qid><content>ripe fruit</content></query></queries>",
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
        (
            '<topics>\n<topic number="1"><summary>a</summary></topic></topics>',
            r"topics:2: a topic without <num> or <title> \(or number=\.\.\. and <query>, as in XML\); it has "
            "<summary>: rename the one that is to be the query to <title>$",
        ),
        (
            "<topics>\n<topic number='1'><short>a</short><Long>b</Long></topic></topics>",
            "topics:2: .*; it has <short>, <long>: rename",
        ),
        ("<topics>\n<topic><query>a</query></topic></topics>", "topics:2: a topic without <num>.*it has no number"),
        ("<html><body>a</body></html>", "topics:1: no <top> or <topic> in it"),
        ('<topics><topic number="1"><query>a</query>', "topics:1: <topic> is never closed"),
        ("", "topics:1: no query in it"),
        ('{"_id": "q\\ud83d", "text": "a"}', r"topics:1: the query id 'q\\ud83d' holds half of a character"),
        ("\ta\n", "topics:1: a query with an empty id"),
        ('{"_id": true, "text": "a"}', "topics:1: none of the fields _id"),
        ('{"_id": ' + "[" * 100_000, "topics:1: not JSON"),
        (
            '{"_id": ' + "9" * 5000 + "}",
            r"topics:1: not JSON \(Exceeds the limit .*\); one JSON object a line is expected$",
        ),
        (
            '{"_id": "1"}',
            "topics:1: none of the fields text, query, title is there as text; rename the field to 'text'$",
        ),
    ],
)
def test_bad_topics(write, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_topics(write("topics", content))


def test_qrels_of_trec_and_beir_and_negative_grades(write) -> None:
    expected = {"q": {"a": 2, "b": -1}}
    assert read_qrels(write("a", "q 0 a 2\nq 0 b -1\n")) == expected
    rows = "q\ta\t2\r\nq\tb\t-1\r\n"
    for header in (
        "query-id\tcorpus-id\tscore\r\n",
        "",
        "query\tdoc\trelevance\n",
        "\nQid Did Label\n",
        "qid\tpid\tgrade\n",
    ):
        assert read_qrels(write("b", header + rows)) == expected, header
    assert read_qrels(write("c", "topic iteration document judgment\nq\t0\ta 2\nq 0\tb -1\n")) == expected


def test_ids_with_spaces_are_written_as_run_files_can_hold_them(write, tmp_path: Path) -> None:
    docs = write("docs", '{"_id": "doc 4.txt", "text": "red\\ud83d apples"}\n{"_id": " d1\\u00a0b", "text": "pears"}\n')
    topics = write("topics", "q 1\tapples\n")
    run = write("run", "q 1\tQ0\tdoc 4.txt\t1\t2\tt\nq 1\tQ0\td1\u00a0b\t2\t1\tt\n")
    for qrels in ("q 1\t0\tdoc 4.txt\t2\n", "q 1\tdoc 4.txt\t2\n", "query-id\tcorpus-id\tscore\nq 1\tdoc 4.txt\t2\n"):
        collection = TrecFiles(docs, topics, write("qrels", qrels))
        assert collection.qrels() == {"q_1": {"doc_4.txt": 2}}
    found = RunFile(run).retrieve(collection, collection.queries(), 5)["q_1"]
    assert found.passages == (Passage("doc_4.txt", "red? apples"), Passage("d1_b", "pears"))
    write_run(tmp_path / "out", {"q_1": [passage.id for passage in found.passages]})
    assert list(read_run(tmp_path / "out")) == ["q_1"]
    with pytest.raises(DataError, match=r"docs:2: document id 'a_b' occurs twice"):
        list(read_documents(write("docs", "a b\tx\na_b\ty\n")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q 0 a 1\nq 0 a 1\n", "qrels:2: query 'q': judgement of document 'a' occurs twice"),
        ("q 0 a 1\nq 0 a\n", "qrels:2: 3 columns where 4"),
        ("q 0 a b 1\n", "qrels:1: 5 columns where 3 or 4 .*part the columns by tabs"),
        ("corpus-id\tquery-id\tscore\na\tq\t1\n", "qrels:1: columns corpus-id, query-id, score; they must be query-id"),
        ("query-id\tscore\tcorpus-id\nq\t1\t7\n", "qrels:1: columns query-id, score, corpus-id; they must be"),
        ("\x00doc\t\tscore\n", r"qrels:1: columns \\x00doc, , score; they must be query-id"),
        *(
            (
                f"{first}\tscore\tcorpus-id\n",
                f"qrels:1: columns {first}, score, corpus-id; they must be query-id, corpus-id, score .or TREC's four, "
                "where no header is needed., in this order$",
            )
            for first in ("query_id", "qid", "QID")
        ),
        ("\t0\ta\t1\n", "qrels:1: a query with an empty id"),
        ("q\t0\t\t1\n", "qrels:1: a document with an empty id"),
        (
            "q a\n",
            r"qrels:1: 2 columns where 3 or 4 are expected \(query id, 0, document id, grade; BEIR's have no 0\); "
            "where ids hold spaces, part the columns by tabs$",
        ),
        ("q 0 a 1\nq 0 b 10001\n", "qrels:2: grade 10001 is beyond 10000"),
        ("q 0 a -99999999999\n", "qrels:1: grade -99999999999 is beyond"),
        ("q 0 a 2147483647\n", "qrels:1: grade 2147483647 is beyond"),
        (f"q 0 a {'9' * 5000}\n", "qrels:1: grade .* is beyond"),
        ("q 0 a 1_0\n", "qrels:1: grade '1_0' isn't a whole number"),
        ("q\ta\thigh\n", "qrels:1: grade 'high' isn't a whole number"),
        (
            "q 0 a\0b 1\n",
            r"qrels:1: the document id 'a\\x00b' holds .* a NUL, which no run file and no scorer can carry; give it "
            "another id, here and in every file that names it$",
        ),
        ("\n", "qrels:1: no judgement in it"),
        (
            "q 0 a 1.5\n",
            r"qrels:1: grade '1\.5' isn't a whole number; write 0, 1, 2\.\.\. \(a header line ends with 'score'\)$",
        ),
        ("q 0 a -10001\n", "qrels:1: .* 10000; is it a count, a time or an id\\? Write grades such as 0, 1, 2$"),
    ],
)
def test_bad_qrels(write, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_qrels(write("qrels", content))


def test_the_highest_and_the_lowest_grade(write) -> None:
    assert read_qrels(write("qrels", "q 0 a 10000\nq 0 b -10000\nq 0 c +1\n")) == {
        "q": {"a": 10000, "b": -10000, "c": 1}
    }


def test_ids_with_spaces_are_counted(write, caplog: pytest.LogCaptureFixture) -> None:
    for docs, messages in (
        ("a b\tx\nc\ty\n", ["1 ids hold spaces, which run files can't; they have _ for it from here on"]),
        (DOCS, []),
    ):
        caplog.clear()
        with caplog.at_level("INFO", "rearank.data.trec"):
            list(read_documents(path := write("docs", docs)))
        assert caplog.messages == [f"{path}: {line}" for line in messages]


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
        ("q Q0 doc 4 1 1 t\n", "run:1: 7 columns where 6 .*part the columns by tabs"),
        ("q Q0 doc 4 1 1 t\n", r"run:1: .* \(query id, Q0, document id, rank, score, tag\); where ids hold spaces, "),
        ("q\tQ0\t\t1\t1\tt\n", "run:1: a document with an empty id"),
        ("\tQ0\td\t1\t1\tt\n", "run:1: a query with an empty id"),
        ("q Q0 a\0 1 1 t\n", "run:1: the document id"),
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
    write_run(tmp_path / "run", {"q": ["b", "a"], "r": ["é"]}, "mine")
    assert (tmp_path / "run").read_bytes() == "q Q0 b 1 2 mine\nq Q0 a 2 1 mine\nr Q0 é 1 1 mine\n".encode()
    write_run(tmp_path / "run", {"q": ["b"]})
    assert (tmp_path / "run").read_text() == "q Q0 b 1 1 rearank\n"


@pytest.fixture
def collection(write) -> TrecFiles:
    return TrecFiles(write("docs", DOCS), write("topics", "q\tapples\n"), write("qrels", "q 0 d1 1\n"))


@pytest.mark.parametrize(
    ("content", "held"), [("", "it is empty"), ("q9 Q0 d1 1 2.5 t\n", "its 1 queries begin with 'q9'")]
)
def test_a_run_of_other_queries(write, collection: TrecFiles, content: str, held: str) -> None:
    with pytest.raises(DataError, match=f"run: no list for any of the 1 queries.*'q' .{held}"):
        RunFile(write("run", content)).retrieve(collection, collection.queries(), 10)


def test_run_with_an_unknown_document(write, collection: TrecFiles) -> None:
    run = RunFile(write("run", "q Q0 d1 1 2 t\nq Q0 d9 2 1 t\n"))
    with pytest.raises(DataError, match=r"run:2: document 'd9'.*same collection"):
        run.retrieve(collection, collection.queries(), 10)
    # What lies below the depth isn't asked for.
    assert run.retrieve(collection, collection.queries(), 1)["q"].passages == (Passage("d1", "red apples"),)


def test_qrels_for_absent_documents(write, collection: TrecFiles) -> None:
    qrels = write("qrels", "q 0 d1 1\nq 0 d7 1\n")
    with pytest.raises(DataError) as refused:
        collection.qrels()
    assert str(refused.value) == (
        f"{qrels}:2: document 'd7' isn't in {collection.docs} (1 judged documents are absent); set check_qrels=false "
        "if the documents are only a part of the collection"
    )
    assert TrecFiles(collection.docs, collection.topics, qrels, check_qrels=False).qrels() == {"q": {"d1": 1, "d7": 1}}


def test_unknown_passage_and_empty_collection(write, collection: TrecFiles) -> None:
    with pytest.raises(DataError, match=rf"^{collection.docs}: 1 of 2 passages .* 'd9'"):
        collection.passages(["d1", "d9"])
    assert [passage.id for passage in collection.iter_passages()] == ["d1", "d2"]
    with pytest.raises(DataError, match="no document in it"):
        TrecFiles(write("none", ""), collection.topics).passages([])


def test_several_documents_on_one_line(write) -> None:
    docs = "<DOC><DOCNO>d1</DOCNO>one</DOC> <DOC><DOCNO>d2</DOCNO>\n\ntwo X\n</DOC>\n"
    assert list(read_documents(write("docs", docs))) == [Passage("d1", "one"), Passage("d2", "two X")]


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (read_topics, "topics file"),
        (read_qrels, "judgements file"),
        (read_run, "run file"),
        (documents_by_id, "document file"),
    ],
)
def test_a_missing_file_is_named_by_what_it_is(tmp_path: Path, read: Callable[[Path], object], what: str) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path / "nowhere")
    assert str(refused.value) == f"{tmp_path / 'nowhere'}: no such {what}; give the path of an existing file"


def test_a_byte_order_mark_belongs_to_no_id(tmp_path: Path) -> None:
    """Editors begin a file with one, and files that are joined bring it along."""
    path = tmp_path / "joined.qrels"
    path.write_text("\ufeffq1 0 d1 1\n\ufeffq2 0 d1 1\n", encoding="utf-8")
    assert read_qrels(path) == {"q1": {"d1": 1}, "q2": {"d1": 1}}


def test_comments_and_a_document_type_are_no_topics(tmp_path: Path) -> None:
    path = tmp_path / "topics.xml"
    path.write_text(
        '<?xml version="1.0"?>\n<!DOCTYPE topics [\n  <!ELEMENT topic (query)>\n]>\n<topics> <!-- made by hand -->\n'
        '<!--\n<topic number="9"><query>left out</query></topic>\n-->\n'
        '<topic number="1"><query>ships</query></topic><!-- x --><topic number="2"><query>sails</query></topic>\n'
        "</topics>\n"
    )
    assert {query.text for query in read_topics(path).values()} == {"ships", "sails"}
    path.write_text("<topics>\n<!-- open\n<topic number='1'><query>ships</query></topic></topics>")
    with pytest.raises(DataError, match=r"topics\.xml:2: a comment .* never closed by -->"):
        read_topics(path)
