"""The built-in collection: readable, deterministic, honest splits, and hard enough for BM25."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path

import pytest

from rearank.data import Collection, DataError
from rearank.data.analyzer import EnglishAnalyzer
from rearank.data.bm25 import Bm25
from rearank.data.source import Source
from rearank.data.synthetic import Style, SyntheticCollection, lexicon, triples
from rearank.metrics import ndcg

SPLITS = ("train", "dev", "test")
STYLES: tuple[Style, ...] = ("terse", "essay")
both_styles = pytest.mark.parametrize("style", STYLES)


def test_the_word_lists_are_120_concepts_of_two_words() -> None:
    words = lexicon()
    assert [len(pairs) for pairs in words.topics.values()] == [8] * 15
    assert len(words.concept_of) == 240
    assert len(set(words.fillers)) == len(words.fillers)
    assert not set(words.fillers) & set(words.concept_of)


def test_every_word_has_a_stem_of_its_own() -> None:
    analyze = EnglishAnalyzer()
    words = [*lexicon().concept_of, *lexicon().fillers]
    stems = [tuple(analyze(word)) for word in words]
    assert all(len(stem) == 1 for stem in stems), "a stop word can't be searched for"
    assert len(set(stems)) == len(words), "BM25 would take two concepts for one"


def test_splits_share_no_concept_triple_whatever_the_seed() -> None:
    sets = [{frozenset(triple) for triple in triples(split)} for split in SPLITS]
    assert [len(found) for found in sets] == [440, 80, 320]
    assert len(set(chain.from_iterable(sets))) == 840
    concept_of = lexicon().concept_of
    for seed in (1, 2):
        for split, known in zip(SPLITS, sets, strict=True):
            queries = SyntheticCollection(seed=seed, split=split).queries().values()  # type: ignore[arg-type]
            assert {frozenset(concept_of[word] for word in query.text.split()) for query in queries} == known


@both_styles
def test_a_grade_is_the_number_of_distinct_concepts_mentioned(style: Style) -> None:
    collection = SyntheticCollection(passage_count=300, query_count=20, style=style)
    concept_of = lexicon().concept_of
    for qid, query in collection.queries().items():
        wanted = {concept_of[word] for word in query.text.split()}
        grades = collection.qrels()[qid]
        for passage in collection.iter_passages():
            mentioned = {concept_of.get(word) for word in passage.text.split()}
            assert grades.get(passage.id, 0) == len(wanted & mentioned)


@both_styles
def test_equal_seeds_write_equal_collections(style: Style) -> None:
    first, again, other = (SyntheticCollection(seed=seed, style=style) for seed in (3, 3, 4))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert first.queries() == again.queries() != other.queries()
    assert first.qrels() == again.qrels()
    assert first.fingerprint() == SyntheticCollection(seed=3, split="train", style=style).fingerprint()


@pytest.mark.parametrize(
    ("style", "passages", "asked"),
    [("terse", "6ced7f1ea457621e", "0ff7d38c147a5d4c"), ("essay", "696824833cae180c", "4c1fab95b3d0405d")],
)
def test_a_collection_never_changes_unnoticed(style: Style, passages: str, asked: str) -> None:
    """The shipped checkpoint and published figures were made with them."""
    collections = [SyntheticCollection(split=split, style=style) for split in SPLITS]  # type: ignore[arg-type]
    assert {collection.fingerprint()[:16] for collection in collections} == {passages}
    written = repr([(collection.queries(), collection.qrels()) for collection in collections])
    assert hashlib.sha256(written.encode()).hexdigest()[:16] == asked


def test_terse_is_the_default() -> None:
    assert SyntheticCollection() == SyntheticCollection(style="terse")


def test_styles_ask_about_the_same_concepts_and_share_no_text_and_no_index(tmp_path: Path) -> None:
    terse, essay = (SyntheticCollection(split="dev", style=style) for style in STYLES)
    assert terse.queries().keys() == essay.queries().keys()
    concept_of = lexicon().concept_of
    worded_alike = 0
    for qid, query in terse.queries().items():
        other = essay.queries()[qid]
        assert {concept_of[w] for w in query.text.split()} == {concept_of[w] for w in other.text.split()}
        worded_alike += query.text == other.text
    assert worded_alike < 8
    assert not {p.text for p in terse.iter_passages()} & {p.text for p in essay.iter_passages()}
    bm25 = Bm25(cache_dir=str(tmp_path))
    assert bm25.index_folder(terse) != bm25.index_folder(essay)


def second_words_and_sameness(style: Style) -> tuple[float, float]:
    """Share of mentions by a concept's second word, and of adjacent mentions that come from one vocabulary."""
    second = {pair[1] for pair in lexicon().words_of.values()}
    vocabulary, alike = Counter[bool](), Counter[bool]()
    for passage in SyntheticCollection(style=style).iter_passages():
        kinds = [word in second for word in passage.text.split() if word in lexicon().concept_of]
        vocabulary.update(kinds)
        alike.update(a == b for a, b in pairwise(kinds))
    return vocabulary[True] / vocabulary.total(), alike[True] / alike.total()


def test_essays_keep_to_one_vocabulary_mostly_the_second() -> None:
    terse, essay = map(second_words_and_sameness, STYLES)
    assert terse[0] == pytest.approx(0.5, abs=0.03)
    assert essay[0] == pytest.approx(0.66, abs=0.03)  # .7 * .9 + .3 * .1
    assert essay[1] > 0.8 > terse[1]


def test_only_essays_stray_to_another_topic_and_repeat_more_than_one_concept() -> None:
    words = lexicon()
    topic_of = {pair[0]: topic for topic, pairs in words.topics.items() for pair in pairs}

    def strays_and_repeats(style: Style) -> tuple[float, float]:
        counts = [
            Counter(words.concept_of[word] for word in passage.text.split() if word in words.concept_of)
            for passage in SyntheticCollection(style=style).iter_passages()
        ]
        several = [found for found in counts if len(found) > 1]
        strays = sum(len({topic_of[concept] for concept in found}) > 1 for found in several)
        return strays / len(counts), sum(max(found.values()) > 1 for found in several) / len(several)

    assert strays_and_repeats("terse") == (0, 0)
    strays, repeats = strays_and_repeats("essay")
    assert 0.05 < strays < 0.2, "a quarter of the passages, less those whose only word is the stray one"
    assert repeats > 0.3


@pytest.mark.parametrize(("style", "shortest", "longest"), [("terse", 8, 12), ("essay", 12, 15)])
def test_passages_are_few_plain_words(style: Style, shortest: int, longest: int) -> None:
    collection = SyntheticCollection(style=style)
    known = set(lexicon().concept_of) | set(lexicon().fillers)
    passages = list(collection.iter_passages())
    assert len(passages) == len({p.id for p in passages}) == 2000
    assert {len(p.text.split()) for p in passages} == set(range(shortest, longest + 1))
    assert all(known.issuperset(p.text.split()) for p in passages)


def test_it_is_a_collection_and_names_absent_passages() -> None:
    collection = SyntheticCollection(passage_count=10)
    assert isinstance(collection, Collection)
    assert collection.passages(["p03"])["p03"].id == "p03"
    with pytest.raises(DataError, match="p99"):
        collection.passages(["p99"])


@pytest.mark.parametrize("field", [{"split": "validation"}, {"passage_count": 0}, {"query_count": 0}, {"style": "ode"}])
def test_a_value_out_of_range_is_named(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        SyntheticCollection(**field)  # type: ignore[arg-type]


@both_styles
def test_bm25_is_misled_and_its_top_twenty_is_worth_reordering(tmp_path: Path, style: Style) -> None:
    source = Source("dev", SyntheticCollection(split="dev", style=style), Bm25(cache_dir=str(tmp_path)))
    given, best = [], []
    for judged in source.judged(20):
        grades = [judged.grades.get(p.id, 0) for p in judged.candidates.passages]
        given.append(ndcg(grades, list(judged.grades.values())))
        best.append(ndcg(sorted(grades, reverse=True), list(judged.grades.values())))
        assert len(grades) > 5, "a list longer than one window"
    assert sum(given) / len(given) < 0.78
    assert sum(best) / len(best) > 0.9
