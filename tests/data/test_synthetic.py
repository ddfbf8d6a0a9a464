"""The built-in collection: readable, deterministic, honest splits, and hard enough for BM25."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from rearank.data import Collection, DataError
from rearank.data.analyzer import EnglishAnalyzer
from rearank.data.bm25 import Bm25
from rearank.data.source import Source
from rearank.data.synthetic import SyntheticCollection, lexicon, triples
from rearank.metrics import ndcg

SPLITS = ("train", "dev", "test")


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
    sets = [{frozenset(triple) for triple in triples(split)} for split in SPLITS]  # type: ignore[arg-type]
    assert [len(found) for found in sets] == [440, 80, 320]
    assert len(set(chain.from_iterable(sets))) == 840
    concept_of = lexicon().concept_of
    for seed in (1, 2):
        for split, known in zip(SPLITS, sets, strict=True):
            queries = SyntheticCollection(seed=seed, split=split).queries().values()  # type: ignore[arg-type]
            assert {frozenset(concept_of[word] for word in query.text.split()) for query in queries} == known


def test_a_grade_is_the_number_of_distinct_concepts_mentioned() -> None:
    collection = SyntheticCollection(passage_count=300, query_count=20)
    concept_of = lexicon().concept_of
    for qid, query in collection.queries().items():
        wanted = {concept_of[word] for word in query.text.split()}
        grades = collection.qrels()[qid]
        for passage in collection.iter_passages():
            mentioned = {concept_of.get(word) for word in passage.text.split()}
            assert grades.get(passage.id, 0) == len(wanted & mentioned)


def test_equal_seeds_write_equal_collections() -> None:
    first, again, other = SyntheticCollection(seed=3), SyntheticCollection(seed=3), SyntheticCollection(seed=4)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert first.queries() == again.queries() != other.queries()
    assert first.qrels() == again.qrels()
    assert first.fingerprint() == SyntheticCollection(seed=3, split="train").fingerprint()


def test_the_default_collection_never_changes_unnoticed() -> None:
    """The shipped checkpoint and published figures were made with it."""
    assert SyntheticCollection().fingerprint().startswith("6ced7f1ea457621e")


def test_passages_are_8_to_12_plain_words() -> None:
    collection = SyntheticCollection()
    known = set(lexicon().concept_of) | set(lexicon().fillers)
    passages = list(collection.iter_passages())
    assert len(passages) == len({p.id for p in passages}) == 2000
    assert all(8 <= len(p.text.split()) <= 12 and known.issuperset(p.text.split()) for p in passages)


def test_it_is_a_collection_and_names_absent_passages() -> None:
    collection = SyntheticCollection(passage_count=10)
    assert isinstance(collection, Collection)
    assert collection.passages(["p03"])["p03"].id == "p03"
    with pytest.raises(DataError, match="p99"):
        collection.passages(["p99"])


@pytest.mark.parametrize("field", [{"split": "validation"}, {"passage_count": 0}, {"query_count": 0}])
def test_a_value_out_of_range_is_named(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        SyntheticCollection(**field)  # type: ignore[arg-type]


def test_bm25_is_misled_and_its_top_twenty_is_worth_reordering(tmp_path: Path) -> None:
    source = Source("dev", SyntheticCollection(split="dev"), Bm25(cache_dir=str(tmp_path)))
    given, best = [], []
    for judged in source.judged(20):
        grades = [judged.grades.get(p.id, 0) for p in judged.candidates.passages]
        given.append(ndcg(grades, list(judged.grades.values())))
        best.append(ndcg(sorted(grades, reverse=True), list(judged.grades.values())))
        assert len(grades) > 5, "a list longer than one window"
    assert sum(given) / len(given) < 0.78
    assert sum(best) / len(best) > 0.9
