"""In a sweep an untrained model is asked once: other jobs find its answers, and each folder holds them all."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.tasks.runs import SMALL, SpendError, made, priced

from rearank.experiment import Run
from rearank.tasks.pipeline import analyse_models, evaluate_models

FEW = (*SMALL, "evaluation.samples=0", "analyse.what=[length]")


def job(sweep: Path, name: str, *overrides: str) -> Run:
    """A job of the sweep in the folder ``sweep``."""
    return replace(made(sweep / name, *FEW, f"paths.cache={sweep}/cache", *overrides), sweep=sweep)


def answers(folder: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(folder / "completions.sqlite")) as store:
        return sorted(store.execute("select key, text, cost from completions"))


def test_the_second_job_asks_nothing(tmp_path: Path) -> None:
    one, other = job(tmp_path, "one"), job(tmp_path, "other", "seed=2")
    evaluate_models(priced(one, dollars=0.5))
    summary = evaluate_models(priced(other, most=0))
    assert summary["base"] == json.loads((one.folder / "summary.json").read_text())["base"]
    assert answers(other.folder) == answers(one.folder) == answers(tmp_path / "shared")
    assert len(answers(one.folder)) > 0
    kept = ("evaluation", "synthetic", "base", "metrics.json")
    assert one.folder.joinpath(*kept).read_bytes() == other.folder.joinpath(*kept).read_bytes()
    analyse_models(priced(job(tmp_path, "third"), most=0))


def test_outside_a_sweep_nothing_is_shared(tmp_path: Path) -> None:
    evaluate_models(priced(replace(job(tmp_path, "one"), sweep=None)))
    assert not (tmp_path / "shared").exists()
    with pytest.raises(SpendError):
        evaluate_models(priced(replace(job(tmp_path, "other"), sweep=None), most=0))


def test_another_depth_takes_what_is_there_and_asks_the_rest(tmp_path: Path) -> None:
    evaluate_models(priced(job(tmp_path, "one", "evaluation.depth=5")))
    first = len(answers(tmp_path / "shared"))
    evaluate_models(priced(job(tmp_path, "two", "evaluation.depth=20")))
    assert len(answers(tmp_path / "shared")) > first
