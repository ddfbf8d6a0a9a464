"""Weights & Biases in addition to the JSONL files, offline first."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shlex
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from rearank.checks import check_fields
from rearank.tracking.base import Artefact, Kind
from rearank.tracking.jsonl import JsonlTracker, Trackers

_log = logging.getLogger(__name__)


class TrackingError(RuntimeError):
    """W&B takes no run; the message says what to set instead."""


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
        mode: ``auto`` is none where WANDB_DISABLED=true, else what WANDB_MODE says, else online where a key is set
            (WANDB_API_KEY or `wandb login`) and the server answers, offline otherwise; offline runs are sent later with
            `wandb sync`.
        group: keeps runs together; ``null`` for the sweep's name, or the run's.
        tags: for filtering.
        upload: kinds of artefacts whose files are sent; of the others W&B keeps where they are.
        folder: in its ``wandb`` lie W&B's own files; ``null``: in the output folder's.
    """

    project: str = "rearank"
    entity: str | None = None
    mode: Literal["auto", "offline", "online"] = "auto"
    group: str | None = None
    tags: tuple[str, ...] = ()
    upload: tuple[Kind, ...] = ("dataset", "run", "report")
    folder: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def online(self) -> bool:
        """Whether runs go to the server as they are made."""
        return self._mode() == "online"

    def kept_in(self, folder: Path) -> WandbTracking:
        """With W&B's own files in ``folder``, unless the config names another one."""
        return self if self.folder is not None else replace(self, folder=str(folder))

    def preflight(self) -> list[str]:
        """The package; a key and a server that answers where ``mode`` is online. What ``auto`` comes to is logged."""
        if self.mode == "auto" and _disabled():
            return []
        if (asked := os.environ.get("WANDB_MODE", "").strip().lower()) and asked not in _MODES and self.mode == "auto":
            return [f"WANDB_MODE={asked} is none of {', '.join(_MODES)}; set one of them, or unset it"]
        if self._mode() == "disabled":
            return []
        if find_spec("wandb") is None:
            return ["tracking=wandb: the package wandb is missing; pip install 'rearank[wandb]', or set tracking=none"]
        if self.mode != "online":
            return []
        if not has_key():
            return ["tracking.mode=online needs a key: set WANDB_API_KEY or run `wandb login`, or set mode=offline"]
        if (why := unreachable(server_url())) is not None:
            return [f"tracking.mode=online: W&B does not answer ({why}); set tracking.mode=offline and sync later"]
        return []

    def _mode(self) -> Literal["online", "offline", "disabled"]:
        if self.mode != "auto":
            return self.mode
        if _disabled():
            return "disabled"
        asked = _MODES.get(os.environ.get("WANDB_MODE", "").strip().lower(), "online")
        if asked != "online" or not has_key():
            return "offline" if asked == "online" else asked
        if (why := unreachable(server_url())) is None:
            return "online"
        _warn_once(f"W&B does not answer ({why}): its runs are kept offline; send them later with `wandb sync`")
        return "offline"

    def open(self, folder: Path, name: str, config: Mapping[str, Any], job: str, group: str | None = None) -> Trackers:
        """Start the run ``<name>/<job>`` of job type ``job``; ``folder`` is the job's, for its JSONL file."""
        mode, jsonl = self._mode(), JsonlTracker(folder, job)
        if mode == "disabled":
            return Trackers(jsonl)
        import wandb

        home = Path(self.folder) if self.folder is not None else folder
        home.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {
            "id": _run_id(folder / "wandb-id.txt"),
            "project": self.project,
            "entity": self.entity,
            "group": (self.group or group or name)[:_LONGEST],
            "job_type": job,
            "name": f"{name}/{job}"[-_LONGEST:],
            "tags": list(self.tags),
            "dir": str(home),
            "config": dict(config),
            "settings": wandb.Settings(console="off", silent=True, init_timeout=_SECONDS_TO_START),
        }
        if mode == "online":
            try:
                run = wandb.init(mode="online", resume="allow", **settings)
                return Trackers(jsonl, _WandbTracker(run, wandb, upload=self.upload, online=True))
            except Exception as error:  # a key that is refused, a server that is gone: W&B has many classes for it
                why = (str(error).splitlines() or [type(error).__name__])[0]
                if self.mode == "online":
                    raise TrackingError(
                        f"tracking.mode=online: W&B takes no run ({why}); check WANDB_API_KEY, tracking.entity and "
                        "tracking.project, or set tracking.mode=offline"
                    ) from error
                _warn_once(f"W&B takes no run ({why}): it is kept offline; send it later with `wandb sync`")
                settings["id"] = secrets.token_hex(4)  # W&B's own process holds the first one for taken
        run = wandb.init(mode="offline", **settings)
        _say_once(f"W&B's runs are kept offline; to send them: wandb sync {shlex.quote(str(home))}/wandb/offline-run-*")
        return Trackers(jsonl, _WandbTracker(run, wandb, upload=self.upload, online=False))


_MODES: dict[str, Literal["online", "offline", "disabled"]] = {
    **dict.fromkeys(("online", "run", "shared"), "online"),
    **dict.fromkeys(("offline", "dryrun"), "offline"),
    "disabled": "disabled",
}
"""What WANDB_MODE may be, older names included."""
_SECONDS_TO_ANSWER = 4.0
_SECONDS_TO_START = 30.0  # W&B's own limit is 90
_LONGEST = 128  # characters of W&B's names


def wandb_name(name: str) -> str:
    """Letters, digits, ``-``, ``_`` and ``.`` alone, 128 at most."""
    return re.sub(r"[^\w.-]+", "-", name)[-_LONGEST:]


def _run_id(path: Path) -> str:
    """The same run again after a stop: what a continued run logs belongs to the first one."""
    if not path.is_file():
        path.write_text(secrets.token_hex(4))
    return path.read_text()


def _disabled() -> bool:
    """Whether WANDB_DISABLED says so: older than WANDB_MODE, and still what many set."""
    return os.environ.get("WANDB_DISABLED", "").strip().lower() in ("true", "1", "yes", "on", "y", "t")


def server_url() -> str:
    """W&B's, or one's own."""
    return os.environ.get("WANDB_BASE_URL", "").strip() or "https://api.wandb.ai"


def has_key() -> bool:
    """As wandb looks for it, without importing wandb."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return (urlsplit(server_url()).hostname or "") in netrc.read_text()
    except OSError:
        return False


@cache
def unreachable(url: str) -> str | None:
    """Why no server answers at ``url``; ``None`` where one does, whatever it answers. Asked once, for seconds."""
    found: list[str | None] = []

    def ask() -> None:
        try:
            with urlopen(url, timeout=_SECONDS_TO_ANSWER):  # through the environment's proxy, as wandb goes
                found.append(None)
        except HTTPError:
            found.append(None)
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            # Certificates are wandb's own affair: it may trust others.
            found.append(None if isinstance(reason, ssl.SSLError) else f"{url}: {reason}")

    # In a thread: looking up the name alone may take longer than any time-out.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS_TO_ANSWER + 1)
    return found[0] if found else f"{url}: no answer within {_SECONDS_TO_ANSWER + 1:g} s"


@cache
def _warn_once(text: str) -> None:
    _log.warning(text)


@cache
def _say_once(text: str) -> None:
    _log.info(text)
