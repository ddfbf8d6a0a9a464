"""BM25 as in Lucene: its English analyzer (or plain words, for other languages), its formula, and an index that is
built once and memory-mapped afterwards.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Interval

from rearank.checks import check_fields
from rearank.data.analyzer import ANALYZER_VERSION, WORDS_VERSION, english_analyzer, word_analyzer
from rearank.data.base import Collection, DataError, assemble, check_depth
from rearank.runs import INCIDENTAL
from rearank.runs.seal import damaged, seal
from rearank.types import Candidates, Query

if TYPE_CHECKING:
    import numpy as np

_IDS_FILE = "ids.json"
_WORTH_COMPILING = 40_000_000  # passages scored: numpy takes about as long for them as numba to compile
_SPARE_PLACES = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bm25:
    """First stage: BM25 over title and text.

    The index lies under ``cache_dir`` by a hash of the passages, the analyzer and the parameters, so that a changed
    collection never meets an old index. Equal scores are ordered as the collection is, as Lucene does: runs repeat
    exactly. ``backend``: ``auto`` takes numba where it is installed (extra ``fast``) and there is so much to score that
    its compilation, some six seconds, pays; numpy otherwise. ``analyzer``: ``english`` as Lucene's, ``words`` for
    any language, ``auto`` by the benchmark's language (English where none is given).
    """

    k1: Annotated[float, Ge(0)] = 0.9
    b: Annotated[float, Interval(ge=0, le=1)] = 0.4
    cache_dir: str = field(default="outputs/cache", metadata=INCIDENTAL)
    backend: Literal["auto", "numpy", "numba"] = field(default="auto", metadata=INCIDENTAL)
    analyzer: Literal["auto", "english", "words"] = "auto"

    def __post_init__(self) -> None:
        check_fields(self)

    def fitted(self, index: str, language: str) -> Bm25:
        """With the analyzer for ``language``, where it isn't chosen."""
        if self.analyzer != "auto":
            return self
        return replace(self, analyzer="english" if language == "en" else "words")

    def retrieve(self, collection: Collection, queries: Mapping[str, Query], depth: int) -> dict[str, Candidates]:
        return assemble(collection, queries, self.search(collection, queries, depth))

    def search(
        self, collection: Collection, queries: Mapping[str, Query], depth: int
    ) -> dict[str, list[tuple[str, float]]]:
        """Query id -> (passage id, score), best first: the ranking alone, no text is looked up."""
        check_depth(depth)
        analyze, _ = self._analyzer()
        index, ids = self._index(collection, analyze)
        index.backend = self._engine(len(ids) * len(queries))
        vocabulary = index.vocab_dict
        tokens = [[int(vocabulary[t]) for t in analyze(query.text) if t in vocabulary] for query in queries.values()]
        found = _ranked(index, tokens, depth)
        return {
            qid: list(zip(map(ids.__getitem__, positions), scores, strict=True))
            for qid, (positions, scores) in zip(queries, found, strict=True)
        }

    def index_folder(self, collection: Collection) -> Path:
        """Where the index of ``collection`` is kept."""
        from importlib.metadata import version

        _, analysis = self._analyzer()
        key = "\n".join((collection.fingerprint(), analysis, repr(self.k1), repr(self.b), version("bm25s")))
        return Path(self.cache_dir) / f"bm25-{hashlib.sha256(key.encode()).hexdigest()[:20]}"

    def _analyzer(self) -> tuple[Callable[[str], list[str]], str]:
        """What makes tokens of a text, and the name of what it makes."""
        words = self.analyzer == "words"
        return (word_analyzer(), WORDS_VERSION) if words else (english_analyzer(), ANALYZER_VERSION)

    def _index(self, collection: Collection, analyze: Callable[[str], list[str]]) -> tuple[Any, list[str]]:
        bm25s = _bm25s()
        folder = self.index_folder(collection)
        if not (folder / _IDS_FILE).is_file():
            self._build(collection, analyze, folder)
        elif wrong := damaged(folder, Path(self.cache_dir)):  # whose numbers would be as wrong
            _log.warning("%s; the index is built again", wrong[0])
            shutil.rmtree(folder)
            self._build(collection, analyze, folder)
        # Memory-mapped: a large index costs what its queries touch.
        try:
            index = bm25s.BM25.load(str(folder), mmap=True, show_progress=False, override_params={"backend": "numpy"})
            return index, json.loads((folder / _IDS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, EOFError) as error:  # of an earlier version, which sealed none
            raise DataError(
                f"{folder}: the index can't be read ({error}); delete this folder, and the next command builds it again"
            ) from error

    def _build(self, collection: Collection, analyze: Callable[[str], list[str]], folder: Path) -> None:
        bm25s = _bm25s()
        vocabulary: defaultdict[str, int] = defaultdict()
        vocabulary.default_factory = vocabulary.__len__  # a new token gets the next number
        ids, rows = [], []
        for passage in collection.iter_passages():
            tokens = analyze(f"{passage.title} {passage.text}" if passage.title else passage.text)
            rows.append(list(map(vocabulary.__getitem__, tokens)))
            ids.append(passage.id)
        if not ids:
            raise DataError(f"{collection.name}: the collection is empty; check the path of its documents")
        if not vocabulary:
            raise DataError(f"{collection.name}: no passage has a word in it; check the text field and the analyzer")
        index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene", backend="numpy")
        index.index((rows, dict(vocabulary)), show_progress=False)
        # Built next to its place and moved there whole: a killed run leaves no half index behind.
        part = folder.with_name(f".{folder.name}.{os.getpid()}")
        part.mkdir(parents=True, exist_ok=True)
        index.save(str(part), show_progress=False)
        (part / _IDS_FILE).write_text(json.dumps(ids), encoding="utf-8")
        seal(part, sorted(path.name for path in part.iterdir()))
        if folder.exists() and not (folder / _IDS_FILE).is_file():
            shutil.rmtree(folder)  # a part of an index: without its ids it would stay in the way
        try:
            part.replace(folder)
        except OSError:
            if not (folder / _IDS_FILE).is_file():
                raise
            shutil.rmtree(part)  # another process was faster

    def _engine(self, scored: int) -> str:
        """The backend for a search that scores so many passages, all queries together."""
        from importlib.util import find_spec

        if self.backend == "auto":
            return "numba" if scored > _WORTH_COMPILING and find_spec("numba") else "numpy"
        return self.backend


def _bm25s() -> Any:
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells its inner steps at DEBUG, unasked
    return bm25s


def _ranked(index: Any, tokens: list[list[int]], depth: int) -> list[tuple[list[int], list[float]]]:
    """Positions and scores for each query's tokens.

    numba ranks all queries in compiled code but breaks ties anyhow. A few places more than asked show whether all
    passages that tie with the last place are there; if not the query is ranked again, deeper.
    """
    found: list[tuple[list[int], list[float]]] = [([], []) for _ in tokens]
    open_ = [number for number, row in enumerate(tokens) if row]
    documents, k = int(index.scores["num_docs"]), depth + _SPARE_PLACES
    while open_ and index.backend == "numba" and k < documents:
        deeper = []
        ranked = index.retrieve([tokens[number] for number in open_], k=k, show_progress=False)
        for number, positions, values in zip(open_, ranked.documents, ranked.scores, strict=True):
            if values[-1] > 0 and values[-1] == values[depth - 1]:
                deeper.append(number)
            else:
                found[number] = _in_order(positions, values, depth)
        open_, k = deeper, k * 4
    for number in open_:
        found[number] = best(index.get_scores(tokens[number]), depth)
    return found


def _in_order(
    positions: np.ndarray[Any, Any], values: np.ndarray[Any, Any], depth: int
) -> tuple[list[int], list[float]]:
    """The first ``depth`` of what scored above zero, by falling score, ties by position."""
    import numpy as np

    order = np.lexsort((positions, -values))[: min(depth, np.count_nonzero(values > 0))]
    return positions[order].tolist(), values[order].tolist()


def best(scores: np.ndarray[Any, Any], depth: int) -> tuple[list[int], list[float]]:
    """Positions and values of the ``depth`` highest positive scores; ties by position.

    Only what matched is sorted: most passages of a large collection share no word with the query.
    """
    import numpy as np

    hits = np.flatnonzero(scores > 0)
    if len(hits) > depth:
        found = scores[hits]
        least = np.partition(found, len(found) - depth)[len(found) - depth]
        hits = hits[found >= least]
    return _in_order(hits, scores[hits], depth)
