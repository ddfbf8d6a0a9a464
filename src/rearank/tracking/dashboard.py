"""A W&B workspace over the names that every run logs: ``task=dashboard``. Needs wandb-workspaces, no login."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rearank.parsing import ParseStatus
from rearank.tracking.names import TABLES, undocumented


@dataclass(frozen=True)
class Dashboard:
    """What the workspace shows.

    Args:
        project: W&B's.
        entity: team or user.
        by: the group of the config whose options are compared, ``reward`` say: curves are means over the runs of an
            option, with a band of one standard deviation over its seeds.
        benchmarks: whose bars are shown.
        systems: measured on them, as in ``test/<benchmark>/<system>``.
        sweep: only runs of this sweep (W&B's group); ``None`` for all.
        title: of the workspace.
    """

    project: str
    entity: str
    by: str = "reward"
    benchmarks: Sequence[str] = ()
    systems: Sequence[str] = ("base", "grpo")
    sweep: str | None = None
    title: str = "rearank"

    def workspace(self) -> Any:
        """The ``wandb_workspaces`` object; nothing is sent.

        Raises:
            ValueError: for a figure that no run logs.
        """
        import wandb_workspaces.workspaces as ws

        group = f"choices.{self.by}"
        filters = [ws.Metric("Group") == self.sweep] if self.sweep is not None else []
        return ws.Workspace(
            entity=self.entity,
            project=self.project,
            name=self.title,
            sections=[
                ws.Section(name=name, panels=panels, is_open=True)
                for name, panels in (
                    (f"Reward by {self.by}", self._curves(*_REWARD)),
                    (f"Response length by {self.by}", self._curves(*_LENGTH)),
                    (f"nDCG@10 by {self.by}", self._curves(*_NDCG)),
                    ("Parse statuses", self._statuses()),
                    ("The optimiser", self._curves(*_OPTIMISER)),
                    ("nDCG@10 by benchmark", self._bars()),
                    ("Ablation table, queries and traces", _tables()),
                )
            ],
            runset_settings=ws.RunsetSettings(groupby=[ws.Config(group)], filters=filters),
        )

    def specification(self) -> dict[str, Any]:
        """The workspace as W&B stores it, plain."""
        model = self.workspace()._to_model()
        found: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
        return found

    def _curves(self, *panels: tuple[str, str]) -> list[Any]:
        import wandb_workspaces.reports.v2 as wr

        return [
            wr.LinePlot(
                title=title,
                y=[_known(name)],
                title_x="step",
                groupby=wr.Config(f"choices.{self.by}"),
                groupby_aggfunc="mean",
                groupby_rangefunc="stddev",
            )
            for title, name in panels
        ]

    def _statuses(self) -> list[Any]:
        """Every status of one picture as shares that add up to one; then the readable ones by option."""
        import wandb_workspaces.reports.v2 as wr

        names = [_known(f"rollout/parse/{status.value}") for status in ParseStatus]
        every = wr.LinePlot(title="Sampled answers by parse status", y=names, plot_type="stacked-area", title_x="step")
        readable = (("Sampled answers that can be read", "rollout/parse/ok"), ("Validation", "val/parse/ok"))
        return [every, *self._curves(*readable)]

    def _bars(self) -> list[Any]:
        import wandb_workspaces.reports.v2 as wr

        return [
            wr.BarPlot(
                title=f"{name}: {system}",
                metrics=[_known(f"test/{name}/{system}")],
                groupby=wr.Config(f"choices.{self.by}"),
                groupby_aggfunc="mean",
                groupby_rangefunc="stddev",
                orientation="v",
            )
            for name in self.benchmarks
            for system in self.systems
        ]


_REWARD = (
    ("Reward", "train/reward/total"),
    ("Ranking term", "train/reward/rank"),
    ("List format", "train/reward/format_list"),
    ("Tags", "train/reward/format_tags"),
    ("Spread within a group", "rollout/reward_spread"),
    ("Groups that teach nothing", "rollout/groups_without_spread"),
)
_LENGTH = (
    ("Tokens an answer", "rollout/length"),
    ("Longest answer", "rollout/length_max"),
    ("Answers cut off", "rollout/cut_off"),
    ("Tokens an answer, validation", "val/length"),
)
_NDCG = (("Sampled answers", "rollout/ndcg@10"), ("Validation, greedy", "val/ndcg@10"))
_OPTIMISER = (
    ("Loss", "train/loss"),
    ("Entropy", "train/entropy"),
    ("KL to the model before", "train/kl"),
    ("Gradient norm", "train/grad_norm"),
    ("Clipped tokens", "train/clip_ratio"),
)


def _tables() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    shown = [name for name in TABLES if name != "rollouts"]  # those are read run by run
    return [*(wr.WeavePanelSummaryTable(table_name=name) for name in shown), wr.RunComparer(diff_only=True)]


def _known(name: str) -> str:
    if undocumented([name]):
        raise ValueError(f"{name}: no run logs this; rearank.tracking.names lists what is logged")
    return name
