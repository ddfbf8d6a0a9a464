"""What ``conf/tracking`` builds to, and the trackers of one run: its jobs and artefacts by its name and group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rearank.tracking.jsonl import Trackers


@runtime_checkable
class TrackingNode(Protocol):
    """What a node of ``conf/tracking`` builds to."""

    def preflight(self) -> list[str]: ...

    def open(
        self, folder: Path, name: str, config: Mapping[str, Any], job: str, group: str | None = None
    ) -> Trackers: ...


@runtime_checkable
class KeepsFiles(Protocol):
    """A node with files of its own, which go to the output folder of the run."""

    def kept_in(self, folder: Path) -> TrackingNode: ...


@dataclass(frozen=True)
class RunTrackers:
    """Opens trackers for a run's jobs.

    Args:
        node: of ``conf/tracking``.
        title: ``reward=ndcg,seed=1`` in a sweep, the experiment's name elsewhere.
        group: the sweep's name, or the experiment's.
        config: the whole config, the option chosen in each group, and the commit.
    """

    node: TrackingNode
    title: str
    group: str
    config: Mapping[str, Any]

    @contextmanager
    def open(self, folder: Path, job: str) -> Iterator[Trackers]:
        """For a block; ``job`` is W&B's job type: prepare, train, sft, evaluate, report."""
        opened = self.node.open(folder, self.title, self.config, job, self.group)
        try:
            yield opened
        finally:
            opened.close()

    def name_of(self, kind: str) -> str:
        """An artefact's name: ``run-rewards-sweep-reward=ndcg``."""
        return f"{kind}-{self.group}-{self.title}"
