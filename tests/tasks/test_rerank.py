"""``task=rerank`` in this process: what is written, what is kept, what ends it, and that the same command goes on."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.tasks.runs import SpendError, made, priced, read

from rearank.data import DataError
from rearank.engines import EngineError, ScriptedEngine
from rearank.engines.session import Session
from rearank.experiment import Run
from rearank.ranking import Failure, Pointwise, SlidingWindow
from rearank.sections import Rerank
from rearank.tasks.evaluate.reranking import UnreadError
from rearank.tasks.preflight import PreflightError, preflight
from rearank.tasks.rerank import outputs
from rearank.tasks.rerank.in_order import InOrder, read_apart
from rearank.tasks.rerank.records import TrecLines, record_of
from rearank.tasks.rerank.reranking import RerankError
from rearank.types import Candidates, Passage, Query, Ranking

SCRIPTED = (
    *("task=rerank", "experiment=quickstart", "engine=scripted", "engine.behaviour=reverse", "tracking=none"),
    "strategy=sliding_window",
)
QUERIES = 12


def rows(folder: Path, queries: int = QUERIES, passages: int = 4) -> str:
    path = folder / "in.jsonl"
    lines = [
        {"id": f"q{n}", "query": f"query {n}", "passages": [f"text {n} {place}" for place in range(passages)]}
        for n in range(queries)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def command(folder: Path, *overrides: str, output: str = "out.jsonl") -> Run:
    return made(folder, *SCRIPTED, f"rerank.output={folder}/{output}", *overrides)


def carried_out(run: Run) -> Run:
    preflight(run)
    run.experiment.task.run(run)
    return run


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def order(record: dict[str, Any]) -> list[str]:
    return [one["id"] for one in record["passages"]]


def test_rows_are_reranked_and_keep_their_tail(tmp_path: Path) -> None:
    run = carried_out(command(tmp_path, f"rerank.input={rows(tmp_path)}", "rerank.depth=3"))
    records = written(tmp_path / "out.jsonl")
    assert [one["id"] for one in records] == [f"q{n}" for n in range(QUERIES)]
    assert records[1] == {
        "id": "q1",
        "query": "query 1",
        "passages": [
            {"id": "2", "rank": 1, "score": 1.0, "index": 2},
            {"id": "1", "rank": 2, "score": 0.5, "index": 1},
            {"id": "0", "rank": 3, "score": 1 / 3, "index": 0},
            {"id": "3", "rank": 4, "score": 0.25, "index": 3},
        ],
        "calls": 1,
        "statuses": {"ok": 1},
        "prompt_tokens": records[1]["prompt_tokens"],
        "completion_tokens": records[1]["completion_tokens"],
        "cost": 0.0,
    }
    assert records[1]["prompt_tokens"] > records[1]["completion_tokens"] > 0
    summary = read(run.folder / "rerank/summary.json")
    assert (summary["queries"], summary["calls"]["calls"], summary["scores"]) == (QUERIES, QUERIES, "1 / rank")
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl", "run", "cache"}, "no scrap is left"


def test_texts_and_reasoning_are_written_where_asked_in_each_format(tmp_path: Path) -> None:
    asked = (f"rerank.input={rows(tmp_path)}", "rerank.texts=true", "rerank.reasoning=true")
    carried_out(command(tmp_path, *asked))
    record = written(tmp_path / "out.jsonl")[2]
    assert record["passages"][0] | {"score": None} == {
        **{"id": "3", "rank": 1, "score": None, "index": 3, "title": "", "text": "text 2 3"}
    }
    thought = " The scripted engine's reverse order. "
    window = {"shown": [0, 1, 2, 3], "ordered": [3, 2, 1, 0], "status": "ok", "reasoning": thought}
    assert record["windows"] == [{**window, "answer": " [4] > [3] > [2] > [1] "}]
    carried_out(command(tmp_path, *asked, output="out.parquet"))
    stored = pq.read_table(tmp_path / "out.parquet").to_pylist(maps_as_pydicts="strict")
    assert stored == written(tmp_path / "out.jsonl")
    carried_out(command(tmp_path, *asked, output="out.trec"))
    assert (tmp_path / "out.trec").read_text().splitlines()[:2] == ["q0 Q0 3 1 4 rearank", "q0 Q0 2 2 3 rearank"]


def local(folder: Path) -> tuple[str, ...]:
    (folder / "docs.tsv").write_text("".join(f"d{n}\train {n} {'may ' * n}\n" for n in range(6)))
    (folder / "topics.tsv").write_text("q1\train\nq2\tmay\n")
    where = "benchmark.collection"
    return (
        "benchmark=local",
        f"{where}.docs={folder}/docs.tsv",
        f"{where}.topics={folder}/topics.tsv",
        "rerank.depth=3",
    )


def test_a_run_and_topics_over_a_collection_without_judgements(tmp_path: Path) -> None:
    over = local(tmp_path)
    (tmp_path / "my.trec").write_text("".join(f"q2 Q0 d{n} {n + 1} {9 - n} x\n" for n in range(5)))
    carried_out(command(tmp_path, *over, f"rerank.input={tmp_path}/my.trec", output="out.trec"))
    ranked = [line.split()[2] for line in (tmp_path / "out.trec").read_text().splitlines()]
    assert ranked == ["d2", "d1", "d0", "d3", "d4"]
    other = tmp_path / "other.tsv"
    other.write_text("q2\train in may\n")
    carried_out(command(tmp_path, *over, f"rerank.input={tmp_path}/my.trec", f"rerank.queries={other}"))
    assert [one["query"] for one in written(tmp_path / "out.jsonl")] == ["rain in may"]
    carried_out(command(tmp_path, *over, "rerank.format=topics", output="new/found.jsonl"))
    found = written(tmp_path / "new/found.jsonl")
    assert [order(one) for one in found] == [["d2", "d1", "d0"], ["d3", "d4", "d5"]], "BM25's first three, reversed"
    given = command(tmp_path, *over, f"rerank.input={other}", output="given.jsonl")
    carried_out(given)
    assert [one["query"] for one in written(tmp_path / "given.jsonl")] == ["rain in may"]


def test_an_evaluation_without_judgements_says_so(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"no judgements.*set benchmark\.collection\.qrels_file=\.\.\."):
        preflight(made(tmp_path, "task=evaluate", "experiment=quickstart", "engine=none", *local(tmp_path)[:-1]))


def test_what_other_settings_made_is_kept_and_what_is_there_is_not_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    given, output = f"rerank.input={rows(tmp_path)}", tmp_path / "out.jsonl"
    carried_out(command(tmp_path, given))
    first = output.read_bytes()
    run = command(tmp_path, given, "rerank.max_concurrent_queries=3")
    run.experiment.task.run(priced(run, most=0))  # an engine that answers nothing
    assert f"{output} is there already: {QUERIES} queries" in capsys.readouterr().out
    with caplog.at_level(logging.WARNING):
        carried_out(command(tmp_path, given, "rerank.depth=2"))
    assert f"{output}: it was made with other settings, or by another program: kept as {output}.1" in caplog.text
    assert "rerank.depth: 100 -> 2" in caplog.text
    assert (tmp_path / "out.jsonl.1").read_bytes() == first != output.read_bytes()
    output.write_text("a user's own\n")
    carried_out(command(tmp_path, given, "rerank.depth=2"))
    assert (tmp_path / "out.jsonl.2").read_text() == "a user's own\n"
    Path(rows(tmp_path)).write_text(json.dumps({"query": "x", "passages": ["y", "z"]}))
    carried_out(command(tmp_path, given, "rerank.depth=2"))
    assert len(written(output)) == 1, "another input is another result"


def test_a_budget_stops_it_and_the_same_command_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    settings = ("engine.seconds=0.001", "rerank.max_concurrent_queries=3")
    one = priced(command(whole, f"rerank.input={rows(whole)}", *settings), dollars=0.25)
    one.experiment.task.run(one)
    run = command(stopped, f"rerank.input={rows(stopped)}", *settings)
    with pytest.raises(SpendError):
        run.experiment.task.run(priced(run, dollars=0.25, most=5))
    assert not (stopped / "out.jsonl").exists()
    run.experiment.task.run(priced(run, dollars=0.25, most=QUERIES - 5))
    assert (stopped / "out.jsonl").read_bytes() == (whole / "out.jsonl").read_bytes()
    assert written(stopped / "out.jsonl")[0]["cost"] == 0.25
    costs = written(run.folder / "rerank/cost.jsonl")
    paid = [(line["ended"], line["calls_paid_now"] - line["calls_failed_now"], line["cost_paid_now"]) for line in costs]
    assert paid == [("stopped: SpendError", 5, 1.25), ("finished", QUERIES - 5, 1.75)], "no answer was paid for twice"
    assert read(run.folder / "rerank/summary.json")["calls"]["cost"] == 0.25 * QUERIES


def test_failed_queries_are_an_error_or_left_out_and_named(tmp_path: Path) -> None:
    given = (f"rerank.input={rows(tmp_path)}", "engine.failing=0.3", "engine.seed=2")
    output = tmp_path / "out.jsonl"
    with pytest.raises(
        RerankError, match=r"of 12 queries failed, the first: query q\d+: EngineError.*out\.jsonl\.part"
    ):
        carried_out(command(tmp_path, *given))
    assert not output.exists()
    there = {one["id"] for one in written(tmp_path / "out.jsonl.partial")}
    assert 0 < len(there) < QUERIES
    run = carried_out(command(tmp_path, *given, "rerank.max_failed=0.9"))
    assert {one["id"] for one in written(output)} == there
    lost = {one["query"]: one["error"] for one in written(tmp_path / "out.jsonl.skipped.jsonl")}
    assert lost.keys() | there == {f"q{n}" for n in range(QUERIES)}
    assert all("as its setting `failing` asks" in error for error in lost.values())
    assert read(run.folder / "rerank/summary.json")["failed"] == len(lost)
    carried_out(command(tmp_path, *given[:1], *given[2:], "engine.failing=0"))
    assert len(written(output)) == QUERIES, "what failed is asked for again"
    assert not (tmp_path / "out.jsonl.skipped.jsonl").exists(), "it was of another output"
    assert (tmp_path / "out.jsonl.skipped.jsonl.1").is_file()


def test_all_queries_that_fail_are_an_error_whatever_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(RerankError, match="12 of 12 queries failed"):
        carried_out(command(tmp_path, f"rerank.input={rows(tmp_path)}", "engine.failing=1", "rerank.max_failed=1"))


def test_bad_rows_are_an_error_before_any_call_or_left_out_and_kept(tmp_path: Path) -> None:
    path = Path(rows(tmp_path, queries=30))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:25], '{"query": "x"}', *lines[25:], "no JSON"]))
    run = command(tmp_path, f"rerank.input={path}")
    with pytest.raises(DataError, match=r"in\.jsonl:26: no list of passages.*1 more rows.*rerank\.bad_rows=skip"):
        carried_out(run)
    assert not (run.folder / "completions.sqlite").exists(), "no model was asked"
    carried_out(command(tmp_path, f"rerank.input={path}", "rerank.bad_rows=skip"))
    assert len(written(tmp_path / "out.jsonl")) == 30
    left_out = written(tmp_path / "out.jsonl.skipped.jsonl")
    assert [one["row"] for one in left_out] == ['{"query": "x"}', "no JSON"]
    assert left_out[1]["error"].startswith(f"{path}:32: not JSON")
    assert read(run.folder / "rerank/summary.json")["skipped"] == 2
    with pytest.raises(DataError, match=r"in\.jsonl:26"):
        carried_out(command(tmp_path, f"rerank.input={path}"))


def test_unread_answers_of_a_released_model_end_it(tmp_path: Path) -> None:
    given = (f"rerank.input={rows(tmp_path)}", "engine.behaviour=malformed", "rerank.max_unread=0.1")
    carried_out(command(tmp_path, *given))
    assert len(written(tmp_path / "out.jsonl")) == QUERIES, "an untrained model's are counted"
    (tmp_path / "out.jsonl").unlink()
    with pytest.raises(UnreadError, match=r"More than rerank\.max_unread=0\.1 of a trained model's answers"):
        carried_out(command(tmp_path, *given, "+model.released=true"))
    assert not (tmp_path / "out.jsonl").exists()


def test_empty_and_single_lists_ask_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"query": "a", "passages": []}\n{"query": "b", "passages": ["c"]}\n')
    carried_out(command(tmp_path, f"rerank.input={path}"))
    assert [(order(one), one["calls"]) for one in written(tmp_path / "out.jsonl")] == [([], 0), (["0"], 0)]
    assert "1 of 2 queries have no passage to rank" in caplog.text


def test_lists_that_are_all_empty_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "in.tsv").write_text("q1\tnothing known\n")
    run = command(tmp_path, *local(tmp_path), f"rerank.input={tmp_path}/in.tsv")
    with pytest.raises(RerankError, match="none of its 1 queries has a passage to rank"):
        carried_out(run)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rerank.input=nowhere.jsonl"], "nowhere.jsonl: no such input (rerank.input)"),
        (["engine.behaviour=oracle"], "engine.behaviour=oracle goes by judgements"),
        (["rerank.output=.", "rerank.output_format=trec"], "rerank.output=.: this is no file"),
        (["rerank.output=pyproject.toml/out.trec"], "pyproject.toml is no folder that can be written to"),
        (["rerank.output=-", "rerank.output_format=parquet"], "parquet can't be written to standard output"),
        (["rerank.output=${rerank.input}"], "in.jsonl: this is the input"),
        (["prompt=pointwise"], "strategy"),
    ],
)
def test_what_stands_in_the_way_is_said_first(tmp_path: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(PreflightError) as caught:
        preflight(command(tmp_path, f"rerank.input={rows(tmp_path)}", *overrides))
    assert said in str(caught.value)


def test_an_output_that_another_run_writes_is_left_alone(tmp_path: Path) -> None:
    with outputs.scratch(tmp_path / "out.jsonl") as stream:
        stream.write(b"the other's")
        stream.flush()
        with pytest.raises(outputs.OutputInUseError, match=r"out\.jsonl: another run writes it"):
            carried_out(command(tmp_path, f"rerank.input={rows(tmp_path)}"))
    assert (tmp_path / "out.jsonl.partial").read_bytes() == b"the other's"
    carried_out(command(tmp_path, f"rerank.input={rows(tmp_path)}"))
    assert len(written(tmp_path / "out.jsonl")) == QUERIES


def test_an_id_that_a_run_cannot_hold_is_no_line_of_it() -> None:
    lines = TrecLines(io.BytesIO())
    with pytest.raises(DataError, match="query 'q', passage 'a b': a TREC run can't hold an id"):
        lines.write({"id": "q", "passages": [{"id": "a b", "rank": 1}]})


def test_it_is_no_job_of_a_sweep(tmp_path: Path) -> None:
    run = command(tmp_path, f"rerank.input={rows(tmp_path)}")
    preflight(run)
    with pytest.raises(PreflightError, match="task=rerank is no job of a sweep; leave out -m"):
        preflight(replace(run, sweep=tmp_path))


def test_preflight_counts_what_there_is_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rows(tmp_path, passages=100)
    preflight(command(tmp_path, "task=preflight", f"rerank.input={path}"))
    assert f"preflight: {path}: 12 queries, 108 windows, at most 9 of them in a row" in capsys.readouterr().out


def test_scores_are_the_strategys_where_it_has_any() -> None:
    given = Candidates(Query("q", "x"), tuple(Passage(name, "") for name in "abcd"))
    record = record_of(given, Ranking("q", ("c", "a", "b"), scores=(0.9, 0.5, 0.5)), None, texts=False)
    assert [(one["id"], one["score"], one["index"]) for one in record["passages"]] == [
        *(("c", 0.9, 2), ("a", 0.5, 0), ("b", 0.5, 1), ("d", None, 3)),
    ]


def test_pointwise_scores_are_written(tmp_path: Path) -> None:
    path = rows(tmp_path, queries=2)
    run = carried_out(command(tmp_path, f"rerank.input={path}", "strategy=pointwise", "prompt=pointwise"))
    assert isinstance(run.experiment.strategy, Pointwise)
    assert {one["score"] for record in written(tmp_path / "out.jsonl") for one in record["passages"]} == {0.0}, "all no"
    assert read(run.folder / "rerank/summary.json")["scores"] == "the strategy's; none below the depth"


class SlowFirst(ScriptedEngine):
    """Answers the query 0 when many others have been answered."""

    async def complete_window(self, window: Any, messages: Any, sampling: Any) -> Any:
        self.most = max(getattr(self, "most", 0), int(window.query.id))
        if window.query.id == "0":
            while self.calls < 11:
                await asyncio.sleep(0)
        return await super().complete_window(window, messages, sampling)


def session(engine: Any) -> Session:
    """With three queries under way at once."""
    prompt = made(Path("nowhere"), *SCRIPTED).experiment.prompt
    return Session(engine, prompt, SlidingWindow(4, 2), max_concurrent_queries=3)


def in_order(engine: Any, lists: Iterator[Candidates], write: Callable[[dict[str, Any]], None]) -> None:
    lost: list[Failure] = []
    asyncio.run(InOrder(session(engine), 100, False, False, write, lost.append).run(lists))
    assert not lost


def lists(queries: int) -> Iterator[Candidates]:
    for number in range(queries):
        yield Candidates(Query(str(number), "x"), tuple(Passage(f"{number}-{place}", "text") for place in range(3)))


def test_a_slow_query_holds_back_what_is_read_and_the_order_stays() -> None:
    engine, ids = SlowFirst("reverse"), list[str]()
    in_order(engine, lists(60), lambda record: ids.append(record["id"]))
    assert ids == [str(n) for n in range(60)]
    engine = SlowFirst("reverse")
    engine.calls = -10_000  # the first one never comes to its end
    reached = list[int]()

    def watched() -> Iterator[Candidates]:
        for item in lists(60):
            reached.append(int(item.query.id))
            yield item

    async def limited() -> None:
        line = InOrder(session(engine), 100, False, False, lambda record: None, lambda failure: None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.run(watched()), 1.0)

    asyncio.run(limited())
    assert max(reached) == 12, "four times as many as are under way, and the next one in hand"


def test_what_reading_raises_ends_it() -> None:
    def broken() -> Iterator[Candidates]:
        yield from lists(2)
        raise DataError("in.jsonl:3: bad")

    with pytest.raises(DataError, match=r"in\.jsonl:3: bad"):
        in_order(ScriptedEngine("reverse"), broken(), lambda record: None)

    def full(record: dict[str, Any]) -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        in_order(ScriptedEngine("reverse"), lists(5), full)


def test_items_are_read_apart_and_in_turn() -> None:
    async def all_of() -> list[int]:
        return [item async for item in read_apart(iter(range(5)))]

    assert asyncio.run(all_of()) == [0, 1, 2, 3, 4]


def test_settings_are_held_to_their_ranges() -> None:
    for wrong in ({"depth": 0}, {"max_failed": 2.0}, {"bad_rows": "ignore"}, {"max_concurrent_queries": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Rerank(**wrong)  # type: ignore[arg-type]


def test_an_engine_that_answers_nothing_is_refused(tmp_path: Path) -> None:
    where = (f"rerank.input={rows(tmp_path)}", f"rerank.output={tmp_path}/out.jsonl")
    with pytest.raises(EngineError, match="engine=none answers nothing"):
        carried_out(made(tmp_path, "task=rerank", "experiment=quickstart", "engine=none", *where))
