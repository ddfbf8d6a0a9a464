"""From an engine's text to an order, a score, or another sample: read as asked, counted once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from rearank.engines import CompletionStore, PromptRanker, RecordingEngine, ScriptedEngine
from rearank.parsing import ParseStatus
from rearank.prompts import CompactPrompt
from rearank.ranking import FullList, Pointwise, Resamples, Scorer, SelfConsistency, rerank_all
from rearank.types import Candidates, Completion, Message, Passage, Query, Ranking, Sampling, Window

PASSAGES = tuple(Passage(f"d{i}", f"text {i}") for i in range(4))
ONE = Window(Query("q", "what"), PASSAGES[:1])
YES_NO = CompactPrompt(asks="yes_no", passage="Passage: {passage}", final="yes or no?", tags=False)


class Says:
    """Answers by the passage's text."""

    identity: Mapping[str, Any] = {"engine": "says"}

    def __init__(self, texts: Mapping[str, str], p_yes: Mapping[str, float] | None = None) -> None:
        self.texts = texts
        self.p_yes = p_yes or {}

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        shown = messages[-1].content.splitlines()[1].removeprefix("Passage: ")
        extra = {"p_yes": self.p_yes[shown]} if shown in self.p_yes else {}
        return Completion(self.texts[shown], 10, 2, extra=extra)

    async def aclose(self) -> None:
        """Nothing to release."""


def rerank(ranker: PromptRanker, strategy: Any) -> Ranking:
    results = asyncio.run(rerank_all([Candidates(ONE.query, PASSAGES)], strategy, lambda _: ranker))
    result = results["q"]
    assert isinstance(result, Ranking), result
    return result


def test_yes_goes_before_what_can_not_be_read_and_that_before_no() -> None:
    texts = {"text 0": "No.", "text 1": "hard to say", "text 2": "Yes", "text 3": "yes"}
    ranker = PromptRanker(Says(texts), YES_NO)
    result = rerank(ranker, Pointwise())
    assert (result.passage_ids, result.calls, result.unparsed) == (("d2", "d3", "d1", "d0"), 4, 1)
    assert ranker.account.statuses == {ParseStatus.OK: 3, ParseStatus.EMPTY: 1}
    assert (ranker.account.prompt_tokens, ranker.account.completion_tokens) == (40, 8)


def test_the_engines_probability_counts_more_than_its_word() -> None:
    ranker = PromptRanker(
        Says({f"text {i}": "yes" for i in range(4)}, {"text 0": 0.6, "text 1": 0.9, "text 2": 0.7, "text 3": 0.95}),
        YES_NO,
    )
    assert rerank(ranker, Pointwise()).passage_ids == ("d3", "d1", "d2", "d0")


def test_a_question_the_prompt_does_not_ask_is_refused() -> None:
    two = Window(ONE.query, PASSAGES[:2])
    with pytest.raises(ValueError, match="set strategy=pointwise"):
        asyncio.run(PromptRanker(ScriptedEngine("given"), YES_NO).order(two))
    with pytest.raises(ValueError, match="asks for the ranking; set prompt=pointwise"):
        asyncio.run(PromptRanker(ScriptedEngine("given"), CompactPrompt()).score(ONE))
    with pytest.raises(ValueError, match="holds 2"):
        asyncio.run(PromptRanker(ScriptedEngine("given"), YES_NO).score(two))


def test_samples_differ_are_counted_together_and_paid_for_once(tmp_path: Any) -> None:
    store = CompletionStore(tmp_path / "store.sqlite")
    engine = RecordingEngine(ScriptedEngine("random"), store)
    told: list[Completion] = []
    ranker = PromptRanker(
        engine, CompactPrompt(), Sampling(temperature=0.7), engine, None, lambda answer, _: told.append(answer)
    )
    assert isinstance(ranker, Resamples)
    assert isinstance(ranker, Scorer)
    result = rerank(ranker, SelfConsistency(FullList(), samples=5))
    assert (result.calls, sum(ranker.account.statuses.values()), len(told), engine.spent.calls) == (5, 5, 5, 5)
    assert len({completion.text for completion in told}) > 1
    # The draws are the samples 0 to 4 themselves, which an evaluation over samples asks for.
    for sample in range(5):
        asyncio.run(
            PromptRanker(engine, CompactPrompt(), Sampling(temperature=0.7, sample=sample)).order(
                Window(ONE.query, PASSAGES)
            )
        )
    assert engine.spent.calls == 5
    again = PromptRanker(engine, CompactPrompt(), Sampling(temperature=0.7, sample=1))
    assert rerank(again, SelfConsistency(FullList(), samples=5)).passage_ids
    assert engine.spent.calls == 10, "another sample's draws are others"
    nested = ranker.resampled(2).resampled(3)
    assert nested.sampling.sample == 2003
    asyncio.run(nested.order(Window(ONE.query, PASSAGES)))
    assert sum(ranker.account.statuses.values()) == 6
    store.close()


def test_nothing_is_drawn_at_temperature_0() -> None:
    ranker = PromptRanker(ScriptedEngine("random"), CompactPrompt())
    with pytest.raises(ValueError, match=r"set model\.temperature=0\.7"):
        ranker.resampled(0)
    warm = PromptRanker(ScriptedEngine("random"), CompactPrompt(), Sampling(temperature=1))
    with pytest.raises(ValueError, match="0 to 999, not 1000"):
        warm.resampled(1000)


def test_a_prompt_that_cuts_by_tokens_is_made_off_the_loop() -> None:
    """And one that does not is made at once: a thread would cost more than the prompt."""
    threads: list[str] = []

    class Words:
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            threads.append(threading.current_thread().name)
            return list(range(len(text.split())))

        def decode(self, token_ids: list[int]) -> str:
            return " ".join(f"t{i}" for i in token_ids)

    window = Window(Query("q", "ship"), (Passage("a", "one two three"), Passage("b", "four five six")))
    for most, cut in ((2, True), (None, False)):
        ranker = PromptRanker(ScriptedEngine("reverse"), CompactPrompt(max_tokens=most), tokenizer=Words())
        assert asyncio.run(ranker.order(window)).order == (1, 0)
        assert bool(threads) is cut
        assert threading.main_thread().name not in threads
        threads.clear()
