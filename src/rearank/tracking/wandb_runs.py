"""Weights & Biases in addition to the JSONL files, offline first."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rearank.checks import check_fields
from rearank.tracking.base import Artefact, Kind
from rearank.tracking.jsonl import JsonlTracker, Trackers


class _WandbTracker:
    def __init__(self, run: Any, module: Any, *, upload: Sequence[str], online: bool) -> None:
        self._run, self._module, self._upload, self._online = run, module, upload, online

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        table = self._module.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        self._run.log({name: table}, step=step)

    def artefact(self, artefact: Artefact) -> None:
        """Uploaded with the run, or a reference to where its files are.

        Offline a run can't say what it used (W&B looks it up): it is logged as if the run had made it.
        """
        made = self._module.Artifact(wandb_name(artefact.name), artefact.kind, metadata=dict(artefact.metadata))
        for name, path in artefact.every_file().items():
            if artefact.kind in self._upload:
                made.add_file(str(path), name=name)
            else:
                made.add_reference(path.resolve().as_uri(), name=name, checksum=False)
        if artefact.used and self._online:
            self._run.use_artifact(made)
        else:
            self._run.log_artifact(made)

    def close(self) -> None:
        self._run.finish()


@dataclass(frozen=True)
class WandbTracking:
    """Weights & Biases in addition to the JSONL files.

    Args:
        project: where the runs are listed.
        entity: team or user; ``null`` for the key's own.
        mode: ``auto`` is online where a key is set (WANDB_API_KEY or `wandb login`), offline otherwise; offline runs
            are sent later with `wandb sync`.
        group: keeps runs together; ``null`` for the sweep's name, or the run's.
        tags: for filtering.
        upload: kinds of artefacts whose files are sent; of the others W&B keeps where they are.
    """

    project: str = "rearank"
    entity: str | None = None
    mode: Literal["auto", "offline", "online"] = "auto"
    group: str | None = None
    tags: tuple[str, ...] = ()
    upload: tuple[Kind, ...] = ("dataset", "run", "report")

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def online(self) -> bool:
        """Whether runs go to the server as they are made."""
        return self.mode == "online" or (self.mode == "auto" and has_key())

    def preflight(self) -> list[str]:
        """The package; a key where ``mode`` is online."""
        if find_spec("wandb") is None:
            return ["tracking=wandb: the package wandb is missing; pip install -e '.[wandb]', or set tracking=none"]
        if self.mode == "online" and not has_key():
            return ["tracking.mode=online needs a key: set WANDB_API_KEY or run `wandb login`, or set mode=offline"]
        return []

    def open(self, folder: Path, name: str, config: Mapping[str, Any], job: str, group: str | None = None) -> Trackers:
        """Start the run ``<name>/<job>`` of job type ``job``; W&B's own files go to ``<folder>/wandb``."""
        import wandb

        mode: Literal["online", "offline"] = "online" if self.online else "offline"
        folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            id=_run_id(folder / "wandb-id.txt"),
            resume="allow" if mode == "online" else None,
            project=self.project,
            entity=self.entity,
            group=(self.group or group or name)[:_LONGEST],
            job_type=job,
            name=f"{name}/{job}"[-_LONGEST:],
            tags=list(self.tags),
            mode=mode,
            dir=str(folder),
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True),
        )
        tracker = _WandbTracker(run, wandb, upload=self.upload, online=mode == "online")
        return Trackers(JsonlTracker(folder, job), tracker)


_LONGEST = 128  # characters of W&B's names


def wandb_name(name: str) -> str:
    """Letters, digits, ``-``, ``_`` and ``.`` alone, 128 at most."""
    return re.sub(r"[^\w.-]+", "-", name)[-_LONGEST:]


def _run_id(path: Path) -> str:
    """The same run again after a stop: what a continued run logs belongs to the first one."""
    if not path.is_file():
        path.write_text(secrets.token_hex(4))
    return path.read_text()


def has_key() -> bool:
    """As wandb looks for it, without importing wandb."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return "api.wandb.ai" in netrc.read_text()
    except OSError:
        return False
