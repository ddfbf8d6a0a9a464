"""Analyzer and BM25: documents and queries a second, compared with bm25s with its own tokenizer and its own search.

Indexing is text -> index on disk, searching is index on disk and query text -> the best 100, on both sides, with the
same backend. bm25s's tokenizer runs as it comes: its own regular expression and stopwords, no stemmer; a stemmer would
only slow it down.
"""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common import Result, in_turns, seconds, words

from rearank.data.analyzer import EnglishAnalyzer, english_analyzer
from rearank.data.bm25 import Bm25
from rearank.types import Passage, Query

DOCUMENTS, QUERIES, DEPTH, VOCABULARY = 60_000, 1000, 100, 50_000
INDEX_BAR, SEARCH_BAR = 2.0, 1.2


@dataclass(frozen=True)
class InMemory:
    """A collection of texts made up from a seed; ``name`` is also its fingerprint."""

    name: str
    texts: dict[str, Passage]

    def queries(self) -> dict[str, Query]:
        return {}

    def qrels(self) -> dict[str, dict[str, int]]:
        return {}

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        return {i: self.texts[i] for i in ids}

    def iter_passages(self) -> Iterator[Passage]:
        return iter(self.texts.values())

    def fingerprint(self) -> str:
        return self.name


def bm25s_index(collection: InMemory, folder: Path) -> None:
    import bm25s

    texts = [passage.text for passage in collection.iter_passages()]
    index = bm25s.BM25(k1=0.9, b=0.4, method="lucene", backend="auto")
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    index.save(str(folder), show_progress=False)
    (folder / "ids.json").write_text(json.dumps(list(collection.texts)), encoding="utf-8")


def bm25s_search(texts: list[str], folder: Path) -> int:
    import bm25s

    index = bm25s.BM25.load(str(folder), mmap=True, show_progress=False, override_params={"backend": "auto"})
    ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    tokens = bm25s.tokenize(texts, show_progress=False)
    return len(index.retrieve(tokens, corpus=ids, k=DEPTH, show_progress=False).documents)


def index_cold(collection: InMemory, queries: dict[str, Query], folder: Path) -> None:
    """With no word stemmed before, as a first run finds it."""
    english_analyzer.cache_clear()
    Bm25(cache_dir=str(folder)).search(collection, queries, DEPTH)


def run() -> list[Result]:
    import bm25s

    draw = random.Random(0)
    made = (Passage(f"d{i}", words(draw.randint(30, 80), VOCABULARY, draw.random)) for i in range(DOCUMENTS))
    collection = InMemory("performance", {passage.id: passage for passage in made})
    texts = [passage.text for passage in collection.iter_passages()]
    queries = {f"q{i}": Query(f"q{i}", words(6, VOCABULARY, draw.random)) for i in range(QUERIES)}
    one = dict(itertools.islice(queries.items(), 1))
    asked = [query.text for query in queries.values()]
    with tempfile.TemporaryDirectory() as folder:
        caches = (Path(folder) / f"cache-{i}" for i in itertools.count())
        kept, plain = Path(folder) / "kept", Path(folder) / "bm25s"
        searcher = Bm25(cache_dir=str(kept), backend="numba")  # as theirs, and what auto takes for a large run
        searcher.search(collection, one, DEPTH)  # builds the index that is searched, and compiles
        bm25s_index(collection, plain)
        bm25s_search(asked[:1], plain)
        analyzing, _ = seconds(lambda: list(map(EnglishAnalyzer(), texts)))
        tokenizing, _ = seconds(lambda: bm25s.tokenize(texts, show_progress=False))
        indexing, their_indexing = in_turns(
            lambda: index_cold(collection, one, next(caches)),
            lambda: bm25s_index(collection, next(caches)),
        )
        searching, their_searching = in_turns(
            lambda: searcher.search(collection, queries, DEPTH), lambda: bm25s_search(asked, plain)
        )
    slower_index, slower_search = indexing / their_indexing, searching / their_searching
    return [
        Result("analyzer", "Lucene's English analyzer", DOCUMENTS / analyzing, "docs/s"),
        Result("analyzer", "bm25s's own tokenizer, no stemmer", DOCUMENTS / tokenizing, "docs/s"),
        Result("bm25", "indexing", DOCUMENTS / indexing, "docs/s"),
        Result("bm25", "indexing, bm25s", DOCUMENTS / their_indexing, "docs/s"),
        Result("bm25", "indexing time over bm25s's", slower_index, "x", "at most 2", slower_index <= INDEX_BAR),
        Result("bm25", "search", QUERIES / searching, "queries/s"),
        Result("bm25", "search, bm25s", QUERIES / their_searching, "queries/s"),
        Result("bm25", "search time over bm25s's", slower_search, "x", "at most 1.2", slower_search <= SEARCH_BAR),
    ]
