"""What progress says of answers: something from the first seconds on, and a time left that doesn't grow in a batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rearank.engines.recording import Spent
from rearank.tasks.evaluate.reranking import AnswerWatch, UnreadLimit


@dataclass
class Engine:
    """Batches of ten, a hundred tokens an answer, all of a batch a token a second."""

    spent: Spent = field(default_factory=Spent)
    under_way: int = 0
    written: int | None = 0

    def at(self, second: int, watch: AnswerWatch) -> None:
        """As it stands after so many seconds."""
        batches, inside = divmod(second, 100)
        self.under_way = 40 - 10 * batches
        self.spent = Spent(40, 0, 1000 * batches, 0.0)
        self.written = None if self.written is None else 1000 * batches + 10 * inside
        watch.add(10 * batches - watch.windows, Counter())


def watched() -> tuple[Engine, AnswerWatch]:
    engine = Engine()
    return engine, AnswerWatch("x", engine, UnreadLimit(), 1000, expected=40)


def test_a_first_batch_under_way_is_seen() -> None:
    engine, watch = watched()
    engine.at(30, watch)
    assert watch.note(30.0) == "0/40 windows, 40 under way, 10 tokens/s"
    assert watch.left(30.0) is None, "how long an answer is isn't known yet"


def test_the_time_left_falls_within_a_batch() -> None:
    engine, watch = watched()
    for second in range(100, 399, 7):
        engine.at(second, watch)
        left = watch.left(float(second))
        assert left is not None
        assert abs(left - (400 - second)) < 1e-6


def test_an_engine_that_counts_no_tokens_is_timed_by_its_answers() -> None:
    engine, watch = watched()
    engine.written = None
    engine.at(200, watch)
    assert watch.left(200.0) == 200.0
    assert watch.note(200.0) == "20/40 windows, 20 under way, 10 tokens/s"
