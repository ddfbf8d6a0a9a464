"""``trainer.validate_on=lists``: the file, whole lists by a model in training, the checkpoint that they choose."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import shipped

from rearank.data import JudgedCandidates, Source
from rearank.data.bm25 import Bm25
from rearank.data.synthetic import SyntheticCollection
from rearank.metrics import ndcg
from rearank.prompts import CompactPrompt
from rearank.ranking import SlidingWindow, Strategy
from rearank.rewards import AbsoluteReward, LengthPenalty, NdcgReward, RewardError
from rearank.training.base import TrainingError
from rearank.training.lists import ListError, ListValidation, PolicyEngine, drawn, measure, read_lists, write_lists
from rearank.types import Candidates, JudgedWindow, Passage, Query, Ranking, Sampling

MAX_TOKENS = 48
STRATEGY = SlidingWindow(size=5, step=3)
texts = st.text(max_size=20)


def listed(number: int) -> JudgedCandidates:
    return JudgedCandidates(Candidates(Query(f"q{number}", "x"), (Passage("a", "one"),)), {"a": 1})


@given(
    st.lists(
        st.tuples(texts, texts, st.lists(st.tuples(texts, texts), max_size=4), st.dictionaries(texts, st.integers())),
        max_size=4,
    )
)
def test_a_file_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, made: list[Any]) -> None:
    lists = [
        JudgedCandidates(
            Candidates(Query(i, text), tuple(Passage(str(n), *one) for n, one in enumerate(passages))), grades
        )
        for i, text, passages, grades in made
    ]
    path = tmp_path_factory.mktemp("lists") / "lists.jsonl"
    write_lists(path, lists)
    assert read_lists(path) == lists


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"id": "q", "query": "x", "passages": [["a"]], "grades": {}}', '{"id": 1}']
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "lists.jsonl"
    write_lists(path, [listed(1)])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ListError, match=r"lists\.jsonl, line 2: .*run task=prepare rerun=true"):
        read_lists(path)
    with pytest.raises(ListError, match="no lists to validate on here"):
        read_lists(tmp_path / "none.jsonl")


@given(st.integers(0, 30), st.integers(1, 30), st.integers(0, 5))
def test_fewer_lists_are_some_of_those_of_more(there: int, most: int, seed: int) -> None:
    lists = [listed(number) for number in range(there)]
    some, more = drawn(lists, most, seed), drawn(lists, most + 1, seed)
    assert len(some) == min(there, most)
    assert [one for one in more if one in some] == some == [one for one in lists if one in some]
    assert drawn(lists, None, seed) == lists


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> list[JudgedCandidates]:
    place = tmp_path_factory.mktemp("index")
    source = Source("s", SyntheticCollection(split="train", query_count=4), Bm25(cache_dir=str(place)))
    return list(source.judged(12))


def said_by(order: Sequence[int]) -> str:
    return f"<think> x </think> <answer> {' > '.join(f'[{i + 1}]' for i in order)} </answer>"


@pytest.fixture(scope="module")
def chat() -> Any:
    pytest.importorskip("transformers")
    from rearank.engines.chat import load_chat

    return load_chat(shipped.ASSETS, None)


class Scripted:
    """Says the same of every window, as tokens; counts the batches."""

    def __init__(self, chat: Any, text: str) -> None:
        tokenizer = chat.tokenizer
        self.tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        self.batches: list[int] = []

    def __call__(self, prompts: Sequence[list[int]], rooms: Sequence[int]) -> list[list[int]]:
        self.batches.append(len(prompts))
        return [self.tokens[:room] for room in rooms]


def reversing(item: JudgedCandidates, strategy: Strategy) -> Ranking:
    """The ranking of a list by a ranker that turns every window round."""

    class Reverse:
        async def order(self, window: Any) -> Any:
            from rearank.types import Permutation

            return Permutation(tuple(reversed(range(len(window)))))

    return asyncio.run(strategy.rerank(item.candidates.query, item.candidates.passages, Reverse()))


def test_whole_lists_are_measured_and_windows_are_paid(chat: Any, lists: list[JudgedCandidates]) -> None:
    decode = Scripted(chat, said_by((4, 3, 2, 1, 0)))
    length = len(decode.tokens)
    engine = PolicyEngine(chat, decode)
    seen: list[int] = []
    reward = NdcgReward(length=LengthPenalty(budget=length - 1, full=length))
    lists = [replace(one, candidates=one.candidates.top(11)) for one in lists]  # windows of five: at 6, 3 and 0
    found = measure(engine, ListValidation(lists, STRATEGY, CompactPrompt()), reward, 200, seen.append)
    assert decode.batches == [len(lists)] * 3, "queries go along together: each round of windows is one batch"
    assert seen == [1, 2, 3, 4]
    measured, before = [], []
    for one in lists:
        grades = list(one.grades.values())
        measured.append(ndcg([one.grades.get(i, 0) for i in reversing(one, STRATEGY).passage_ids], grades, 10))
        before.append(ndcg([one.grades.get(p.id, 0) for p in one.candidates.passages], grades, 10))
    assert found.figures["val/ndcg@10"] == pytest.approx(sum(measured) / 4)
    assert found.figures["val/ndcg@10_given"] == pytest.approx(sum(before) / 4)
    assert found.figures["val/ndcg@10"] != found.figures["val/ndcg@10_given"]
    assert (found.figures["val/parse/ok"], found.figures["val/length"], found.cut) == (1, length, 0)
    assert found.figures["val/reward/length"] == -0.5
    paid = []
    for window, completion in engine.answered:
        grades = next(one.grades for one in lists if one.candidates.query == window.query)
        judged = JudgedWindow(
            window, tuple(grades.get(p.id, 0) for p in window.passages), tuple(g for g in grades.values() if g > 0)
        )
        paid.append(NdcgReward()(completion.text, judged).total - 0.5)
    assert found.figures["val/reward/total"] == pytest.approx(sum(paid) / 12)
    cut = measure(engine, ListValidation(lists, STRATEGY, CompactPrompt()), NdcgReward(), 5)
    assert cut.cut == 1, "an answer that fills its room is cut"


def test_what_fails_is_said(chat: Any, lists: list[JudgedCandidates]) -> None:
    def broken(prompts: Sequence[list[int]], rooms: Sequence[int]) -> list[list[int]]:
        raise RuntimeError("out of memory")

    how = ListValidation(lists, STRATEGY, CompactPrompt())
    with pytest.raises(TrainingError, match=r"validation: the model in training .*RuntimeError: out of memory"):
        measure(PolicyEngine(chat, broken), how, NdcgReward(), MAX_TOKENS)

    class Lost:
        async def rerank(self, query: Query, candidates: Sequence[Passage], ranker: Any) -> Ranking:
            return Ranking(query.id, ())

    decode = Scripted(chat, said_by(range(5)))
    with pytest.raises(TrainingError, match=r"no ranking of a held-out list: query \S+: StrategyError"):
        measure(PolicyEngine(chat, decode), replace(how, strategy=Lost()), NdcgReward(), MAX_TOKENS)

    class Strange(NdcgReward):
        def __call__(self, completion: str, judged: JudgedWindow) -> Any:
            return replace(super().__call__(completion, judged), rank=float("nan"))

    with pytest.raises(RewardError, match="not finite"):
        measure(PolicyEngine(chat, decode), how, Strange(), MAX_TOKENS)


def test_a_list_that_cannot_be_asked_counts_as_given(
    chat: Any, lists: list[JudgedCandidates], caplog: pytest.LogCaptureFixture
) -> None:
    long = tuple(replace(passage, text=passage.text * 90) for passage in lists[0].candidates.passages)
    there = [replace(lists[0], candidates=Candidates(lists[0].candidates.query, long)), *lists[1:]]
    engine = PolicyEngine(replace(chat, overflow="refuse"), Scripted(chat, said_by((4, 3, 2, 1, 0))))
    found = measure(engine, ListValidation(there, STRATEGY, CompactPrompt()), NdcgReward(), MAX_TOKENS)
    orders = [there[0].candidates, *(reversing(one, STRATEGY) for one in lists[1:])]
    ids = [[p.id for p in one.passages] if isinstance(one, Candidates) else one.passage_ids for one in orders]
    measured = [
        ndcg([one.grades.get(i, 0) for i in order], list(one.grades.values()), 10)
        for one, order in zip(there, ids, strict=True)
    ]
    assert found.figures["val/ndcg@10"] == pytest.approx(sum(measured) / len(there))
    assert f"counts as it was given: query {there[0].candidates.query.id}" in caplog.text
    with pytest.raises(TrainingError, match=r"none of the 1 held-out lists can be asked: query \S+: EngineError"):
        measure(engine, ListValidation(there[:1], STRATEGY, CompactPrompt()), NdcgReward(), MAX_TOKENS)


@pytest.mark.slow
def test_validation_says_what_evaluation_says(chat: Any, lists: list[JudgedCandidates]) -> None:
    """The shipped model by ``engine=transformers`` and by the trainer's own decoding: the same rankings."""
    pytest.importorskip("torch")
    from rearank.engines.session import Session
    from rearank.engines.transformers import TransformersEngine
    from rearank.training.trl.answers import likeliest

    model, _ = shipped.load()
    engine = TransformersEngine(shipped.ASSETS, device="cpu")

    async def evaluated() -> Any:
        try:
            session = Session(engine, CompactPrompt(), STRATEGY, Sampling(max_tokens=MAX_TOKENS))
            return await session.rerank([one.candidates for one in lists]), session.account
        finally:
            await engine.aclose()

    rankings, account = asyncio.run(evaluated())

    def decode(prompts: Sequence[list[int]], rooms: Sequence[int]) -> list[list[int]]:
        return likeliest(model, prompts, rooms, chat.ends, 3)

    how = ListValidation(lists, STRATEGY, CompactPrompt())
    found = measure(policy := PolicyEngine(chat, decode), how, AbsoluteReward(), MAX_TOKENS)
    values = [
        ndcg([one.grades.get(i, 0) for i in rankings[one.candidates.query.id].passage_ids], list(one.grades.values()))
        for one in lists
    ]
    assert found.figures["val/ndcg@10"] == pytest.approx(sum(values) / len(values), abs=1e-12)
    assert sum(answer.completion_tokens for _, answer in policy.answered) == account.completion_tokens


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_checkpoint_is_chosen_by_lists_and_a_stopped_run_chooses_the_same(
    tmp_path: Path, lists: list[JudgedCandidates], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl")
    from tests.training.test_trl import ALGORITHM, TRAINER, job, made_rows

    from rearank.tracking import read_jsonl
    from rearank.training.trl import fit

    rows = made_rows(tmp_path)
    how = ListValidation(lists, STRATEGY, CompactPrompt())
    trainer = replace(TRAINER, validate_on="lists", validation_queries=3)
    algorithm = replace(ALGORITHM, steps=3, learning_rate=1e-2)
    whole = trainer.train(job(rows, tmp_path / "whole", lists=how, validation=[]), algorithm)
    lines = read_jsonl(tmp_path / "whole" / "train.jsonl")
    by_step = {line["step"]: line["val/ndcg@10"] for line in lines if "val/ndcg@10" in line}
    assert list(by_step) == [0, 1, 2, 3]
    assert len(set(by_step.values())) > 1, "the learning rate changes what the model says"
    assert whole.best_ndcg == max(by_step.values()) == by_step[whole.best_step]
    assert all(
        {"val/reward/total", "val/parse/ok", "val/length"} <= line.keys() for line in lines if "val/ndcg@10" in line
    )
    # What the log says of the first model is what measuring it by itself says.
    plain = measure_shipped(drawn(lists, 3, 1))
    assert by_step[0] == pytest.approx(plain, abs=1e-12)

    measured = fit.measure
    times = iter(range(10))

    def stopped(*arguments: Any) -> Any:
        if next(times) == 2:
            raise KeyboardInterrupt
        return measured(*arguments)

    monkeypatch.setattr(fit, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(job(rows, tmp_path / "again", lists=how, validation=[]), algorithm)
    monkeypatch.undo()
    again = trainer.train(job(rows, tmp_path / "again", lists=how, validation=[]), algorithm)
    curves = read_jsonl(tmp_path / "again" / "train.jsonl")
    assert {line["step"]: line["val/ndcg@10"] for line in curves if "val/ndcg@10" in line} == by_step
    assert (again.best_step, again.best_ndcg) == (whole.best_step, whole.best_ndcg)


def measure_shipped(lists: Sequence[JudgedCandidates]) -> float:
    from rearank.engines.chat import load_chat
    from rearank.training.trl.answers import likeliest

    model, _ = shipped.load()
    chat = load_chat(shipped.ASSETS, None)
    engine = PolicyEngine(chat, lambda prompts, rooms: likeliest(model, prompts, rooms, chat.ends, 64))
    return measure(engine, ListValidation(lists, STRATEGY, CompactPrompt()), NdcgReward(), MAX_TOKENS).figures[
        "val/ndcg@10"
    ]
