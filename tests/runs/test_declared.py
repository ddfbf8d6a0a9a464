"""Which fields of a config a result depends on, by what they say where they stand."""

from __future__ import annotations

from typing import Any

import pytest
from tests.tasks.runs import SMALL, composed

from rearank.runs.declared import differences, is_default, mattering, plain
from rearank.sections import Evaluation

EVALUATION = {"_target_": "rearank.sections.Evaluation", "max_failed": 0.1, "steps": [10], "kept_depth": 50}


def test_fields_say_whether_they_matter() -> None:
    assert mattering(EVALUATION) == {"_target_": "rearank.sections.Evaluation", "steps": [10], "kept_depth": 50}
    assert mattering({"e": EVALUATION}, selects=False) == {
        "e": {"_target_": "rearank.sections.Evaluation", "kept_depth": 50}
    }
    assert mattering([{"a": 1}, "b"]) == [{"a": 1}, "b"]


def test_names_of_earlier_versions_are_todays() -> None:
    old = {**EVALUATION, "_target_": "rearank.tasks.settings.Evaluation"}
    assert mattering(old) == mattering(EVALUATION)
    assert differences(old, EVALUATION) == []
    assert differences(EVALUATION, {**EVALUATION, "kept_depth": 5, "max_failed": 0.5}) == ["kept_depth: 50 -> 5"]


def test_a_class_that_is_gone_has_no_fields_that_are_left_out() -> None:
    gone = {"_target_": "nowhere.Gone", "a": 1}
    assert mattering(gone) == gone
    assert not is_default(gone, "a")


def test_defaults_are_the_classes() -> None:
    assert is_default({**plain(Evaluation()), "samples": 0}, "samples")
    assert not is_default({**plain(Evaluation()), "samples": 1}, "samples")


@pytest.mark.parametrize(
    ("override", "matters"),
    [
        ("name=other", False),
        ("paths.cache=elsewhere", False),
        ("evaluation.max_concurrent_queries=3", False),
        ("benchmark.retriever.cache_dir=elsewhere", False),
        ("trainer.save_every=3", False),
        ("model.published=REARANK-7B", False),
        ("rerun=true", False),
        ("accept_changed_code=true", False),
        ("seed=7", True),
        ("trainer.validate_every=3", True),
        ("algorithm.steps=3", True),
        ("evaluation.trained=false", True),
        ("benchmark.depth=7", True),
        ("reward.k=5", True),
    ],
)
def test_keys_of_the_config(override: str, matters: bool) -> None:
    before: Any = composed("task=train", *SMALL)
    assert (mattering(before) != mattering(composed("task=train", *SMALL, f"++{override}"))) is matters
