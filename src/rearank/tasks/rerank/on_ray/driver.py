"""The whole of ``rerank.runner=ray`` on the driver: what is done is counted as it comes, and the output joined."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any
from uuid import uuid4

from rearank.engines import OpenAINode
from rearank.engines.account import Account
from rearank.engines.recording import Spent
from rearank.reranker.setup import Parts
from rearank.tasks.rerank.on_ray.asks import DONE, Asks, Work, for_each
from rearank.tasks.rerank.on_ray.blocks import BlockSource, datasource
from rearank.tasks.rerank.on_ray.budget import Purse, spent_in
from rearank.tasks.rerank.on_ray.machines import Pool, pool_of, started
from rearank.tasks.rerank.on_ray.shards import Done, ShardError
from rearank.training.verl.events import root_cause
from rearank.training.verl.settings import Cluster

_AT_ONCE = 4  # blocks an actor has under way, where rerank.max_concurrent_queries sets no bound
_SPARE = 2  # queries at hand for each place
_MOST = 64  # each has files open
_READ_AHEAD = 32  # blocks that are read before an actor takes them


@dataclass
class Total:
    """Of all shards that have come."""

    account: Account = field(default_factory=Account)
    spent: Spent = field(default_factory=Spent)
    _seen: bytearray = field(default_factory=bytearray)

    def add(self, done: Done, spent: Spent) -> None:
        """One more; raises ``ShardError`` for one that has come before."""
        if (lacking := done.number + 1 - len(self._seen)) > 0:
            self._seen.extend(bytes(lacking))
        if self._seen[done.number]:
            raise ShardError(f"shard {done.number} came twice; run the same command again")
        self._seen[done.number] = 1
        self.spent += spent
        self.account.add(done.account)

    def count(self) -> int:
        """Of shards; raises ``ShardError`` where one before the last hasn't come."""
        if (lacking := self._seen.find(0)) >= 0:
            raise ShardError(f"shard {lacking} hasn't come although later ones have; run the same command again")
        return len(self._seen)


@dataclass(frozen=True)
class OnRay:
    """A command's work on a cluster.

    Args:
        cluster: where.
        source: the input in blocks.
        parts: model, prompt, strategy and engine.
        run: the run's folder.
    """

    cluster: Cluster
    source: BlockSource
    parts: Parts
    run: Path

    @contextmanager
    def results(self) -> Iterator[Iterator[tuple[Done, Spent]]]:
        """What comes of each block, as it comes, in any order; its shard is written then.

        They raise what ended the work: an error of the input or the engine as it is, ``RuntimeError`` for Ray's own.
        """
        settings, shards, command = self.source.settings, self.source.shards, uuid4().hex
        size = shards.plan(settings.block, command)
        with started(self.cluster, self.run, (settings.actors or 1) * settings.actor_cpus) as ray:
            machines = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
            pool = pool_of(settings, self.parts.engine, machines)
            parts = replace(self.parts, engine=for_each(self.parts.engine, pool.actors))
            work = Work(settings, parts, shards, command, self.source.place, self._purse(ray))
            yield _results(ray, datasource(self.source, size), work, pool, size)

    def _purse(self, ray: Any) -> Any:
        """The actor that knows what is spent, where a budget is set: on this machine, whatever the others do."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        engine = self.parts.engine
        if not isinstance(engine, OpenAINode) or engine.budget is None:
            return None
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        earlier = spent_in(self.source.shards.answers)
        return ray.remote(num_cpus=0)(Purse).options(scheduling_strategy=here).remote(earlier)


def _results(ray: Any, source: Any, work: Work, pool: Pool, size: int) -> Iterator[tuple[Done, Spent]]:
    """What the actors make of ``source``."""
    import ray.data as data
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = data.DataContext.get_current()
    context.target_max_block_size = 1  # byte: a row is a block
    context._max_num_blocks_in_streaming_gen_buffer = _READ_AHEAD
    context.enable_progress_bars = context.print_on_execution_start = False
    most = work.settings.max_concurrent_queries
    # A block ends with its slowest query: towards its end it leaves places empty, which other blocks' queries fill.
    at_once = _AT_ONCE if most is None else min(ceil(_SPARE * most / size) + 1, _MOST)
    # On this machine, which has the input, and beside the actors: reading must never wait for a core.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    read = data.read_datasource(source, override_num_blocks=1, num_cpus=0, label_selector=here)
    asked = read.map_batches(
        Asks,
        fn_constructor_args=(work,),
        batch_size=None,
        batch_format="pyarrow",
        compute=data.ActorPoolStrategy(
            size=pool.actors, max_tasks_in_flight_per_actor=at_once, max_concurrent_calls_per_actor=at_once
        ),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    try:
        for table in asked.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for result in map(pickle.loads, table[DONE].to_pylist()):
                if isinstance(result, Exception):
                    raise result
                yield result
    except RayError as error:
        raise RuntimeError(f"rerank.runner=ray: {root_cause(error)}; the same command goes on from here") from error
