"""When a training is stopped: it gets no better, or falls apart."""

from __future__ import annotations

import math

import pytest

from rearank.training.guard import Guard, Watchdog

HEALTHY = {
    "train/kl": 0.1,
    "train/entropy": 0.5,
    "rollout/length": 300.0,
    "rollout/cut_off": 0.01,
    "rollout/parse/ok": 0.9,
}


def after(guard: Guard, *steps: dict[str, float]) -> list[str | None]:
    dog = Watchdog(guard)
    return [dog.step({**HEALTHY, **figures}) for figures in steps]


def test_a_healthy_run_goes_on() -> None:
    assert after(Guard(min_entropy=0.1), *({} for _ in range(20))) == [None] * 20


@pytest.mark.parametrize(
    ("figures", "key"),
    [
        ({"train/kl": 50.0}, "max_kl=10"),
        ({"train/kl": math.nan}, "max_kl=10"),
        ({"train/entropy": 0.001}, "min_entropy=0.1"),
        ({"train/entropy": 9.0}, "max_entropy=8"),
        ({"rollout/length": 1.0}, "min_length=4"),
        ({"rollout/cut_off": 1.0}, "max_cut_off=0.95"),
        ({"rollout/parse/ok": 0.0}, "min_readable=0.01"),
    ],
)
def test_collapse_is_named_with_its_bound(figures: dict[str, float], key: str) -> None:
    reasons = after(Guard(window=3, min_entropy=0.1), {}, {}, {}, figures, figures, figures)
    assert reasons[:3] == [None] * 3
    assert reasons[-1] is not None
    assert f"trainer.guard.{key}" in reasons[-1]


def test_what_a_model_can_not_do_yet_is_no_collapse() -> None:
    wild = {"rollout/parse/ok": 0.0}
    assert after(Guard(window=1), wild, wild, {}, {}) == [None] * 4
    assert after(Guard(window=1), wild, {}, wild)[-1] is not None, "but once it could, it is"


def test_a_bound_can_be_switched_off() -> None:
    assert after(Guard(window=1, max_kl=None), {}, {"train/kl": 50.0}) == [None, None]


def test_a_figure_that_is_not_there_is_no_collapse() -> None:
    dog = Watchdog(Guard(window=1))
    assert dog.step({"rollout/length": 50.0}) is None, "without a reference model there is no KL"


def test_patience_counts_validations_without_a_better_one() -> None:
    dog = Watchdog(Guard(patience=2))
    assert [dog.validated(ndcg) for ndcg in (0.4, 0.5, 0.5, 0.6, 0.55)] == [None] * 5
    said = dog.validated(0.6)
    assert said is not None
    assert "2 validations in a row without a better nDCG@10 than 0.6000" in said


def test_a_resumed_run_judges_as_an_uninterrupted_one() -> None:
    lines = [{"step": 0, "val/ndcg@10": 0.5}, *({"step": i, "train/reward/total": 0.1, **HEALTHY} for i in range(3))]
    lines.append({"step": 3, "val/ndcg@10": 0.4})
    dog = Watchdog(Guard(patience=2, window=3, max_kl=1.0))
    assert dog.replay(lines) is None
    assert dog.step({**HEALTHY, "train/kl": 10.0}) is not None
    assert dog.validated(0.45) is not None
    ended = Watchdog(Guard(patience=1)).replay(lines)
    assert ended is not None, "it had come to its end"


@pytest.mark.parametrize("wrong", [{"window": 0}, {"patience": 0}])
def test_ranges(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Guard(**wrong)


def first(of: str = "val", **shares: float) -> dict[str, float]:
    return {f"{of}/parse/{status}": share for status, share in shares.items()}


@pytest.mark.parametrize(
    ("shares", "cut", "cause", "remedy"),
    [
        ({"unclosed_think": 0.95}, 0.95, "95% cut at model.max_tokens", "raise model.max_tokens"),
        ({"no_answer_tag": 0.92, "ok": 0.08}, 0.0, "92% without a complete <answer>", "prompt=..."),
        ({"empty": 0.6, "no_answer_tag": 0.4}, 0.0, "60% that name nothing", "(prompt=...)"),
    ],
)
@pytest.mark.parametrize("of", ["val", "rollout"])
def test_training_does_not_begin_with_answers_that_can_not_be_read(
    shares: dict[str, float], cut: float, cause: str, remedy: str, of: str
) -> None:
    reason = Watchdog(Guard()).begin(first(of, **shares), of, cut)
    assert reason is not None
    for part in ("trainer.guard.max_unread=0.9", cause, remedy, "task=sft"):
        assert part in reason


def test_training_begins_with_a_tenth_of_answers_read() -> None:
    assert Watchdog(Guard()).begin(first(empty=0.5, no_answer_tag=0.4, ok=0.1), "val", 0.0) is None
    assert Watchdog(Guard()).begin(first(partial=1.0), "val", 1.0) is None, "a partial order is one"
    assert Watchdog(Guard(max_unread=None)).begin(first(empty=1.0), "val", 0.0) is None
    assert Watchdog(Guard(max_unread=0.5)).begin(first(empty=0.6), "val", 0.0) is not None


def test_a_step_without_any_spread_is_named_once_in_a_row() -> None:
    dog = Watchdog(Guard())
    flat, some = {"rollout/groups_without_spread": 1.0}, {"rollout/groups_without_spread": 0.9}
    said = [dog.no_spread(figures) for figures in (some, flat, flat, some, flat, {})]
    assert [line is not None for line in said] == [False, True, False, False, True, False]
    assert said[1] is not None
    assert "algorithm.temperature" in said[1]
