"""What ``task=preflight`` says of reranking's cost: the counts are those of a real run, the sums those of a pencil."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tasks.runs import made, read
from tests.tasks.test_rerank import carried_out, rows

from rearank.config import ConfigError
from rearank.engines import OpenAINode
from rearank.engines.openai.overflow import tokens_of
from rearank.experiment import Run
from rearank.reranker.setup import Parts
from rearank.sections import Machine, RerankCost
from rearank.tasks.preflight import PreflightError, preflight
from rearank.tasks.rerank_cost import Amount, cost_lines, measured
from rearank.types import Candidates, Passage, Query

SCRIPTED = ("task=preflight", "engine=scripted", "engine.behaviour=given")
H100 = {"prompt_speed": 30_000, "answer_speed": 3_000, "dollars_an_hour": 2.5, "source": "a test"}


def command(folder: Path, *overrides: str) -> Run:
    return made(folder, "experiment=quickstart", "tracking=none", "strategy=sliding_window", *overrides)


def said(run: Run, capsys: pytest.CaptureFixture[str]) -> list[str]:
    preflight(run)
    return [line.removeprefix("preflight: ") for line in capsys.readouterr().out.splitlines()]


def parts_of(run: Run) -> Parts:
    chosen = run.experiment
    return Parts(chosen.model, chosen.prompt, chosen.strategy, chosen.engine)


def test_the_tokens_are_those_that_the_engine_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lists of one window: later windows hold what the model's answers make of them."""
    pytest.importorskip("transformers")
    given_keys = ("engine=transformers", f"rerank.input={rows(tmp_path, queries=8, passages=4)}", "model.max_tokens=8")
    lines = said(command(tmp_path, *given_keys, "task=preflight"), capsys)
    run = carried_out(command(tmp_path, *given_keys, "task=rerank", f"rerank.output={tmp_path}/out.jsonl"))
    real = read(run.folder / "rerank/summary.json")["calls"]
    figures = re.fullmatch(
        r"prompts: ([\d,]+) tokens on average, [\d,]+ at most, ([\d,]+) in all; counted by the tokenizer of "
        r"\S+ on 8 lists, 8 windows",
        lines[1],
    )
    assert figures is not None, lines[1]
    assert int(figures[2].replace(",", "")) == real["prompt_tokens"]
    assert lines[2].startswith("answers: at most 8 tokens each (model.max_tokens), 64 in all")


def test_hours_and_dollars_are_of_the_figures_that_were_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    machines = (
        "+rerank.cost.machines.h100={prompt_speed:1,answer_speed:0.1,dollars_an_hour:2,count:4,source:mine}",
        "+rerank.cost.machines.api={price_prompt:500000,price_answer:1000000,source:its list}",
    )
    keys = ("task=preflight", "engine=transformers", f"rerank.input={rows(tmp_path, 40, 4)}")
    keys += ("rerank.cost.answer_tokens=100", "rerank.cost.lists=40", "model.max_tokens=8")
    run = command(tmp_path, *keys, *machines)
    lines = said(run, capsys)
    prompts = 40 * float(lines[1].split()[1])
    hours = (prompts + 40 * 100 * 10) / 4 / 3600
    assert lines[2] == "answers: 100 tokens each (rerank.cost.answer_tokens), 4,000 in all"
    found = re.fullmatch(r"4 x h100: ([\d.]+) hours, \$([\d.]+) \(mine\)", lines[3])
    assert found is not None, lines[3]
    assert float(found[1]) == pytest.approx(hours, rel=0.02)
    assert float(found[2]) == pytest.approx(hours * 4 * 2, rel=0.02)
    paid = re.fullmatch(r"api: \$([\d,.]+) \(its list\)", lines[4])
    assert paid is not None, lines[4]
    assert float(paid[1].replace(",", "")) == pytest.approx(prompts * 0.5 + 4000, rel=0.02)


def test_without_figures_nothing_is_said_of_hours_or_dollars(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    lines = said(command(tmp_path, "task=preflight", "engine=transformers", f"rerank.input={rows(tmp_path)}"), capsys)
    assert not [line for line in lines if "$" in line or "hours" in line or "seconds" in line]


def test_a_sample_is_spread_over_the_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The later half of the lists is ten times as long: the mean shows both."""
    pytest.importorskip("transformers")
    path = tmp_path / "in.jsonl"
    lines = [f'{{"query": "water", "passages": ["{"fire " * (5 if n < 50 else 50)}"]}}\n' for n in range(100)]
    path.write_text("".join(lines))
    keys = ("task=preflight", "engine=transformers", f"rerank.input={path}")
    some = said(command(tmp_path, *keys, "rerank.cost.lists=10"), capsys)[1]
    every = said(command(tmp_path, *keys, "rerank.cost.lists=100"), capsys)[1]
    assert some.split()[1] == every.split()[1]
    assert "±" in some
    assert "±" not in every


def test_a_model_behind_a_server_is_counted_by_length(tmp_path: Path) -> None:
    run = command(tmp_path, "task=preflight", f"rerank.input={rows(tmp_path, 3, 4)}")
    node = OpenAINode(base_url="http://127.0.0.1:9/v1", price_prompt=1e6, price_completion=2e6, budget=1.0)
    parts = replace(parts_of(run), model=replace(run.experiment.model, path="gpt-4", max_tokens=10), engine=node)
    lists = [Candidates(Query(f"q{n}", "?"), tuple(Passage(str(k), "ab cd") for k in range(4))) for n in range(3)]
    sample = measured(lists, parts)
    assert sample.calls == [1, 1, 1]
    assert "4 bytes a token" in sample.counted_by
    settings = replace(run.experiment.rerank, output="-")
    lines = cost_lines(settings, run.experiment.benchmark, parts)
    tokens = float(lines[1].split()[1].replace(",", ""))
    assert tokens > tokens_of("text 0 0") * 4
    dollars = re.search(r"calls: \$([\d,.]+) by engine.price_prompt", lines[3])
    assert dollars is not None
    assert float(dollars[1].replace(",", "")) == pytest.approx(3 * tokens + 3 * 10 * 2, abs=3)
    assert lines[3].endswith("engine.budget=1 stops it before")


def test_lists_that_cannot_be_asked_are_said(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    run = command(tmp_path, "task=preflight", "engine=transformers", "engine.overflow=refuse")
    parts = parts_of(run)
    parts = replace(parts, prompt=replace(parts.prompt, max_characters=None))
    long = Candidates(Query("q", "?"), (Passage("a", "water " * 5000), Passage("b", "x")))
    sample = measured([long], parts)
    assert sample.calls == []
    assert "too long" in sample.failures[0] or "tokens" in sample.failures[0]


def test_input_or_output_is_enough_to_ask_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rows(tmp_path)
    lines = said(command(tmp_path, *SCRIPTED, f"rerank.input={path}"), capsys)
    assert lines[0].startswith(f"{path}: 12 queries, 12 windows")
    with pytest.raises(PreflightError, match=r"rerank\.input: a value is missing"):
        preflight(command(tmp_path, *SCRIPTED, "rerank.output=x.jsonl"))


@pytest.mark.parametrize(
    ("wrong", "said_of_it"),
    [
        ({"prompt_speed": 1, "answer_speed": 1}, "source is missing"),
        ({"source": " ", "speed": 1}, "source must say where the figures are from"),
        ({"source": "x"}, "set prompt_speed and answer_speed, or speed alone"),
        ({"source": "x", "prompt_speed": 1}, "belong together"),
        ({"source": "x", "price_prompt": 1}, "belong together"),
        ({"source": "x", "speed": 1, "prompt_speed": 1, "answer_speed": 1}, "or speed alone"),
        ({"source": "x", "speed": 0}, "speed must be a number above 0, not 0"),
        ({"source": "x", "speed": "fast"}, "speed must be a number above 0, not 'fast'"),
        ({"source": "x", "speed": float("nan")}, "speed must be a number above 0"),
        ({"source": "x", "price_prompt": 1, "price_answer": 1, "dollars_an_hour": 2}, "dollars_an_hour needs a speed"),
        ({"source": "x", "tokens": 1}, "no such key: tokens"),
        ("fast", "must be a mapping"),
    ],
)
def test_machines_that_can_not_be(tmp_path: Path, wrong: Any, said_of_it: str) -> None:
    with pytest.raises(ValueError, match=r"machines\.m: ") as caught:
        RerankCost(machines={"m": wrong})
    assert said_of_it in str(caught.value)


def test_a_wrong_machine_on_the_command_line_names_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rerank\.cost: machines\.m: source is missing"):
        command(tmp_path, "+rerank.cost.machines.m={speed:1}")


@given(
    st.floats(1, 1e9), st.floats(0, 1e12), st.floats(0, 1e12), st.integers(1, 50), st.integers(1, 64),
    st.floats(0.01, 100),
)  # fmt: skip
def test_more_machines_take_less_time_and_the_same_dollars(
    windows: float, prompts: float, answers: float, chain: int, many: int, seconds: float
) -> None:
    work = Amount(windows, prompts, answers, chain)
    one, several = Machine(**H100), Machine(**H100, count=many)
    hours, spread = work.hours(one), work.hours(several)
    assert hours is not None
    assert spread == pytest.approx(hours / many)
    assert work.dollars(several) == pytest.approx(work.dollars(one))
    slow = Machine(**H100, count=many, call_seconds=seconds)
    assert (work.hours(slow) or 0.0) >= chain * seconds / 3600 * (1 - 1e-9)
    assert (work.hours(slow) or 0.0) >= (spread or 0.0)


def test_rent_and_tokens_add_up() -> None:
    work = Amount(10, 2e6, 1e6)
    both = Machine("x", speed=1000.0, dollars_an_hour=6.0, price_prompt=1.0, price_answer=4.0)
    assert work.hours(both) == pytest.approx(3e6 / 1000 / 3600)
    assert work.dollars(both) == pytest.approx(5.0 + 6.0)
    assert work.hours(Machine("x", price_prompt=1.0, price_answer=4.0)) is None
    assert work.dollars(Machine("x", speed=1.0)) is None
