"""A row whose answers can't be read: its cause is named, it is marked, and a trained model's ends the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.tasks.runs import SMALL, made, read, report_of

from rearank.engines import Engine
from rearank.engines.account import Account, Unread, cause_of
from rearank.experiment import Run
from rearank.parsing import parse_ranking
from rearank.ranking import AbortRunError
from rearank.reranker.setup import Parts
from rearank.tasks.evaluate.reranking import UnreadError
from rearank.tasks.evaluate.systems import systems
from rearank.tasks.pipeline import evaluate_models
from rearank.tasks.train import Trained
from rearank.types import Completion, Message, Qrels, Sampling

ORDER = "<think> x </think> <answer> [2] > [1] > [3] > [4] > [5] </answer>"
SINGLE = ("evaluation.samples=0", "strategy=full_list")
Says = Callable[[int], Completion]


@dataclass(frozen=True)
class Stub:
    """A model's answers by their number."""

    says: Says
    asked: list[int]

    def preflight(self) -> list[str]:
        return []

    def create(
        self,
        model: str,
        *,
        revision: str | None = None,
        judgements: Qrels | None = None,
        thinking: bool | None = None,
    ) -> Engine:
        return _Stub(self.says, self.asked)


@dataclass(frozen=True)
class _Stub:
    says: Says
    asked: list[int]

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"engine": "stub"}

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        self.asked.append(len(self.asked))
        return self.says(self.asked[-1])

    async def aclose(self) -> None:
        """Nothing is open."""


def answers(text: str, finish: Literal["stop", "length"] = "stop") -> Says:
    return lambda number: Completion(text, finish=finish)


def answered(folder: Path, says: Says, *options: str, released: bool = False) -> tuple[Run, list[int]]:
    run, asked = made(folder, *SMALL, *SINGLE, *options), list[int]()
    changed = replace(run.experiment, engine=Stub(says, asked), model=replace(run.experiment.model, released=released))
    return replace(run, experiment=changed), asked


@pytest.mark.parametrize(
    ("text", "finish", "cause"),
    [
        ("", "length", Unread.CUT),
        ("<think> and so", "length", Unread.CUT),
        ("", "stop", Unread.NO_TEXT),
        (" \n", "stop", Unread.NO_TEXT),
        ("<think>[2] > [1]</think>\n", "stop", Unread.ONLY_REASONING),
        ("<think> and so", "stop", Unread.OPEN_REASONING),
        ("[2] > [1]", "stop", Unread.NO_TAG),
        ("<answer> none of them </answer>", "stop", Unread.NOTHING_NAMED),
        ("<answer> [17] </answer>", "stop", Unread.NOTHING_NAMED),
        ("fine<|im_end|>\n<|im_start|>user\nmore", "length", Unread.TEMPLATE),
        ("fine\nuser\nmore", "length", Unread.TEMPLATE),
        (ORDER, "length", None),
        ("<answer> [2] </answer>", "stop", None),
    ],
)
def test_an_answer_that_names_nothing_has_a_cause(
    text: str, finish: Literal["stop", "length"], cause: Unread | None
) -> None:
    parsed, completion = parse_ranking(text, 5), Completion(text, finish=finish)
    assert cause_of(completion, parsed) is cause
    account = Account()
    account.count(completion, parsed)
    assert account.unread.total() == account.unparsed == (cause is not None)


def test_costs_of_many_queries_add_up_exactly_in_little_memory() -> None:
    account, costs = Account(), [0.1 * n / 7 for n in range(5000)]
    for cost in costs:
        account.add(Account(costs=[cost]))
    assert account.cost == math.fsum(costs)
    assert len(account.costs) < 1010


@pytest.mark.parametrize(
    ("says", "cause", "remedy"),
    [
        (answers("", "length"), "8 cut at model.max_tokens", "raise model.max_tokens"),
        (answers("<think>[1]</think>\n"), "8 with a reasoning alone", "reasoning parser"),
        (answers("all are fine"), "8 without a complete <answer>", "prompt=..."),
        (answers(""), "8 without any text", "chat template"),
    ],
)
def test_an_untrained_models_row_is_marked_with_the_cause(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    says: Says,
    cause: str,
    remedy: str,
) -> None:
    run, _ = answered(tmp_path, says)
    with caplog.at_level(logging.WARNING):
        summary = evaluate_models(run)
    assert summary["base"] == summary["bm25"], "the numbers are the first stage's"
    (line,) = [text for record in caplog.records if "could not be read" in (text := record.getMessage())]
    table = capsys.readouterr().out
    for shown in (line, table, read(run.folder / "evaluation" / "synthetic" / "base" / "metrics.json")["note"]):
        assert "8 of 8 answers" in shown
        assert cause in shown
        assert remedy in shown
    assert "| tiny, greedy (unread) " in table
    assert "8 of 8 answers" in report_of(run).read_text()


def test_a_released_models_row_ends_the_run_once_it_is_kept(tmp_path: Path) -> None:
    run, _ = answered(tmp_path, answers("", "length"), released=True)
    with pytest.raises(UnreadError, match=r"8 cut at model\.max_tokens\).*evaluation\.max_unread=0\.9") as stopped:
        evaluate_models(run)
    assert isinstance(stopped.value, AbortRunError)
    assert "\n" not in str(stopped.value)
    summary = read(run.folder / "summary.json")
    assert {"bm25", "base"} <= summary.keys(), "what was measured is kept"
    assert summary["stopped"].startswith("UnreadError: ")


@pytest.mark.parametrize(
    ("read_answers", "option", "stops"),
    [(0, "0.9", True), (1, "0.9", False), (0, "null", False), (0, "1.0", False), (3, "0.5", True), (4, "0.5", False)],
)
def test_the_share_is_a_setting(tmp_path: Path, read_answers: int, option: str, stops: bool) -> None:
    def says(number: int) -> Completion:
        return Completion(ORDER if number < read_answers else "")

    run, _ = answered(tmp_path, says, f"evaluation.max_unread={option}", released=True)
    if stops:
        with pytest.raises(UnreadError):
            evaluate_models(run)
    else:
        assert "stopped" not in evaluate_models(run)


def test_the_first_answers_are_enough_to_warn_and_to_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of 80 queries, one after another, no more than 50 are asked; an untrained model is asked all."""
    many = ("benchmark.collection.query_count=80", "evaluation.max_concurrent_queries=1")
    run, asked = answered(tmp_path / "released", answers("", "length"), *many, released=True)
    with caplog.at_level(logging.WARNING), pytest.raises(UnreadError, match="stopped early: 50 of 50 answers"):
        evaluate_models(run)
    assert len(asked) <= 51, "one was under way"
    assert "of the first answers, 50 of 50 answers could not be read (50 cut at" in caplog.text
    assert list(read(run.folder / "summary.json")["measures"]) == ["bm25"]
    run, asked = answered(tmp_path / "base", answers("", "length"), *many)
    evaluate_models(run)
    assert len(asked) == 80


def test_quick_answers_alone_do_not_stop_a_row(tmp_path: Path) -> None:
    """With 80 under way the first 50 to come may be of one kind."""

    def says(number: int) -> Completion:
        return Completion("" if number < 60 else ORDER)

    run, asked = answered(tmp_path, says, "benchmark.collection.query_count=80", released=True)
    assert "stopped" not in evaluate_models(run)
    assert len(asked) == 80


def test_what_was_trained_here_is_a_trained_model(tmp_path: Path) -> None:
    run, _ = answered(tmp_path, answers(""))
    for folder in ("sft", "training"):
        (run.folder / folder).mkdir(parents=True)
        (run.folder / folder / "result.json").write_text('{"model": "m", "steps": 2, "best_step": 1, "best_ndcg": 0.5}')
    experiment = run.experiment
    parts = Parts(experiment.model, experiment.prompt, experiment.strategy, experiment.engine)
    found = systems(parts, experiment.evaluation, 1, Trained(run.folder, "grpo"))
    assert {one.name: one.trained for one in found} == {"base": False, "sft": True, "grpo": True}
