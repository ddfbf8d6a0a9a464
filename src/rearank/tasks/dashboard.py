"""``task=dashboard``: the W&B workspace over this project's runs; written down always, saved where there is a key."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rearank.checks import missing_packages
from rearank.experiment import Run
from rearank.runs.layout import write_json
from rearank.tracking import WandbTracking
from rearank.tracking.dashboard import Dashboard

NOBODY = "your-entity"
"""Stands in the specification where neither ``tracking.entity`` nor a login says whose the workspace is."""
_log = logging.getLogger(__name__)


class DashboardError(RuntimeError):
    """A workspace that can't be built or saved; the message says why."""


@dataclass(frozen=True)
class DashboardTask:
    """Reads no run: a workspace shows whatever the project has.

    Args:
        by: the group of the config whose options are compared.
        sweep: only the runs of this sweep (``rewards-sweep``); ``null`` for all.
        title: of the workspace.
    """

    by: str = "reward"
    sweep: str | None = None
    title: str = "rearank"
    needs: ClassVar[tuple[str, ...]] = ("tracking",)

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/dashboard/workspace.json``; with a key also to W&B.

        Raises:
            DashboardError: without W&B tracking, the package, or a group of that name; or where W&B refuses.
        """
        tracking = run.experiment.tracking
        if not isinstance(tracking, WandbTracking):
            raise DashboardError("task=dashboard is about W&B's runs: set tracking=wandb")
        if lacking := missing_packages("dashboard", "wandb-workspaces"):
            raise DashboardError(lacking[0])
        if run.choices and self.by not in run.choices:
            groups = sorted(name for name in run.choices if "/" not in name and "@" not in name)
            raise DashboardError(f"task.by={self.by} is no group of the config; there are {', '.join(groups)}")
        benchmarks = [benchmark.name for benchmark in run.experiment.benchmark.benchmarks]
        trained = run.choices.get("algorithm", "trained")
        dashboard = self.dashboard(tracking, _entity(tracking), benchmarks, trained)
        path = run.folder / "dashboard" / "workspace.json"
        write_json(path, dashboard.specification())
        print(f"the workspace's specification: {path}", flush=True)
        if tracking.online:
            print(f"the workspace: {_saved(dashboard)}", flush=True)
        else:
            print("not saved to W&B: that needs an account; set WANDB_API_KEY or run `wandb login`, and run this again")

    def dashboard(self, tracking: WandbTracking, entity: str, benchmarks: Sequence[str], trained: str) -> Dashboard:
        """Over ``benchmarks``; ``trained`` is the name of the system that training makes."""
        return Dashboard(
            project=tracking.project,
            entity=entity,
            by=self.by,
            benchmarks=benchmarks,
            systems=("base", trained),
            sweep=self.sweep,
            title=self.title,
        )


def _entity(tracking: WandbTracking) -> str:
    if tracking.entity is not None or not tracking.online:
        return tracking.entity or NOBODY
    import wandb

    try:
        return str(wandb.Api().default_entity or NOBODY)
    except Exception as error:
        raise DashboardError(f"W&B can't be asked whose key this is ({error}); set tracking.entity=...") from error


def _saved(dashboard: Dashboard) -> str:
    workspace: Any = dashboard.workspace()
    try:
        return str(workspace.save().url)
    except Exception as error:
        raise DashboardError(
            f"W&B didn't take the workspace ({type(error).__name__}: {error}); check the key, tracking.entity and "
            "tracking.project, and that the project has a run"
        ) from error
