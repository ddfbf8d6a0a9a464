"""What several jobs of a sweep would make alike is made by one of them: the others link it into their own folders."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rearank.runs.declared import mattering
from rearank.runs.seal import damaged


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Of what a result depends on: 16 hexadecimal digits, the same whatever the keys' order."""
    return hashlib.sha256(json.dumps(mattering(identity), sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def shared(store: Path | None, identity: Mapping[str, Any], folder: Path, files: Sequence[str]) -> Iterator[bool]:
    """``files`` in ``folder``: yields whether they are there now, or are to be made inside the block.

    Args:
        store: where jobs share; ``None`` outside a sweep, and then nothing is there.
        identity: what the files depend on: jobs for which it is equal share them.
        folder: of the job.
        files: names; the last one says that all are whole. What the block made is kept for the other jobs.
    """
    if store is None:
        yield False
        return
    place = store / f"{folder.name}-{fingerprint(identity)}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second job waits for what the first one makes, and then has it
        if (place / files[-1]).is_file() and not damaged(place):
            _link(place, folder, files)
            yield True
            return
        yield False
        _link(folder, place, files)


def _link(source: Path, target: Path, files: Sequence[str]) -> None:
    """Hard links where the disk has them, copies elsewhere; each appears whole."""
    for name in files:
        scratch = target / f"{name}.partial"
        scratch.unlink(missing_ok=True)
        try:
            os.link(source / name, scratch)
        except OSError:
            shutil.copyfile(source / name, scratch)
        scratch.replace(target / name)


_OWN = {"job.json", ".job", ".lock", "failure.txt", ".hydra", "wandb", "wandb-id.txt", "report.html"}
_SCRAPS = {".log", ".partial"}
_WRITTEN_IN_PLACE = {".jsonl", ".sqlite", ".md", ".csv", ".tex", ".png", ".svg"}


def made(folder: Path) -> Iterator[Path]:
    """The files that a job's work left in ``folder``, sorted; not what describes, locks or logs the job itself."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in _SCRAPS and not _OWN & set(path.relative_to(folder).parts):
            yield path


def take_over(twin: Path, folder: Path) -> None:
    """What a job made, in the folder of another that would make the same.

    Links; copies of files that grow or are written over in place, which would change the twin's, too. What is already
    there stays, so that a transfer that was cut off is completed by the next one.
    """
    for path in made(twin):
        target = folder / path.relative_to(twin)
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in _WRITTEN_IN_PLACE:
            scratch = target.with_name(target.name + ".partial")
            shutil.copyfile(path, scratch)
            scratch.replace(target)
        else:
            _link(path.parent, target.parent, [path.name])
