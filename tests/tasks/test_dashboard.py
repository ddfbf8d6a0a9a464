"""The W&B workspace, built without a login."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.tasks.runs import made

from rearank.experiment import Run
from rearank.parsing import ParseStatus
from rearank.tasks.dashboard import DashboardError, DashboardTask
from rearank.tracking.dashboard import Dashboard
from rearank.tracking.names import TABLES, undocumented

pytestmark = pytest.mark.filterwarnings("ignore")  # W&B's own
WANDB = ("experiment=quickstart", "task=dashboard", "benchmark=trec_dl")


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces", reason="needs the extra dashboard")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def chosen(tmp_path: Path, *overrides: str) -> Run:
    return replace(made(tmp_path, *WANDB, *overrides), choices={"reward": "ndcg", "algorithm": "grpo"})


def sections(specification: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found = specification["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in found}


def metrics(panels: list[dict[str, Any]]) -> list[str]:
    return [name for panel in panels for name in panel["config"].get("metrics", [])]


def every(value: Any) -> Iterator[Any]:
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield from every(one)


def test_the_workspace_is_written_without_a_login(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = chosen(tmp_path)
    run.experiment.task.run(run)
    specification = json.loads((tmp_path / "run" / "dashboard" / "workspace.json").read_text())
    assert "needs an account" in capsys.readouterr().out
    assert (specification["project"], specification["displayName"]) == ("rearank", "rearank")
    found = sections(specification)
    assert list(found) == [
        *("Reward by reward", "Response length by reward", "nDCG@10 by reward", "Parse statuses", "The optimiser"),
        *("nDCG@10 by benchmark", "Ablation table, queries and traces"),
    ]
    assert all(undocumented(metrics(panels)) == [] for panels in found.values())
    assert "train/reward/total" in metrics(found["Reward by reward"])
    assert "rollout/length" in metrics(found["Response length by reward"])
    for panel in (*found["Reward by reward"], *found["Response length by reward"]):
        assert panel["config"]["groupBy"] == "choices.value.reward"
        assert (panel["config"]["groupAgg"], panel["config"]["groupArea"]) == ("mean", "stddev")
    assert {f"rollout/parse/{status.value}" for status in ParseStatus} <= set(metrics(found["Parse statuses"]))
    bars = [f"test/{name}/{system}" for name in ("dl19", "dl20") for system in ("base", "grpo")]
    assert metrics(found["nDCG@10 by benchmark"]) == bars
    tables = found["Ablation table, queries and traces"]
    shown = {value for value in every(tables) if isinstance(value, str)}
    assert {"ablation", "queries", "traces"} <= shown & set(TABLES)


def test_only_the_runs_of_a_sweep() -> None:
    for sweep, wanted in ((None, []), ("rewards-sweep", [("group", "=", "rewards-sweep")])):
        (runs,) = Dashboard("p", "e", sweep=sweep).specification()["spec"]["section"]["runSets"]
        filters = [one for one in every(runs["filters"]) if isinstance(one, dict) and isinstance(one.get("key"), dict)]
        assert [(one["key"]["name"], one["op"], one["value"]) for one in filters] == wanted


def test_a_group_that_is_not_there(tmp_path: Path) -> None:
    run = chosen(tmp_path)
    with pytest.raises(DashboardError, match=r"task\.by=rewards is no group"):
        DashboardTask(by="rewards").run(run)
    with pytest.raises(DashboardError, match="set tracking=wandb"):
        DashboardTask().run(chosen(tmp_path, "tracking=none"))


def test_a_workspace_that_wandb_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb_workspaces.workspaces as ws

    def refuse(workspace: Any) -> None:
        raise PermissionError("no such entity")

    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr(ws.Workspace, "save", refuse)
    monkeypatch.setattr("rearank.tracking.wandb_runs.unreachable", lambda url: None)
    run = chosen(tmp_path, "tracking.entity=me")
    with pytest.raises(DashboardError, match=r"no such entity.*tracking\.entity"):
        run.experiment.task.run(run)
    specification = json.loads((tmp_path / "run" / "dashboard" / "workspace.json").read_text())
    assert specification["entity"] == "me"
