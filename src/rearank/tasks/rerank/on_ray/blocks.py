"""The input in blocks: read once, in order, by one task on the driver's machine, as fast as the actors take them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rearank.config import build
from rearank.data import DataError
from rearank.sections import Rerank
from rearank.tasks.rerank.inputs import Counted, Formats, make_input, refuse_bad
from rearank.tasks.rerank.on_ray.shards import Shards
from rearank.tasks.rerank.rows import BadRow
from rearank.types import Candidates

BLOCK = "block"
"""The column that holds a pickled block, one a row; so it is with ``done`` on the way back."""


@dataclass
class Block:
    """Lists that follow one another in the input, and the rows among them that can't be used.

    ``done``: its shard is there, so that the lists aren't sent.
    """

    number: int
    lists: list[Candidates] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False


@dataclass(frozen=True)
class BlockSource:
    """What reads the input in another process: everything is opened there.

    Args:
        settings: the section ``rerank``.
        formats: what its formats come to.
        benchmark: the node of the benchmark, where texts come from its collection.
        shards: what is done already.
        place: the driver's working directory, which names of files start from.
    """

    settings: Rerank
    formats: Formats
    benchmark: dict[str, Any] | None
    shards: Shards
    place: str

    def blocks(self, size: int) -> Iterator[Block]:
        """All of the input, ``size`` queries a block; the same blocks each time.

        Raises ``DataError`` for a row that must not be skipped.
        """
        node: Any = None if self.benchmark is None else build(self.benchmark)
        block = Block(0)
        for one in make_input(self.settings, self.formats, node).lists():
            if isinstance(one, Candidates):
                block.lists.append(one)
            else:
                block.bad.append(self._skipped(one))
            if len(block.lists) + len(block.bad) == size:
                yield self._looked_up(block)
                block = Block(block.number + 1)
        if block.lists or block.bad:
            yield self._looked_up(block)

    def tables(self, size: int) -> Iterator[Any]:
        """``blocks`` as Arrow tables of one row; an error of the input is the last one, as itself."""
        import pyarrow as pa

        try:
            os.chdir(self.place)
            for block in self.blocks(size):
                yield pa.table({BLOCK: pa.array([pickle.dumps(block)], pa.large_binary())})
        except (DataError, OSError) as error:
            yield pa.table({BLOCK: pa.array([pickle.dumps(error)], pa.large_binary())})

    def _skipped(self, one: BadRow) -> dict[str, Any]:
        if self.settings.bad_rows == "error":
            refuse_bad(Counted(bad=1, first_bad=one))
        return {"error": str(one.error), "row": one.row}

    def _looked_up(self, block: Block) -> Block:
        """What failed is asked again by the same command, as without Ray."""
        done = self.shards.done(block.number)
        return block if done is None or done.failed else Block(block.number, done=True)


def datasource(source: BlockSource, size: int) -> Any:
    """``source`` as Ray Data reads it: by one task."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class Blocks(Datasource):  # type: ignore[misc]
        def estimate_inmemory_data_size(self) -> None:
            return None

        def get_read_tasks(
            self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
        ) -> list[Any]:
            unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
            return [ReadTask(partial(source.tables, size), unknown)]

    return Blocks()
