"""The analyzer's tokens, and BM25's order, cache and empty cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rearank.data.analyzer import EnglishAnalyzer, WordAnalyzer
from rearank.data.base import DataError
from rearank.data.bm25 import Bm25, best
from rearank.data.trec import TrecFiles
from rearank.types import Query


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The dog's running, the cats ran!", ["dog", "run", "cat", "ran"]),
        ("vitamin C and O’Neill’s U.S.A. 3.14 e-mail", ["vitamin", "c", "o’neil", "u.s.a", "3.14", "e", "mail"]),
        ("中文 _ -- …", ["中", "文"]),
        ("to be or not", []),
        ("x" * 256, ["x" * 255, "x"]),
    ],
)
def test_tokens_are_lucenes(text: str, tokens: list[str]) -> None:
    assert EnglishAnalyzer()(text) == tokens


@pytest.fixture
def collection(tmp_path: Path) -> TrecFiles:
    docs, topics = tmp_path / "docs", tmp_path / "topics"
    docs.write_text("z\tapples and pears\na\tapples and pears\nm\tapples\nn\tnothing else\n")
    topics.write_text("q\tapple\nnone\tzebra\nstop\tto be\n")
    return TrecFiles(str(docs), str(topics))


def test_ranks_and_breaks_ties_as_the_collection_is_ordered(collection: TrecFiles, tmp_path: Path) -> None:
    bm25 = Bm25(cache_dir=str(tmp_path / "cache"))
    found = bm25.retrieve(collection, collection.queries(), 10)
    assert [p.id for p in found["q"].passages] == ["m", "z", "a"]
    assert found["none"].passages == found["stop"].passages == ()
    top = bm25.retrieve(collection, collection.queries(), 2)
    assert [p.id for p in top["q"].passages] == ["m", "z"]


def test_index_is_built_once_and_follows_content(
    collection: TrecFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bm25 = Bm25(cache_dir=str(tmp_path / "cache"))
    first = bm25.retrieve(collection, collection.queries(), 5)
    assert (bm25.index_folder(collection) / "ids.json").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(Bm25, "_build", lambda *_: pytest.fail("built twice"))
        assert bm25.retrieve(collection, collection.queries(), 5) == first
    assert replace(bm25, b=0.5).index_folder(collection) != bm25.index_folder(collection)
    Path(collection.docs).write_text("x\tapple\n")
    changed = TrecFiles(collection.docs, collection.topics)
    assert [p.id for p in bm25.retrieve(changed, {"q": Query("q", "apples")}, 5)["q"].passages] == ["x"]
    assert not list((tmp_path / "cache").glob(".bm25*"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink])
def test_a_damaged_index_is_built_again(
    damage: Callable[[Path], None], collection: TrecFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another byte in it would be another score, without a word."""
    bm25, queries = Bm25(cache_dir=str(tmp_path / "cache")), {"q": Query("q", "apples and pears")}
    right = bm25.search(collection, queries, 10)
    assert [one for one, _ in right["q"]] == ["z", "a", "m"]
    folder = bm25.index_folder(collection)
    names = sorted(path.name for path in folder.iterdir())
    assert {"ids.json", "data.csc.index.npy", "sealed.json"} < set(names)
    removed = damage is Path.unlink
    for name in names:
        if removed and name == "sealed.json":  # an index of an earlier version
            continue
        caplog.clear()
        damage(folder / name)
        assert bm25.search(collection, queries, 10) == right
        assert name in caplog.text or (removed and name == "ids.json")
        assert sorted(path.name for path in folder.iterdir()) == names


def test_a_damaged_index_of_an_earlier_version_is_named(collection: TrecFiles, tmp_path: Path) -> None:
    bm25 = Bm25(cache_dir=str(tmp_path / "cache"))
    bm25.search(collection, {}, 10)
    folder = bm25.index_folder(collection)
    (folder / "sealed.json").unlink()
    bm25.search(collection, {}, 10)
    _cut(folder / "ids.json")
    with pytest.raises(DataError, match=rf"{folder}: the index can't be read .*; delete this folder"):
        bm25.search(collection, {}, 10)


def test_best_equals_a_full_stable_sort() -> None:
    scores = np.random.default_rng(0).integers(0, 6, 400).astype(np.float32)
    order = [i for i in np.argsort(-scores, kind="stable") if scores[i] > 0]
    for depth in (1, 7, 100, 1000):
        assert best(scores, depth)[0] == order[:depth]


def test_bad_parameters_and_empty_collections(collection: TrecFiles, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="b must be at least 0 and at most 1"):
        Bm25(b=2)
    with pytest.raises(ValueError, match="k1 must not be negative"):
        Bm25(k1=-1)
    with pytest.raises(ValueError, match="depth must be"):
        Bm25().retrieve(collection, {}, 0)
    bm25 = Bm25(cache_dir=str(tmp_path))
    Path(collection.docs).write_text("")
    with pytest.raises(DataError, match="no document in it"):
        bm25.retrieve(collection, {"q": Query("q", "a")}, 5)
    Path(collection.docs).write_text("d\t--\n")
    with pytest.raises(DataError, match="no passage has a word in it"):
        bm25.retrieve(TrecFiles(collection.docs, collection.topics), {"q": Query("q", "a")}, 5)


@pytest.mark.parametrize("depth", [1, 5, 40, 500])
def test_numba_ranks_as_numpy_does(tmp_path: Path, depth: int) -> None:
    pytest.importorskip("numba")
    draw = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(30)]
    docs, topics = tmp_path / "docs", tmp_path / "topics"
    # Short texts of few words: many passages have equal scores.
    docs.write_text("".join(f"d{i}\t{' '.join(draw.choice(vocabulary, 3))}\n" for i in range(400)))
    topics.write_text("".join(f"q{i}\t{' '.join(draw.choice(vocabulary, 2))}\n" for i in range(40)) + "none\tzebra\n")
    collection = TrecFiles(str(docs), str(topics))
    numpy, numba = (Bm25(cache_dir=str(tmp_path / "cache"), backend=name) for name in ("numpy", "numba"))  # type: ignore[arg-type]
    found = numba.search(collection, collection.queries(), depth)
    assert found == numpy.search(collection, collection.queries(), depth)
    assert found["none"] == []
    assert max(map(len, found.values())) <= depth


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The Cat's running", ["the", "cat", "s", "running"]),
        ("Mikä on HEDELMÄ?", ["mikä", "on", "hedelmä"]),
        ("বাংলা ভাষা", ["বাংলা", "ভাষা"]),  # vowel signs stay with their letters
        ("東京タワー 2020年", ["東京", "京タ", "タワ", "ワー", "2020", "年"]),
        ("ไทย", ["ไท", "ทย"]),
        ("ﾊﾝｶｸ", ["ハン", "ンカ", "カク"]),  # half-width forms are the same word
        ("대한민국의 수도", ["대한민국의", "수도"]),
        ("--", []),
    ],
)
def test_words_of_any_language(text: str, tokens: list[str]) -> None:
    assert WordAnalyzer()(text) == tokens


def test_the_analyzer_follows_the_language(collection: TrecFiles, tmp_path: Path) -> None:
    bm25 = Bm25(cache_dir=str(tmp_path / "cache"))
    english, words = bm25.fitted("", "en"), bm25.fitted("", "fi")
    assert (english.analyzer, words.analyzer) == ("english", "words")
    assert replace(bm25, analyzer="words").fitted("", "en").analyzer == "words"
    assert bm25.index_folder(collection) == english.index_folder(collection) != words.index_folder(collection)
    with pytest.raises(ValueError, match="analyzer must be 'auto' or 'english' or 'words'"):
        Bm25(analyzer="finnish")  # type: ignore[arg-type]
