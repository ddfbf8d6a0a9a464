"""``rerank.runner=ray`` without Ray: blocks, an actor's work on each, shards, and the output joined of them."""

from __future__ import annotations

import asyncio
import io
import json
import multiprocessing
import pickle
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tasks.runs import composed

from rearank.config import build
from rearank.data import DataError
from rearank.engines import EngineError, OpenAINode, ScriptedNode, TransformersNode, VllmNode
from rearank.engines.account import Account, Unread
from rearank.engines.openai.budget import Budget, BudgetError
from rearank.engines.recording import Spent
from rearank.experiment import Experiment
from rearank.parsing import ParseStatus
from rearank.reranker.setup import Parts
from rearank.runs.stage import Stage
from rearank.sections import Rerank
from rearank.tasks.rerank.inputs import Formats, make_input
from rearank.tasks.rerank.on_ray import BlockSource, Done, Shards, Total, problems
from rearank.tasks.rerank.on_ray.asks import DONE, Asks, Work, _sendable, for_each
from rearank.tasks.rerank.on_ray.budget import Purse, spent_in
from rearank.tasks.rerank.on_ray.machines import ClusterError, Pool, pool_of
from rearank.tasks.rerank.on_ray.shards import MANIFEST, ShardError
from rearank.tasks.rerank.reranking import Place, Reranking
from rearank.training.verl import Cluster


def rows(folder: Path, queries: int, bad: Sequence[int] = ()) -> str:
    """``queries`` lines, those in ``bad`` without passages."""
    lines: list[dict[str, Any]] = [
        {"id": f"q{n}", "query": f"query {n}", **({} if n in bad else {"passages": [f"{n} {p}" for p in range(n % 5)]})}
        for n in range(queries)
    ]
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def shards_of(folder: Path, *, trec: bool = False) -> Shards:
    return Shards(folder / "shards", folder / "answers", trec)


def source_of(folder: Path, settings: Rerank, shards: Shards) -> BlockSource:
    return BlockSource(settings, Formats("jsonl", "trec" if shards.trec else "jsonl"), None, shards, str(folder))


def parts_of(engine: Any) -> Parts:
    experiment: Experiment = build(composed("task=rerank", "experiment=quickstart", "strategy=sliding_window"))
    return Parts(experiment.model, experiment.prompt, experiment.strategy, engine)


def work_of(settings: Rerank, shards: Shards, place: Path, engine: Any = None) -> Work:
    shards.plan(settings.block, "now")
    return Work(settings, parts_of(engine or ScriptedNode("reverse")), shards, "now", str(place))


def asked(asks: Asks, tables: Sequence[Any]) -> list[Any]:
    """What the actor says to each table, all of them at work at once."""

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(asks(table) for table in tables))

    return [pickle.loads(table[DONE][0].as_py()) for table in asyncio.run(all_of_them())]


def done_for(given: Work, source: BlockSource, size: int) -> list[tuple[Done, Spent]]:
    return asked(Asks(given), list(source.tables(size)))


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # actors go where the driver is


@given(st.integers(0, 30), st.integers(1, 9), st.sets(st.integers(0, 29)))
def test_blocks_hold_every_list_and_bad_row_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, queries: int, size: int, bad: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("blocks")
    settings = Rerank(input=rows(folder, queries, sorted(bad)), bad_rows="skip")
    blocks = list(source_of(folder, settings, shards_of(folder)).blocks(size))
    assert [block.number for block in blocks] == list(range(len(blocks)))
    good = [f"q{n}" for n in range(queries) if n not in bad]
    assert [one.query.id for block in blocks for one in block.lists] == good
    assert sum(len(block.bad) for block in blocks) == queries - len(good)
    full = [len(block.lists) + len(block.bad) for block in blocks]
    assert full[:-1] == [size] * len(full[:-1])
    assert all(0 < one <= size for one in full)


def test_shards_join_to_what_one_process_writes(tmp_path: Path) -> None:
    settings = Rerank(input=rows(tmp_path, 23, (4, 22)), bad_rows="skip", depth=3, output="out.jsonl", block=5)
    for trec in (False, True):
        shards = Shards(tmp_path / f"shards{trec}", tmp_path / "answers", trec)
        source = source_of(tmp_path, settings, shards)
        results = done_for(work_of(settings, shards, tmp_path), source, 5)
        total, output, skipped = Total(), io.BytesIO(), io.BytesIO()
        for done, spent in results:
            total.add(done, spent)
        shards.join(total.count(), None, output, skipped)
        expected, left_out = locally(tmp_path / f"local{trec}", settings, "trec" if trec else "jsonl")
        assert (output.getvalue(), skipped.getvalue()) == (expected, left_out)
        assert total.account.calls == sum(n % 5 > 1 for n in range(23) if n not in (4, 22))
        manifest = [json.loads(line) for line in (shards.folder / MANIFEST).read_text().splitlines()]
        assert [one["queries"] for one in manifest] == [4, 5, 5, 5, 2]
        assert sum(one["bytes"] for one in manifest) == len(expected)
    assert [spent.calls for _, spent in results] == [0] * 5, "the second time every answer was recorded"


def locally(folder: Path, settings: Rerank, output_format: Any) -> tuple[bytes, bytes]:
    formats = Formats("jsonl", output_format)
    here = replace(settings, output=str(folder / "out"))
    given = make_input(here, formats, None)  # type: ignore[arg-type]
    stage = Stage(folder / "rerank", {})
    Reranking(
        here, formats, parts_of(ScriptedNode("reverse")), given, stage, Place(folder, Cluster(), None)
    ).carry_out()
    return (folder / "out").read_bytes(), (folder / "out.skipped.jsonl").read_bytes()


def test_a_shard_that_is_done_is_not_sent_and_not_asked_again(tmp_path: Path) -> None:
    settings = Rerank(input=rows(tmp_path, 12), block=4)
    shards = shards_of(tmp_path)
    source, work = source_of(tmp_path, settings, shards), work_of(settings, shards, tmp_path)
    first = done_for(work, source, 4)
    stamps = [shards.lines(n).stat().st_mtime_ns for n in range(3)]
    assert [block.lists for block in source.blocks(4)] == [[], [], []]
    again = done_for(work, source, 4)
    assert [done for done, _ in again] == [done for done, _ in first]
    assert {spent for _, spent in again} == {Spent()}
    assert [shards.lines(n).stat().st_mtime_ns for n in range(3)] == stamps
    # Half a shard, as a kill leaves it: lines without the word that they are whole.
    (shards.folder / "000/000001.json").unlink()
    shards.lines(1).write_bytes(b"half")
    assert [len(block.lists) for block in source.blocks(4)] == [0, 4, 0]
    mended = done_for(work, source, 4)
    assert [done for done, _ in mended] == [done for done, _ in first]
    assert sum(spent.calls for _, spent in mended) == 0, "its answers were recorded"


def test_what_failed_is_asked_again_by_the_next_command(tmp_path: Path) -> None:
    settings = Rerank(input=rows(tmp_path, 12), block=4)
    shards = shards_of(tmp_path)
    source = source_of(tmp_path, settings, shards)
    failing = done_for(work_of(settings, shards, tmp_path, ScriptedNode("reverse", failing=1.0)), source, 4)
    assert [(done.failed, done.queries, done.empty) for done, _ in failing] == [(2, 4, 1), (2, 4, 1), (2, 4, 1)]
    assert "q2" in failing[0][0].failures[0]
    mended = done_for(work_of(settings, shards, tmp_path), source, 4)
    assert [done.failed for done, _ in mended] == [0, 0, 0]
    assert not shards.skipped(0).exists()


def test_blocks_together_have_as_many_queries_under_way_as_one_process(tmp_path: Path) -> None:
    settings = Rerank(input=rows(tmp_path, 40), block=10, max_concurrent_queries=7)
    shards = shards_of(tmp_path)
    asks = Asks(work_of(settings, shards, tmp_path, ScriptedNode("reverse", seconds=0.01)))
    under_way = most = 0
    engine: Any = asks._engine
    answer = engine.complete_window

    async def counted(*given: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await answer(*given)
        finally:
            under_way -= 1

    engine.complete_window = counted
    asked(asks, list(source_of(tmp_path, settings, shards).tables(10)))
    assert most == 7


def test_errors_come_as_they_are(tmp_path: Path) -> None:
    settings = Rerank(input=rows(tmp_path, 6, (5,)), block=4)
    shards = shards_of(tmp_path)
    *_, bad = done_for(work_of(settings, shards, tmp_path), source_of(tmp_path, settings, shards), 4)
    assert isinstance(bad, DataError)
    assert "in.jsonl:6: no list of passages" in str(bad)
    refused = work_of(settings, shards, tmp_path, TransformersNode(device="cuda:9"))
    (error, *_) = done_for(refused, source_of(tmp_path, settings, shards_of(tmp_path / "other")), 4)
    assert isinstance(error, EngineError)
    elsewhere = replace(work_of(settings, shards, tmp_path), command="another")
    (error, *_) = done_for(elsewhere, source_of(tmp_path, settings, shards_of(tmp_path / "other")), 4)
    assert "every machine of the cluster sees it" in str(error)


def test_the_size_of_a_block_stays_that_of_the_shards(tmp_path: Path) -> None:
    shards = shards_of(tmp_path)
    assert (shards.plan(5, "a"), shards.plan(9, "b")) == (5, 5)


def test_a_changed_or_lost_shard_is_named(tmp_path: Path) -> None:
    settings = Rerank(input=rows(tmp_path, 8), block=4)
    shards = shards_of(tmp_path)
    done_for(work_of(settings, shards, tmp_path), source_of(tmp_path, settings, shards), 4)
    with pytest.raises(ShardError, match=r"000002\.jsonl: this shard is gone"):
        shards.join(3, None, io.BytesIO(), io.BytesIO())
    shards.lines(1).write_bytes(shards.lines(1).read_bytes()[1:])
    with pytest.raises(ShardError, match=r"000001\.jsonl: it has changed since"):
        shards.join(2, None, io.BytesIO(), io.BytesIO())


def _hold(shards: Shards, ready: Any, over: Any) -> None:
    with shards.held(3, "other"):
        ready.set()
        over.wait(60)


def test_two_processes_never_work_on_one_shard(tmp_path: Path) -> None:
    shards, context = shards_of(tmp_path), multiprocessing.get_context("spawn")
    ready, over = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(shards, ready, over))
    other.start()
    assert ready.wait(60)
    with pytest.raises(ShardError, match="another process has worked on this shard"), shards.held(3, "mine", 0.3):
        pass
    other.kill()  # its lock goes with it
    other.join()
    with shards.held(3, "mine"):
        pass


def test_a_shard_that_ends_every_actor_ends_the_command(tmp_path: Path) -> None:
    shards = shards_of(tmp_path)
    for _ in range(20):
        with shards.held(0, "mine"):
            pass
    with pytest.raises(ShardError, match="20 actors have died"), shards.held(0, "mine"):
        pass
    with shards.held(0, "the next command"):
        pass


counts = st.integers(0, 1000)


@given(
    st.tuples(counts, counts, counts, counts, counts, counts),
    st.dictionaries(st.sampled_from(ParseStatus), st.integers(1, 50)),
    st.dictionaries(st.sampled_from(Unread), st.integers(1, 50)),
    st.floats(0, 10),
)
def test_an_account_is_what_its_figures_say(
    numbers: tuple[int, ...], statuses: dict[ParseStatus, int], unread: dict[Unread, int], cost: float
) -> None:
    made = Account(*numbers, costs=[cost])
    made.statuses.update(statuses)
    made.unread.update(unread)
    again = Account.of(json.loads(json.dumps(made.figures())), made.cost)
    assert asdict(again) == asdict(made)


def test_shards_that_are_lacking_or_come_twice_are_noticed() -> None:
    total = Total()
    total.add(Done(2), Spent())
    total.add(Done(0), Spent(calls=3))
    with pytest.raises(ShardError, match="shard 1 hasn't come"):
        total.count()
    total.add(Done(1), Spent(calls=2))
    assert (total.count(), total.spent.calls) == (3, 5)
    with pytest.raises(ShardError, match="shard 1 came twice"):
        total.add(Done(1), Spent())


def test_one_purse_for_all(tmp_path: Path) -> None:
    purse = Purse(1.5)
    assert purse.exchange("a", 2.0) == 1.5
    assert purse.exchange("b", 1.0) == 3.5
    assert purse.exchange("a", 3.0) == 2.5
    assert spent_in(tmp_path) == 0.0


def test_a_server_s_calls_are_shared_out_and_a_model_is_one() -> None:
    api = OpenAINode(base_url="http://here/v1", max_concurrent_calls=10)
    assert for_each(api, 4).max_concurrent_calls == 2
    assert for_each(VllmNode(), 4).data_parallel == 1
    assert for_each(VllmNode(data_parallel=2), 4).data_parallel == 2
    assert for_each(ScriptedNode("reverse"), 4) == ScriptedNode("reverse")


GPUS = [{"CPU": 16.0, "GPU": 8.0}, {"CPU": 16.0, "GPU": 3.0}, {"CPU": 4.0}]


def test_actors_fill_the_gpus_and_else_there_is_one_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rearank.tasks.rerank.on_ray.machines.built_for_cpu", lambda: False)
    assert pool_of(Rerank(), VllmNode(tensor_parallel=2), GPUS) == Pool(5, 1.0, 2)
    assert pool_of(Rerank(), VllmNode(tensor_parallel=8), GPUS) == Pool(1, 1.0, 8)
    assert pool_of(Rerank(), TransformersNode(), GPUS) == Pool(11, 1.0, 1)
    assert pool_of(Rerank(), TransformersNode(device="cpu"), GPUS) == Pool(3, 1.0, 0)
    assert pool_of(Rerank(actor_cpus=8), ScriptedNode("reverse"), GPUS) == Pool(2, 8.0, 0)
    assert pool_of(Rerank(actors=7), ScriptedNode("reverse"), GPUS) == Pool(7, 1.0, 0)
    few = OpenAINode(base_url="http://here/v1", max_concurrent_calls=2)
    assert pool_of(Rerank(actors=7), few, GPUS) == Pool(2, 1.0, 0)
    with pytest.raises(ClusterError, match=r"room for 0 actors of 1 CPUs and 16 GPUs.*set rerank\.actors"):
        pool_of(Rerank(), VllmNode(tensor_parallel=16), GPUS)
    with pytest.raises(ClusterError, match="room for 36 actors of 1 CPUs each"):
        pool_of(Rerank(actors=37), ScriptedNode("reverse"), GPUS)


def test_what_can_t_be_is_said_before() -> None:
    said = problems(Rerank(input="-", runner="ray"), Cluster(address="ray://far:10001"))
    assert any("standard input can't be read again" in line for line in said)
    assert any("cluster.address=auto" in line for line in said)


class OddError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} {two}")


def test_an_error_that_can_t_be_sent_goes_as_its_text() -> None:
    assert str(_sendable(OddError(1, 2))) == "OddError: 1 2"
    assert isinstance(_sendable(DataError("as it is")), DataError)


def test_what_others_spend_counts_against_an_actor_s_budget(tmp_path: Path) -> None:
    class Remote:
        def __init__(self) -> None:
            self.purse, self.exchange = Purse(1.0), self

        async def remote(self, who: str, dollars: float) -> float:
            self.purse.exchange("another", 2.0)
            return self.purse.exchange(who, dollars)

    class Paid:
        budget = Budget(5.0)

    settings = Rerank(input=rows(tmp_path, 1))
    asks, paid = Asks(replace(work_of(settings, shards_of(tmp_path), tmp_path), purse=Remote())), Paid()
    paid.budget.charge(1.5)
    paid.budget.check()

    async def a_look() -> None:
        looking = asyncio.create_task(asks._share(paid))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        looking.cancel()

    asyncio.run(a_look())
    assert paid.budget.spent == 4.5
    paid.budget.charge(0.5)
    with pytest.raises(BudgetError):
        paid.budget.check()
