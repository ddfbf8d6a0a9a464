"""Files that would keep a reader busy or fill the memory: time that grows with the size, bounded lines and messages."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rearank.data import DataError, files
from rearank.data.rankllm import read_candidates
from rearank.data.topics import read_topics
from rearank.data.trec import read_documents, read_qrels, read_run
from rearank.types import Passage, Query


def documents(path: Path) -> list[Passage]:
    return list(read_documents(path))


def seconds(read: Callable[[Path], Any], path: Path, content: str) -> float:
    """The least of three times: what else this machine does only adds to it."""
    path.write_text(content)
    taken = []
    for _ in range(3):
        began = time.process_time()
        with suppress(DataError):
            read(path)
        taken.append(time.process_time() - began)
    return min(taken)


@pytest.mark.parametrize(
    ("read", "made"),
    [
        (documents, lambda n: f"<DOC><DOCNO>{' ' * n}</DOC>"),
        (documents, lambda n: f"<DOC><DOCNO>{' ' * n}x{' ' * n}</DOC>"),
        (documents, lambda n: f"<DOC>{'<DOCNO>' * n}</DOC>"),
        (documents, lambda n: f"<DOC><DOCNO>1</DOCNO>{'<TITLE>' * n}</DOC>"),
        (documents, lambda n: f"<DOC><DOCNO>1</DOCNO>{'<TITLE>a</HEADLINE>' * n}</DOC>"),
        (documents, lambda n: "".join(f"<DOC><DOCNO>{i}</DOCNO></DOC>" for i in range(n))),
        (documents, lambda n: f"<DOC><DOCNO>1</DOCNO>{'<![CDATA[' * n}</DOC>"),
        (documents, lambda n: f"<DOC><DOCNO>1</DOCNO>{'<a' * n}</DOC>"),
        (documents, lambda n: f"<DOC><DOCNO>1</DOCNO>{'&#' * n}</DOC>"),
        (read_topics, lambda n: f"<top><num>{' ' * n}</top>"),
        (read_topics, lambda n: f"<top><num>Number:{' ' * n}</top>"),
        (read_topics, lambda n: f"<top><num>1<{'a' * n}</top>"),
        (read_topics, lambda n: f"<top><num>1{'<title>' * n}</top>"),
        (read_topics, lambda n: f"<top id{' ' * n}><title>a</top>"),
        (read_topics, lambda n: "".join(f"<top><num>{i}<title>a</top>" for i in range(n))),
    ],
    ids=[
        "docno and spaces",
        "docno within spaces",
        "docnos",
        "titles",
        "titles with other ends",
        "documents on a line",
        "cdata",
        "open tags",
        "references",
        "num and spaces",
        "number and spaces",
        "open tag",
        "titles of topics",
        "attributes",
        "topics on a line",
    ],
)
def test_the_time_grows_with_the_size(tmp_path: Path, read: Callable[[Path], Any], made: Callable[[int], str]) -> None:
    size = 4_000
    path = tmp_path / "file"
    first = seconds(read, path, made(size))
    # Eight times as much takes 8 times as long where time is linear, and 64 times where it is quadratic.
    assert seconds(read, path, made(8 * size)) < 24 * first + 0.02


def test_a_document_is_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "docs"
    path.write_text(
        "<root><DOC><docno>\n d1 \n</docno><HEADLINE>a <b>B</b></headline><TITLE>t</TITLE>x\n\ny</DOC><DOC id='2'>"
        "<TITLE>open <DOCNO>d2</DOCNO><HEADLINE>h</HEADLINE> z</DOC>\n</root>"
    )
    assert documents(path) == [Passage("d1", "t x\n\ny", "a  B"), Passage("d2", "open  z", "h")]
    path.write_text("<DOC><DOCNO>d1</DOCNO><TITLE>a title alone</TITLE>x</DOC>")
    assert documents(path) == [Passage("d1", "x", "a title alone")]
    topics = tmp_path / "topics"
    topics.write_text("<top><num> Number: 7 <title> Topic: a</top><top><num>\n8</num><title>b</top>")
    assert read_topics(topics) == {"7": Query("7", "a"), "8": Query("8", "b")}


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    packed = tmp_path / "docs.gz"
    with gzip.open(packed, "wb") as out:
        out.write(b"d1\ta\n")
        for _ in range(300):
            out.write(b"a" * 1_000_000)
    assert packed.stat().st_size < 400_000
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"docs\.gz:2: the line is longer than 64 MiB; .* a line of its own"):
            documents(packed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150 << 20


def test_lines_and_records_up_to_the_bound_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LONGEST_LINE", 1000)
    path = tmp_path / "docs"
    path.write_text("d1\t" + "a" * 996 + "\nd2\tb")
    assert [len(passage.text) for passage in documents(path)] == [996, 1]
    path.write_text("d1\tb\nd2\t" + "a" * 997 + "\n")
    with pytest.raises(DataError, match=r"docs:2: the line is longer"):
        documents(path)
    few, many = "\nred" * 5, "\nred" * 50
    path.write_text(f"<DOC><DOCNO>d1</DOCNO>{few}</DOC>\n<DOC><DOCNO>d2</DOCNO>{few}</DOC>\n")
    assert len(documents(path)) == 2
    for inside in (many, "\n" * 50):
        path.write_text(f"<DOC><DOCNO>d1</DOCNO>{few}</DOC>\n<DOC><DOCNO>d2</DOCNO>{inside}</DOC>\n")
        with pytest.raises(DataError, match=r"docs:7: the content of <DOC> is longer"):
            documents(path)


LONG = "x" * 300_000


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_run, f"q Q0 d 1 {LONG} t\n", "run:1: rank '1' or score 'xx"),
        (read_run, f"q Q0 d {LONG} 1 t\n", "run:1: rank 'xx.* isn't a number"),
        (read_run, f"q Q0 d 1 -{'9' * 5000} t\n", "run:1: score '-99.* can't be ordered"),
        (read_run, f"{LONG} Q0 d 1 1 t\n" * 2, "run:2: query 'xx.* occurs twice; keep one"),
        (read_run, f"q Q0 d\0{LONG} 1 1 t\n", "run:1: the document id 'd.*in every file that names it"),
        (read_qrels, f"q 0 d {LONG}\n", "run:1: grade 'xx.* isn't a whole number"),
        (read_qrels, f"doc{LONG} q score\n", "run:1: columns docxx.*in this order"),
        (documents, f"{LONG}\ta\n" * 2, "run:2: document id 'xx.* occurs twice; keep one"),
        (read_topics, f"{LONG}\t\n", "run:1: query 'xx.* has no text"),
        (read_topics, f"<top><num>1<{LONG}>a</top>", "run:1: a topic without .* rename the one"),
        (read_topics, "<top><num>1" + "".join(f"<a{n}>" for n in range(50_000)), "run:1: <top> is never closed"),
        (read_candidates, json.dumps({"query": {"qid": "1", "text": "q"}, "hits": LONG}), "run:1: no list"),
        (
            read_candidates,
            json.dumps({"query": {"qid": "1", "text": "q"}, "hits": [{"docid": LONG, "doc": 1}]}),
            "run:1: doc of 'xx.* must be a text",
        ),
        *(
            (
                read_candidates,
                json.dumps({"query": {"qid": "1", "text": "q"}, "hits": [{"docid": "a", "doc": "b", "score": score}]}),
                rf"run:1: score {start}.* isn't a finite number",
            )
            for score, start in ((LONG, "'xx"), ([LONG], "of type list"), (10**400, "1000"))
        ),
    ],
)
def test_a_message_repeats_the_beginning_of_what_is_long(
    tmp_path: Path, read: Callable[[Path], Any], content: str, message: str
) -> None:
    path = tmp_path / "run"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as refused:
        read(path)
    assert len(str(refused.value)) < len(str(path)) + 500


def test_any_message_about_data_is_bounded() -> None:
    assert str(DataError("docs:1: short")) == "docs:1: short"
    message = str(DataError(f"docs:1: {LONG}; write it anew"))
    assert len(message) < 2100
    assert message.startswith("docs:1: xx")
    assert message.endswith("xx; write it anew")


@pytest.mark.parametrize("title", [{"x": 1}, ["a"], [], 1.5, float("nan"), True, False])
def test_a_title_that_is_no_text_is_refused(tmp_path: Path, title: Any) -> None:
    path = tmp_path / "docs"
    path.write_text('{"_id": "0", "text": "a"}\n' + json.dumps({"_id": "1", "text": "a", "title": title}))
    with pytest.raises(DataError, match=r"docs:2: the title is .*; write a text, or null"):
        documents(path)


def test_titles_are_texts_numbers_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "docs"
    rows = [{"_id": str(n), "text": "a", "title": title} for n, title in enumerate(["t", "", None, 1984, 0])]
    path.write_text("\n".join(json.dumps(row) for row in [*rows, {"_id": "9", "text": "a"}]))
    assert [passage.title for passage in documents(path)] == ["t", "", "", "1984", "0", ""]


def test_a_reference_to_a_character_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "docs"
    for digits in ("9" * 10, "9" * 4000, "9" * 5000, "9" * 100_000):
        path.write_text(f"<DOC><DOCNO>1</DOCNO>a &#{digits}; &#65; b</DOC>")
        assert documents(path) == [Passage("1", "a \ufffd A b")], len(digits)
