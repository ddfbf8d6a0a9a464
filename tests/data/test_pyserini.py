"""Pyserini as a first stage: how it is called, and what is said where it can't be.

The real one needs Java 21 and an index to download. Here stands a package of the same name with the calls that are
used, and with their signatures in Pyserini 1.6: Lucene's own ranking isn't tested by this.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rearank.data import DataError, Fits, Retriever
from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.data.pyserini import Pyserini
from rearank.data.trec import TrecFiles

PACKAGE = """
calls = []

class Hit:
    def __init__(self, docid, score):
        self.docid, self.score = docid, score

class LuceneSearcher:
    @classmethod
    def from_prebuilt_index(cls, prebuilt_index_name, verbose=False):
        calls.append(("open", prebuilt_index_name))
        if prebuilt_index_name == "broken":
            raise Exception("JVM exception occurred: no such file\\nstack")
        return cls() if prebuilt_index_name.startswith("known") else None

    def set_bm25(self, k1=0.9, b=0.4):
        calls.append(("bm25", k1, b))

    def set_language(self, language):
        calls.append(("language", language))

    def batch_search(self, queries, qids, k=10, threads=1, query_generator=None, fields=dict()):
        calls.append(("search", queries, qids, k, threads))
        ranked = [Hit("d 2", 3.5), Hit("d1", 3.5), Hit("d3", 1.0)][:k]
        return {qid: ranked if qid == "1" else [] for qid in qids}
"""


@pytest.fixture
def trec(tmp_path: Path) -> TrecFiles:
    (tmp_path / "docs").write_text("d1\tone\nd_2\ttwo\nd3\tthree\n")
    (tmp_path / "topics").write_text("1\tfirst\n2\tsecond\n")
    (tmp_path / "qrels").write_text("1 0 d1 1\n2 0 d3 1\n")
    return TrecFiles(*(str(tmp_path / name) for name in ("docs", "topics", "qrels")))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable ``pyserini``, and a Java by name."""
    folder = tmp_path / "packages" / "pyserini" / "search"
    folder.mkdir(parents=True)
    for place in (folder, folder.parent):
        (place / "__init__.py").write_text("")
    (folder / "lucene.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setenv("JAVA_HOME", "somewhere")
    for name in [n for n in sys.modules if n.split(".")[0] == "pyserini"]:
        monkeypatch.delitem(sys.modules, name)
    return folder


@pytest.mark.usefixtures("package")
def test_the_benchmarks_index_is_asked_in_the_benchmarks_language(trec: TrecFiles) -> None:
    first = Pyserini(threads=2)
    assert isinstance(first, Retriever)
    assert isinstance(first, Fits)
    benchmark = Benchmark("b", trec, first, depth=2, lucene_index="known-index", language="th")
    assert benchmark.preflight() == []
    one, other = benchmark.judged()
    # The hits' order is kept where scores tie, and an id's space becomes what the collection's is.
    assert [p.id for p in one.candidates.passages] == ["d_2", "d1"]
    assert one.candidates.scores == (3.5, 3.5)
    assert other.candidates.passages == ()
    from pyserini.search import lucene  # type: ignore[import-not-found]

    assert lucene.calls == [
        ("open", "known-index"),
        ("bm25", 0.9, 0.4),
        ("language", "th"),
        ("search", ["first", "second"], ["1", "2"], 2, 2),
    ]


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("first", "index", "message"),
    [
        (Pyserini(), "", r"trec: no prebuilt index is known for it; .*retriever\.index="),
        (Pyserini(index="typo"), "known", "Pyserini has no prebuilt index 'typo'"),
        (Pyserini(), "broken", "can't open 'broken' .*JVM exception occurred: no such file.*Java 21"),
    ],
)
def test_an_index_that_cant_be_opened(trec: TrecFiles, first: Pyserini, index: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Benchmark("b", trec, first, lucene_index=index).judged()


def test_without_java_or_without_the_package(trec: TrecFiles, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", "")
    benchmark = Benchmark("b", trec, Pyserini(), lucene_index="known")
    assert "no Java here" in benchmark.preflight()[0]
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(package.parents[1])])
    sys.path_importer_cache.clear()
    (lacking,) = benchmark.preflight()
    assert "the package pyserini is missing; pip install 'rearank[pyserini]'" in lacking
    with pytest.raises(DataError, match="pip install"):
        benchmark.judged()
    # In a list it is left out, as long as one member can be measured.
    able = Benchmark("able", trec, Able())
    assert BenchmarkList("l", {"a": benchmark, "b": able}).preflight() == []
    assert BenchmarkList("l", {"a": benchmark}).preflight() == [lacking]


class Able:
    """Needs nothing."""


def test_bad_parameters_name_themselves() -> None:
    with pytest.raises(ValueError, match="threads must be at least 1"):
        Pyserini(threads=0)
