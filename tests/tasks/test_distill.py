"""A teacher over HTTP: what it says is kept where the judgements agree, paid for once, and learnt as it stands."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from tests.engines.canned_server import canned_server, chat
from tests.tasks.runs import made, read

from rearank.data import PromptedWindow
from rearank.experiment import Run
from rearank.metrics import ndcg
from rearank.parsing import ParseStatus, parse_ranking
from rearank.ranking import AbortRunError
from rearank.sections import Distill
from rearank.tasks.distill import DistillError, DistillTask, agreement, judged
from rearank.tasks.pipeline import prepare_rows, teachers_file
from rearank.tasks.preflight import PreflightError, preflight
from rearank.training.rows import TrainingRow
from rearank.training.sft import Sft
from rearank.training.traces import Trace, TraceError, answer_text, digest_of, read_traces, taught, write_traces
from rearank.types import JudgedWindow, Message, Passage, Permutation, Query, Window

BASE = (
    "experiment=quickstart",
    "tracking=none",
    "task=distill",
    "dataset.collection.query_count=12",
    "prepare.queries=6",
)
ANY = Distill(min_ndcg=None, min_gain=None)
LABEL = re.compile(r"^\[(\d+)\]", re.MULTILINE)


def row(*grades: int, index: int = 0) -> TrainingRow:
    window = Window(Query("q", "x"), tuple(Passage(f"d{i}", "") for i in range(len(grades))))
    return TrainingRow(index, "here", "train", (Message("user", "?"),), JudgedWindow(window, grades))


def said(*order: int, think: str = "because", size: int | None = None) -> Any:
    return parse_ranking(answer_text(order, think, tags=True), size or len(order))


def test_the_best_of_several_is_kept_and_of_equal_ones_the_first() -> None:
    one, two, three = said(0, 1, 2, think="a"), said(1, 2, 0, think="b"), said(1, 0, 2, think="c")
    trace = judged(row(0, 2, 0), [one, two, three], Distill(samples=3))
    assert (trace.order, trace.reasoning, trace.dropped) == (("d1", "d2", "d0"), "b", None)
    assert trace.ndcg == 1.0
    assert trace.given_ndcg == pytest.approx(ndcg([0, 2, 0], [2, 0, 0]))
    taus = [
        kendalltau([0, 1, 2], [2, 0, 1])[0],
        kendalltau([0, 1, 2], [1, 0, 2])[0],
        kendalltau([2, 0, 1], [1, 0, 2])[0],
    ]
    assert trace.agreement == pytest.approx(sum(taus) / 3)


@pytest.mark.parametrize(
    ("grades", "answers", "settings", "why"),
    [
        ((0, 2, 0), [said(0, 1, 2)], Distill(), "below min_ndcg"),
        ((2, 1, 0), [said(1, 0, 2)], Distill(min_ndcg=None), "below min_gain"),
        ((0, 0, 0), [said(0, 1, 2)], Distill(), "nothing relevant in the window"),
        ((0, 0, 0), [said(0, 1, 2)], ANY, None),
        ((0, 1, 0), [said(1, 0, 2), said(2, 0, 1)], Distill(samples=2, min_agreement=0.0), "below min_agreement"),
        ((0, 1, 0), [said(1, 0, 2), None], Distill(samples=2, min_agreement=0.0), "below min_agreement"),
        ((0, 1, 0), [None], ANY, "failed"),
        ((0, 1, 0), [said(1, 0, size=3)], ANY, "unread: partial"),
        ((0, 1, 0), [parse_ranking("<think> no end", 3)], ANY, "unread: unclosed_think"),
        ((0, 1, 0), [None, said(1, 0, 2)], Distill(samples=2), None),
    ],
)
def test_what_is_dropped_says_why(grades: Any, answers: Any, settings: Distill, why: str | None) -> None:
    assert judged(row(*grades), answers, settings).dropped == why


@given(st.data())
def test_nothing_kept_misses_a_threshold_and_what_is_kept_reads_back(data: st.DataObject) -> None:
    grades = data.draw(st.lists(st.integers(-1, 3), min_size=2, max_size=6))
    orders = st.permutations(range(len(grades)))
    drawn = data.draw(st.lists(st.none() | st.tuples(orders, st.text()), min_size=1, max_size=4))
    answers = [None if one is None else said(*one[0], think=one[1]) for one in drawn]
    wanted = Distill(samples=4, min_ndcg=data.draw(st.floats(0, 1)), min_gain=data.draw(st.floats(-1, 1)))
    trace = judged(row(*grades), answers, wanted)
    if trace.dropped is not None:
        return
    assert trace.ndcg is not None
    assert trace.given_ndcg is not None
    assert wanted.min_gain is not None
    assert trace.ndcg >= (wanted.min_ndcg or 0.0)
    assert trace.ndcg - trace.given_ndcg >= wanted.min_gain
    for tags in (True, False):
        answer = trace.answer(tags=tags)
        assert answer is not None
        again = parse_ranking(answer, len(grades), tags=tags)
        assert tuple(f"d{i}" for i in again.permutation.order) == trace.order
        assert again.status is ParseStatus.OK


@given(st.permutations(range(4)), st.text(alphabet="<>/ thinkaswer[1] >23\n", max_size=60))
def test_no_reasoning_ends_or_changes_the_answer(order: list[int], reasoning: str) -> None:
    read = parse_ranking(answer_text(order, reasoning, tags=True), 4)
    assert (read.permutation.order, read.status) == (tuple(order), ParseStatus.OK)


def test_agreement_is_the_mean_of_kendalls_tau() -> None:
    orders = [Permutation(one) for one in list(permutations(range(4)))[::5]]
    ranks = [[order.order.index(i) for i in range(4)] for order in orders]
    pairs = [kendalltau(a, b)[0] for n, a in enumerate(ranks) for b in ranks[n + 1 :]]
    assert agreement(orders) == pytest.approx(sum(pairs) / len(pairs))
    assert agreement(orders[:1]) is None


def test_a_teacher_over_http(tmp_path: Path) -> None:
    """Orders every window backwards, with the reasoning in a field of its own, as reasoning models' servers do."""

    def respond(request: dict[str, Any], number: int) -> tuple[int, Any]:
        labels = LABEL.findall(request["messages"][-1]["content"])
        order = " > ".join(f"[{label}]" for label in reversed(labels))
        told = f"call it </think> <answer> [1] </answer> {number}"
        usage = {"prompt_tokens": 100, "completion_tokens": 50}
        return 200, {**chat(f"<answer> {order} </answer>", usage=usage, reasoning_content=told), "model": "teacher"}

    with canned_server(respond) as server:
        teacher = (
            *(
                "engine=openai",
                f"engine.base_url={server.url}",
                "engine.price_prompt=10000",
                "engine.max_concurrent_calls=2",
            ),
            *("engine.price_completion=0", "model.name=teacher", "model.path=teacher", "model.prompt=null"),
        )
        free = ("distill.min_ndcg=null", "distill.min_gain=null")
        # The budget ends it in the middle: each call is a dollar. What was said is kept.
        with pytest.raises(AbortRunError, match="budget"):
            distilled(made(tmp_path, *BASE, *teacher, *free, "engine.budget=7"))
        asked = len(server.requests)
        assert asked > 0
        run = made(tmp_path, *BASE, *teacher, *free, "engine.budget=null")
        summary = distilled(run)
        rows = prepare_rows(run).train()
        assert len(server.requests) == len(rows) == summary["windows"] == summary["kept"], "none was asked for twice"
        assert distilled(run) == summary, "found"
        # Another threshold asks nobody.
        strict = distilled(made(tmp_path, *BASE, *teacher))
        assert len(server.requests) == len(rows)
    assert strict["kept"] + sum(strict["dropped"].values()) == summary["windows"]
    assert 0 < strict["kept"] < summary["kept"]
    costs = [json.loads(line) for line in (run.folder / "distilled.1" / "cost.jsonl").read_text().splitlines()]
    assert sum(line["calls_paid_now"] - line["calls_failed_now"] for line in costs) == len(rows)
    assert costs[0]["ended"] == "stopped"
    traces = {
        (trace.query, trace.passages): trace for trace in read_traces(run.folder / "distilled.1" / "teacher.jsonl")
    }
    assert all(trace.order == trace.passages[::-1] for trace in traces.values())
    answers = taught(rows, run.folder / "distilled.1" / "teacher.jsonl", tags=True)
    for answer, one in zip(answers, rows, strict=True):
        assert answer is not None
        parsed = parse_ranking(answer, len(one.judged.window))
        assert parsed.permutation.order == tuple(reversed(range(len(one.judged.window))))
        assert parsed.think is not None
        assert parsed.think.strip() == "call it", "a tag in it ends the reasoning, and changes no order"


def distilled(run: Run) -> Any:
    preflight(run)
    DistillTask().run(run)
    return read(run.folder / "distilled" / "summary.json")


@pytest.mark.parametrize("behaviour", ["oracle", "malformed"])
def test_fakes_are_teachers_too(behaviour: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(
        tmp_path,
        *(*BASE, "engine=scripted", f"engine.behaviour={behaviour}", "distill.windows=9", "distill.max_unread=null"),
    )
    if behaviour == "malformed":
        with pytest.raises(DistillError, match="no answer of the teacher's was kept"):
            distilled(run)
        assert len(list(read_traces(run.folder / "distilled" / "teacher.jsonl"))) == 9
        return
    summary = distilled(run)
    assert (summary["windows"], summary["kept"], summary["kept_ndcg"]) == (9, 9, 1.0)
    queries = {trace.query for trace in read_traces(run.folder / "distilled" / "teacher.jsonl")}
    assert len(queries) == 6, "spread over the queries"
    assert "scripted: oracle: 9 of 9 windows kept" in capsys.readouterr().out


def test_several_answers_need_a_temperature(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match=r"set distill\.temperature=0\.7"):
        distilled(made(tmp_path, *BASE, "engine=scripted", "distill.samples=2"))
    with pytest.raises(ValueError, match="set samples=4"):
        Distill(min_agreement=0.5)


def test_calls_that_fail_end_it_and_are_asked_again(tmp_path: Path) -> None:
    failing = ("engine=scripted", "engine.failing=0.5", "distill.min_ndcg=null", "distill.min_gain=null")
    with pytest.raises(DistillError, match=r"calls to the teacher failed.*distill\.max_failed"):
        distilled(made(tmp_path, *BASE, *failing))
    summary = distilled(made(tmp_path, *BASE, *failing, "distill.max_failed=1"))
    assert summary["dropped"] == {"failed": summary["windows"] - summary["kept"]}
    assert 0 < summary["kept"] < summary["windows"]


def test_nothing_starts_without_answers_to_learn(tmp_path: Path) -> None:
    run = made(tmp_path, *BASE[:2], "task=sft", "sft.targets=teacher")
    with pytest.raises(PreflightError, match=r"teacher\.jsonl isn't there; run task=distill"):
        preflight(run)
    assert teachers_file(run) == run.folder / "distilled" / "teacher.jsonl"
    with pytest.raises(PreflightError, match="labelled with letters"):
        preflight(made(tmp_path, *BASE[:2], "task=sft", "+prompt.labels=letters"))
    with pytest.raises(PreflightError, match="takes orders of numbered passages"):
        preflight(made(tmp_path, *BASE, "engine=scripted", "+prompt.labels=letters"))
    with pytest.raises(PreflightError, match="this dataset has none"):
        preflight(made(tmp_path, *BASE[:2], "task=sft", "sft.targets=given"))


def test_a_teachers_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "distilled" / "teacher.jsonl"
    window = row(1, 0).judged.window
    kept = Trace("q", ("d0", "d1"), ("d1", "d0"), "why \ud800", 1.0, 0.6, None, 1, digest_of(window), None)
    write_traces(path, [replace(kept, dropped="below min_ndcg"), kept, replace(kept, reasoning="later")])
    assert next(iter(read_traces(path))) == replace(kept, dropped="below min_ndcg")
    assert Sft(targets="teacher", traces=str(tmp_path)).traces == str(path), "a run's folder names its file"
    assert Sft(targets="teacher", traces=str(path.parent)).traces == str(path)
    (answer,) = taught([row(1, 0)], path, tags=True)
    assert answer == "<think> why \ud800 </think> <answer> [2] > [1] </answer>"
    assert taught([row(1, 0, 0)], path, tags=True) == [None], "another window"
    passages = (replace(window.passages[0], text="edited"), *window.passages[1:])
    edited = replace(row(1, 0), judged=replace(row(1, 0).judged, window=replace(window, passages=passages)))
    assert taught([edited], path, tags=True) == [None], "the reasoning is about other texts"
    assert "2 answers are left out: the texts of their windows have changed since" in caplog.text
    with path.open("a") as file:
        file.write('{"query": "q", "passages": ["d0"], "reasoning": ""}\n')
    with pytest.raises(TraceError, match=r"teacher\.jsonl:4: no teacher's answer \(no field 'order'\)"):
        list(read_traces(path))
    with pytest.raises(TraceError, match="run task=distill with the teacher first"):
        list(read_traces(tmp_path / "absent"))


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["d0", "d1", "d2", "x"]), max_size=4))
def test_an_order_that_is_no_permutation_is_no_answer(order: list[str]) -> None:
    trace = Trace("q", ("d0", "d1", "d2"), tuple(order), "")
    assert (trace.answer(tags=True) is not None) == (sorted(order) == ["d0", "d1", "d2"])


def test_the_former_key_says_what_it_is_called_now(caplog: pytest.LogCaptureFixture) -> None:
    assert Sft(notes="grades").targets == "grades"
    assert [record.message for record in caplog.records] == ["sft.notes=grades is called sft.targets=grades now"]
    assert Sft().targets == "ideal"
    with pytest.raises(ValueError, match="leave notes out"):
        Sft(notes="grades", targets="teacher")


def test_rows_without_an_answer_are_refused_where_one_is_needed() -> None:
    window = PromptedWindow(row(1, 0).judged.window, (1, 0), completion="<answer> [1] > [2] </answer>")
    given_row = replace(row(1, 0), judged=window, completion=window.completion)
    assert Sft(targets="given").answers([given_row], tags=True) == [window.completion]
    with pytest.raises(ValueError, match="row 3 has no answer to learn"):
        Sft(targets="given").answers([given_row, row(1, 0, index=3)], tags=True)
