"""Names that have moved: old folders, configs and programs that use them go on working.

One table serves ``_target_`` in a config, the settings that a stage has written down, and ``import`` in Python.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED: Mapping[str, str] = {
    "rearank.analysis.figures": "rearank.analysis.drawing",
    "rearank.analysis.held_against_reasoning": "rearank.analysis.compared_with_reasoning",
    "rearank.analysis.settings": "rearank.analysis.what_to_ask",
    "rearank.cli.explain": "rearank.cli.errors.explain",
    "rearank.cli.guarded": "rearank.cli.running.guarded",
    "rearank.cli.run_task": "rearank.cli.running.run_task",
    "rearank.data.rearank_rows": "rearank.data.rows.rearank_rows",
    "rearank.engines.budget": "rearank.engines.openai.budget",
    "rearank.engines.capacity": "rearank.engines.vllm.capacity",
    "rearank.engines.openai.OpenAIEngine": "rearank.engines.openai.engine.OpenAIEngine",
    "rearank.engines.openai.ServerError": "rearank.engines.openai.engine.ServerError",
    "rearank.engines.openai_node": "rearank.engines.openai.node",
    "rearank.engines.overflow": "rearank.engines.openai.overflow",
    "rearank.engines.processes": "rearank.engines.vllm.processes",
    "rearank.engines.replies": "rearank.engines.openai.replies",
    "rearank.engines.retries": "rearank.engines.openai.retries",
    "rearank.engines.server": "rearank.engines.openai.server",
    "rearank.engines.vllm.VllmEngine": "rearank.engines.vllm.engine.VllmEngine",
    "rearank.engines.vllm_args": "rearank.engines.vllm.arguments",
    "rearank.pyterrier": "rearank.adapters.pyterrier",
    "rearank.report.folder": "rearank.runs.reader",
    "rearank.report.settings": "rearank.report.what_to_show",
    "rearank.reranker.tracing": "rearank.engines.tracing",
    "rearank.serving.settings": "rearank.serving.limits",
    "rearank.tasks.analyse.AnalyseTask": "rearank.tasks.pipeline.AnalyseTask",
    "rearank.tasks.benchmark": "rearank.data.benchmark",
    "rearank.tasks.collect": "rearank.tasks.sweep.collect",
    "rearank.tasks.command": "rearank.cli.running",
    "rearank.tasks.command.explain": "rearank.cli.errors.explain",
    "rearank.tasks.compared": "rearank.tasks.compare_inputs",
    "rearank.tasks.environment": "rearank.runs.environment",
    "rearank.tasks.evaluate.EvaluateTask": "rearank.tasks.pipeline.EvaluateTask",
    "rearank.tasks.experiment": "rearank.experiment",
    "rearank.tasks.prepare.PrepareTask": "rearank.tasks.pipeline.PrepareTask",
    "rearank.tasks.settings": "rearank.sections",
    "rearank.tasks.sharing": "rearank.runs.sharing",
    "rearank.tasks.stage": "rearank.runs.stage",
    "rearank.tasks.sweep.Job": "rearank.runs.sweeps.Job",
    "rearank.tasks.sweep.Sweep": "rearank.runs.sweeps.Sweep",
    "rearank.tasks.sweep.SweepCallback": "rearank.tasks.sweep.plan.SweepCallback",
    "rearank.tasks.train.SftTask": "rearank.tasks.pipeline.SftTask",
    "rearank.tasks.train.TrainTask": "rearank.tasks.pipeline.TrainTask",
    "rearank.tracking.base.TrackingNode": "rearank.tracking.run_trackers.TrackingNode",
    "rearank.training.algorithm": "rearank.algorithms",
    "rearank.training.fit": "rearank.training.trl.fit",
    "rearank.training.verl.lengths": "rearank.training.lengths",
    "rearank.training.verl.node.Cluster": "rearank.training.verl.settings.Cluster",
}
"""A module, or ``module.Name``, as it was called -> as it is called now. The longest entry that fits counts."""


def current(name: str) -> str:
    """The dotted name of today for ``name``; itself where it hasn't moved."""
    for prefix in _prefixes(name):
        if prefix in MOVED:
            return MOVED[prefix] + name.removeprefix(prefix)
    return name


def install() -> None:
    """Let ``import`` find modules by their old names; asked only where nothing else finds them."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def attributes_of(module: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for a module whose names have moved; a package that was a module of the same name needs it."""

    def look_up(name: str) -> Any:
        new = current(f"{module}.{name}")
        if name.startswith("__") or new == f"{module}.{name}":
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} has moved: it is {new} now", DeprecationWarning, stacklevel=2)
        place, _, attribute = new.rpartition(".")
        return getattr(import_module(place), attribute)

    return look_up


def _prefixes(name: str) -> Iterator[str]:
    """``a.b.c``, ``a.b``, ``a``."""
    while name:
        yield name
        name = name.rpartition(".")[0]


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        known = current(fullname) != fullname or any(old.startswith(f"{fullname}.") for old in MOVED)
        return ModuleSpec(fullname, self, is_package=True) if known else None

    def exec_module(self, module: ModuleType) -> None:
        """A module that is empty but for a look at the table."""
        module.__getattr__ = attributes_of(module.__name__)  # type: ignore[method-assign]
