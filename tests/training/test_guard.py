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
