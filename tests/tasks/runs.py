"""Whole experiments over the built-in collection, composed as the command line does and run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rearank.engines import Engine, ScriptedNode
from rearank.experiment import Run, make_run
from rearank.ranking import AbortRunError
from rearank.tasks.report import write_report
from rearank.types import Completion, Message, Qrels, Sampling, Window

CONF = Path(__file__).resolve().parents[2] / "conf"
QUERIES = 8
SMALL = (
    *("experiment=quickstart", "engine=scripted", "tracking=none"),
    f"benchmark.collection.query_count={QUERIES}",
    "benchmark.collection.passage_count=1000",
)


def composed(*overrides: str, outputs: Path = Path("nowhere")) -> dict[str, Any]:
    """The plain config; its folder is ``outputs/run``."""
    places = (f"output_dir={outputs}/run", f"paths.outputs={outputs}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", [*overrides, *places]), resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def made(folder: Path, *overrides: str) -> Run:
    """The run of ``overrides``; its folder is ``folder/run``, indexes are kept in ``folder/cache``."""
    config = composed(f"paths.cache={folder}/cache", *overrides, outputs=folder)
    return make_run(config, {"prompt": "compact", "strategy": "sliding_window"})


def with_benchmark(run: Run, benchmark: Any) -> Run:
    return replace(run, experiment=replace(run.experiment, benchmark=benchmark))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def report_of(run: Run) -> Path:
    return write_report(run.folder, run.experiment.report, run.cache)


class SpendError(AbortRunError):
    """As a budget stops a run."""


@dataclass(frozen=True)
class Priced:
    """The scripted engine at so many dollars a call, which stops the run when ``most`` calls were made."""

    inner: ScriptedNode
    dollars: float = 0.0
    most: int | None = None
    asked: Callable[[Mapping[str, Any]], None] = lambda given: None

    def preflight(self) -> list[str]:
        return []

    def create(
        self,
        model: str,
        *,
        revision: str | None = None,
        judgements: Qrels | None = None,
        thinking: bool | None = None,
    ) -> Engine:
        self.asked({"thinking": thinking, "revision": revision})
        return _Priced(self.inner.create(model, revision=revision, judgements=judgements), self.dollars, self.most)


class _Priced:
    def __init__(self, engine: Engine, dollars: float, most: int | None) -> None:
        self._engine, self._dollars, self._left = engine, dollars, most

    @property
    def identity(self) -> Mapping[str, Any]:
        return self._engine.identity

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        raise AssertionError("the scripted engine looks at windows")

    async def complete_window(self, window: Window, messages: Sequence[Message], sampling: Sampling) -> Completion:
        if self._left is not None:
            if self._left == 0:
                raise SpendError("the budget is spent")
            self._left -= 1
        done: Completion = await self._engine.complete_window(window, messages, sampling)  # type: ignore[attr-defined]
        return replace(done, cost=self._dollars)

    async def aclose(self) -> None:
        await self._engine.aclose()


def priced(run: Run, **changes: Any) -> Run:
    """``run`` with its scripted engine priced."""
    return replace(run, experiment=replace(run.experiment, engine=Priced(run.experiment.engine, **changes)))
