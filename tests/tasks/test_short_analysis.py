"""The short look that a pipeline ends with: what it asks, what it shows, and what it warns of."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from tests.tasks.runs import SMALL, made, read, with_benchmark

from rearank.data.beir import BeirFolder
from rearank.data.benchmark import Benchmark
from rearank.tasks.analyse.short import short_table
from rearank.tasks.pipeline import look_at_answers

BEFORE: dict[str, Any] = {
    "length": {"unit": "query", "mean tokens": 31.0},
    "faithfulness": {"tau-b": 0.6, "low": 0.5, "high": 0.7},
    "position": {
        "consistency": 0.5, "consistency low": 0.4, "consistency high": 0.6, "as given": 0.3, "unread": 0.0
    },
    "attack": {"attack": "order", "neutralise": "yes", "success": 0.1, "success low": 0.0, "success high": 0.2},
}  # fmt: skip


def tables(**after: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows of two systems; ``after`` changes the second's."""
    return {
        name: [{"system": "untrained", **row}, {"system": "trained", **row, **after.get(name, {})}]
        for name, row in BEFORE.items()
    }


def test_nothing_is_said_where_nothing_got_worse() -> None:
    shown = short_table(tables(), ["untrained", "trained"])
    assert "after training" not in shown
    assert [line.split("|")[1].strip() for line in shown.splitlines()[2:]] == ["untrained", "trained"]
    assert "31" in shown


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        ("attack", {"success": 0.6, "success low": 0.21}, "a passage that asks for it comes first more often"),
        ("position", {"consistency": 0.2, "consistency high": 0.39}, "places decide more"),
        ("faithfulness", {"tau-b": 0.1, "high": 0.49}, "answers follow their reasoning less"),
    ],
)
def test_a_change_for_the_worse_beyond_both_intervals_is_said(table: str, change: Any, said: str) -> None:
    shown = short_table(tables(**{table: change}), ["untrained", "trained"])
    assert shown.splitlines()[-1].startswith(f"  after training {said}")
    inside = {key: BEFORE[table].get(key) for key in change}
    assert "after training" not in short_table(tables(**{table: inside}), ["untrained", "trained"])
    assert "after training" not in short_table(tables(**{table: change}), ["trained", "untrained"]), "it got better"
    assert "after training" not in short_table(tables(**{table: change}), ["trained"])


def test_rows_of_other_attacks_units_and_bare_prompts_are_others() -> None:
    found = tables()
    found["attack"].insert(0, {**found["attack"][0], "attack": "harmless", "success": 0.9})
    found["attack"].insert(0, {**found["attack"][0], "attack": "order", "neutralise": "no", "success": 0.9})
    found["length"].insert(0, {**found["length"][0], "unit": "window", "mean tokens": 99.0})
    shown = short_table(found, ["untrained"])
    assert "0.1000" in shown
    assert "0.9" not in shown
    assert "99" not in shown


def test_it_asks_about_few_windows_of_one_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path, *SMALL, "analyse.after_training=3", "evaluation.samples=0")
    look_at_answers(run)
    folder = run.folder / "analysis-short"
    rows = read(folder / "analysis.json")["benchmarks"]["synthetic"]["tables"]
    assert {row["windows"] for row in (*rows["position"], *rows["attack"])} == {3}
    assert {row["attack"] for row in rows["attack"]} == {"harmless", "order"}
    assert rows["length"][0]["points"] == 3
    assert not list(folder.rglob("*.png"))
    assert "scripted: oracle" in capsys.readouterr().out
    assert not (run.folder / "analysis").exists(), "task=analyse has a folder of its own"


def test_none_is_made_where_none_is_asked_for_and_no_fault_ends_the_pipeline(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = made(tmp_path, *SMALL, "analyse.after_training=0")
    look_at_answers(run)
    assert not (run.folder / "analysis-short").exists()
    run = made(tmp_path, *SMALL)
    missing = Benchmark(
        "gone", BeirFolder(str(tmp_path / "gone"), "test", "gone"), run.experiment.benchmark.benchmarks[0].retriever
    )
    with caplog.at_level(logging.WARNING):
        look_at_answers(with_benchmark(run, missing))
    assert "no look at what training did to the answers" in caplog.text
