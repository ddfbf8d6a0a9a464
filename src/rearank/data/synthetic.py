"""The built-in collection: plain English words, written from a seed, small enough to train on in minutes.

A topic has eight concepts and a concept two words (``ship``, ``vessel``). A query names three concepts of one topic; a
passage's grade is how many of the three it mentions, in either word. BM25 is misled in both directions: it rewards a
word that is repeated and doesn't see a synonym. A person can check any judgement by reading.

Two styles use the same words, so that what is learnt on one can be tested on the other. What a grade means is the same;
the statistics differ:

- ``terse``: 8 to 12 words, up to 5 concepts, each in either of its words. A passage about one concept is shorter, and
  dwells on it 3 to 5 times, now and then in its other word.
- ``essay``: 12 to 15 words, up to 6 concepts. A passage keeps to one vocabulary, first words or (in 7 of 10) second
  ones, with few slips. Its concepts take turns until 3 to 5 words are used, or all concepts are. One passage in four
  strays to another topic for a word.

Which concept triples belong to train, dev and test is fixed once, for every seed: a model warm-started on the train
triples (``experiments/tiny``) meets none of the test triples whatever collection it is measured on.
"""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from random import Random
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge

from rearank.checks import check_fields
from rearank.data.base import lookup
from rearank.types import Passage, Query

Split: TypeAlias = Literal["train", "dev", "test"]
Style: TypeAlias = Literal["terse", "essay"]
Triple: TypeAlias = tuple[str, str, str]
"""Three concepts, each named by its first word."""

TEST_TRIPLES, DEV_TRIPLES = 320, 80
# How many distinct concepts a passage mentions, and how often that happens. Small talk (none) keeps the competition for
# a query's first twenty places low enough that most good passages are among them; with more passages about one concept
# BM25 already does nearly as well as any order of its twenty can (.88 of .94), and nothing is left to learn.
_CONCEPTS, _CONCEPT_WEIGHTS = (0, 1, 2, 3, 4, 5), (12, 5, 1, 1, 1, 2)
# A passage about one concept dwells on it, in short: BM25 takes it for a better match than two concepts in other words.
_DWELLING, _DWELLING_LENGTH = (3, 5), (8, 9)
_OTHER_LENGTH = (10, 12)
_OTHER_WORD = 0.2  # chance that a repeat takes the concept's other word

# The style ``essay``, tuned on dev queries alone. One vocabulary a passage makes BM25 miss its concepts together; as
# many mentions of one concept as of three, each named once, make it prefer the one.
_ESSAY_CONCEPTS, _ESSAY_CONCEPT_WEIGHTS = (0, 1, 2, 3, 4, 5, 6), (14, 4, 1, 1, 1, 1, 1)
_ESSAY_MENTIONS = (3, 5)
# Longer ones model=tiny can't read: it met 12 words at most. Of its notes on dev windows of five, 75% are right here
# and 29% with 16 to 20 words (99% on terse passages).
_ESSAY_LENGTH = (12, 15)
_SECOND_VOCABULARY = 0.7  # chance that a passage is written in the concepts' second words
_SLIP = 0.1  # chance that a concept takes the word of the other vocabulary
_DIGRESSION = 0.25  # chance of a word about another topic


@dataclass(frozen=True)
class Lexicon:
    """The words of ``words.txt``: topics of concepts, each concept two words, and fillers by falling frequency."""

    topics: dict[str, tuple[tuple[str, str], ...]]
    fillers: tuple[str, ...]

    @cached_property
    def concept_of(self) -> dict[str, str]:
        """Word -> its concept, which is named by its first word."""
        return {word: pair[0] for pairs in self.topics.values() for pair in pairs for word in pair}

    @cached_property
    def words_of(self) -> dict[str, tuple[str, str]]:
        """Concept -> its two words."""
        return {pair[0]: pair for pairs in self.topics.values() for pair in pairs}

    @cached_property
    def _filler_steps(self) -> list[float]:
        return list(itertools.accumulate(1 / rank for rank in range(1, len(self.fillers) + 1)))

    def filler(self, random: Random) -> str:
        """A filler drawn by Zipf's law."""
        steps = self._filler_steps
        return self.fillers[min(bisect(steps, random.random() * steps[-1]), len(steps) - 1)]

    def mentions(self, text: str) -> frozenset[str]:
        """The concepts that ``text`` mentions."""
        return frozenset(self.concept_of[word] for word in text.split() if word in self.concept_of)


@cache
def lexicon() -> Lexicon:
    """The shipped word lists."""
    sections: dict[str, list[str]] = {}
    text = resources.files("rearank.data").joinpath("words.txt").read_text(encoding="utf-8")
    current: list[str] = []
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            current.append(line)
    fillers = tuple(" ".join(sections.pop("fillers")).split())
    topics = {name: tuple((line.split()[0], line.split()[1]) for line in lines) for name, lines in sections.items()}
    return Lexicon(topics, fillers)


@cache
def triples(split: Split) -> tuple[Triple, ...]:
    """The concept triples of ``split``: the three splits share none, and no seed changes them."""
    every: list[Triple] = [
        (a[0], b[0], c[0]) for pairs in lexicon().topics.values() for a, b, c in itertools.combinations(pairs, 3)
    ]
    Random("rearank synthetic triples").shuffle(every)
    dev_end = TEST_TRIPLES + DEV_TRIPLES
    bounds = {"test": (0, TEST_TRIPLES), "dev": (TEST_TRIPLES, dev_end), "train": (dev_end, len(every))}
    start, end = bounds[split]
    return tuple(every[start:end])


def query_text(triple: Triple, random: Random) -> str:
    """The triple in words: either word of each concept, in any order."""
    words = [random.choice(lexicon().words_of[concept]) for concept in triple]
    random.shuffle(words)
    return " ".join(words)


def passage_text(topic: str, random: Random) -> str:
    """A passage of 8 to 12 words about ``topic``, in the style ``terse``."""
    pairs = lexicon().topics[topic]
    chosen = random.sample(pairs, random.choices(_CONCEPTS, _CONCEPT_WEIGHTS)[0])
    words = [random.choice(pair) for pair in chosen]
    if len(chosen) == 1:
        repeats = random.randint(*_DWELLING) - 1
        words += [random.choice(chosen[0]) if random.random() < _OTHER_WORD else words[0] for _ in range(repeats)]
    length = random.randint(*(_DWELLING_LENGTH if len(chosen) == 1 else _OTHER_LENGTH))
    words += [lexicon().filler(random) for _ in range(length - len(words))]
    random.shuffle(words)
    return " ".join(words)


def essay_text(topic: str, random: Random) -> str:
    """A passage of 12 to 15 words that is mainly about ``topic``."""
    topics = lexicon().topics
    chosen = random.sample(topics[topic], random.choices(_ESSAY_CONCEPTS, _ESSAY_CONCEPT_WEIGHTS)[0])
    second = random.random() < _SECOND_VOCABULARY
    named = [pair[second != (random.random() < _SLIP)] for pair in chosen]
    mentions = max(random.randint(*_ESSAY_MENTIONS), len(named))
    words = list(itertools.islice(itertools.cycle(named), mentions))
    if random.random() < _DIGRESSION:
        elsewhere = random.choice([name for name in topics if name != topic])
        words.append(random.choice(topics[elsewhere])[second])
    words += [lexicon().filler(random) for _ in range(random.randint(*_ESSAY_LENGTH) - len(words))]
    random.shuffle(words)
    return " ".join(words)


_WRITERS: dict[Style, Callable[[str, Random], str]] = {"terse": passage_text, "essay": essay_text}


@dataclass(frozen=True)
class SyntheticCollection:
    """The built-in collection. The passages are the same in each split; the queries' concept triples are disjoint.

    ``seed`` writes the passages and words the queries; ``passage_count`` passages are spread over all topics;
    ``query_count`` caps the queries of the split (``null``: one for each of its triples: 440 train, 80 dev, 320 test).
    ``style`` is how passages are written (see the module); a split has the same concept triples in both.
    """

    seed: int = 1
    split: Split = "test"
    passage_count: Annotated[int, Ge(1)] = 2000
    query_count: Annotated[int, Ge(1)] | None = None
    name: str = "synthetic"
    style: Style = "terse"

    def __post_init__(self) -> None:
        check_fields(self)

    def _random(self, purpose: str) -> Random:
        # Terse collections are older than styles; published figures rest on their seeds.
        style = "" if self.style == "terse" else f"{self.style} "
        return Random(f"{self.seed} {style}{purpose}")

    @cached_property
    def _passages(self) -> dict[str, Passage]:
        # Each passage has its own generator: a larger collection begins with the smaller one.
        topics = list(lexicon().topics)
        width = len(str(self.passage_count))
        found = {}
        for number in range(1, self.passage_count + 1):
            random = self._random(f"passage {number}")
            passage = Passage(f"p{number:0{width}}", _WRITERS[self.style](random.choice(topics), random))
            found[passage.id] = passage
        return found

    @cached_property
    def _triples(self) -> dict[str, Triple]:
        chosen = triples(self.split)[: self.query_count]
        return {f"{self.split}-{number:03}": triple for number, triple in enumerate(chosen, start=1)}

    def queries(self) -> dict[str, Query]:
        return {
            qid: Query(qid, query_text(triple, self._random(f"query {qid}"))) for qid, triple in self._triples.items()
        }

    def qrels(self) -> dict[str, dict[str, int]]:
        mentions = {p.id: lexicon().mentions(p.text) for p in self._passages.values()}
        grades: dict[str, dict[str, int]] = {}
        for qid, triple in self._triples.items():
            wanted = frozenset(triple)
            grades[qid] = {pid: len(wanted & found) for pid, found in mentions.items() if wanted & found}
        return grades

    def passages(self, ids: Iterable[str]) -> dict[str, Passage]:
        return lookup(self._passages, ids, self.name)

    def iter_passages(self) -> Iterator[Passage]:
        return iter(self._passages.values())

    def fingerprint(self) -> str:
        text = "\n".join(f"{p.id}\t{p.text}" for p in self._passages.values())
        return hashlib.sha256(text.encode()).hexdigest()
