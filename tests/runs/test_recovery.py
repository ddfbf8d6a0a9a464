"""Each file of a real output folder is damaged: the same command goes on with the right result, or names the file.

The folder is walked as it is, so that a file that is new in it is tried without a word here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tests.tasks.runs import made

from rearank.cli.errors import explain
from rearank.experiment import Run
from rearank.runs.layout import misplaced, set_aside
from rearank.runs.stage import locked, warn_of_old_version
from rearank.tasks.pipeline import prepare_rows, train_model
from rearank.training.local import complete_checkpoint
from rearank.training.rows import read_rows
from rearank.training.trl import fit

pytestmark = pytest.mark.slow

SETTINGS = (
    *("experiment=quickstart", "tracking=none", "report.write=false", "engine=scripted", "analyse.after_training=0"),
    *(f"{one}.collection.passage_count=1000" for one in ("dataset", "validation", "benchmark")),
    *("dataset.collection.query_count=12", "validation.collection.query_count=6", "benchmark.collection.query_count=3"),
    *("prepare.validation_windows=6", "algorithm.steps=2", "algorithm.prompts_per_step=2", "algorithm.group_size=2"),
    *("trainer.save_every=1", "trainer.validate_every=1", "model.max_tokens=48"),
)
NUMBERS = (
    *(
        "prepared/*.parquet",
        "prepared/summary.json",
        "training/train.jsonl",
        "training/result.json",
        "training/model/*",
    ),
    *("summary.json", "evaluation/*/*/metrics.json", "evaluation/*/*/run*.trec", "evaluation/*/table.*"),
)
_SYSTEM = re.compile("evaluation/[^/]+/[^/]+/")
"""What is measured again whatever is damaged in it."""
CLOCKS = {"train/seconds", "rollout/reward_seconds"}


def copy(source: Path, target: Path) -> None:
    """Large files, which nothing changes in place, are linked."""
    (os.link if source.suffix in (".safetensors", ".pt", ".png", ".svg") else shutil.copy2)(source, target)


def marks(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def write(path: Path, content: bytes) -> None:
    path.unlink()  # what is linked elsewhere stays
    path.write_bytes(content)


def cut(path: Path) -> None:
    content = path.read_bytes()
    write(path, content[: len(content) // 2])


def flip(path: Path) -> None:
    """The byte in the middle: no text any more."""
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 0xFF
    write(path, content)


def other_digit(path: Path) -> None:
    """A text that can still be read, and has another number in it."""
    content = path.read_bytes()
    digits = [found.start() for found in re.finditer(rb"\d", content)]
    if not digits or b"\0" in content:
        flip(path)
        return
    place = digits[len(digits) // 2]
    write(path, content[:place] + (b"1" if content[place : place + 1] != b"1" else b"2") + content[place + 1 :])


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    write(path, b"")


def other_shape(path: Path) -> None:
    """Valid JSON: an object whose values are of other kinds, or a list where there was no object."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    items = content.items() if isinstance(content, dict) else ()
    write(path, json.dumps({k: 3 if isinstance(v, dict | list) else [v] for k, v in items} or []).encode())


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = (cut, flip, other_digit, remove, empty, other_shape, to_folder)


@dataclass(frozen=True)
class Folder:
    """A run whose folder is put back as it was before each try, and what the command does with it.

    ``right``: what undamaged folders come to.
    """

    run: Run
    kept: Path
    work: Callable[[Run], object]
    right: Mapping[str, Any]

    def names(self, *but: str) -> list[str]:
        """Of all files, but those whose names begin so."""
        found = (str(path.relative_to(self.kept)) for path in self.kept.rglob("*") if path.is_file())
        return sorted(name for name in found if not name.startswith(but))

    def put_back(self) -> Path:
        """Only what has changed, by size and time, is written: all of it would take longer than the commands."""
        root, kept = self.run.folder, {path.relative_to(self.kept): path for path in self.kept.rglob("*")}
        for path in sorted(root.rglob("*"), reverse=True):  # what is in a folder before the folder
            there = kept.get(path.relative_to(root))
            if path.is_dir():
                if there is None or not there.is_dir():
                    path.rmdir()
            elif there is None or marks(path) != marks(there):
                path.unlink()
        for name, there in sorted(kept.items()):
            if there.is_dir():
                (root / name).mkdir(exist_ok=True)
            elif not (root / name).exists():
                copy(there, root / name)
        return root

    def wrong(self, name: str, damage: Callable[[Path], None], warnings: Callable[[], str]) -> str:
        """What is wrong with the same command over the damaged folder; empty where nothing is."""
        damaged = self.put_back() / name
        damage(damaged)
        said = command(self.run, self.work)
        if said is not None and _SYSTEM.match(name):
            return f"not made again: {said}"
        if said is not None:
            return "" if str(damaged) in said and "\n" not in said else said
        now = facts(self.run.folder)
        other = [key for key in self.right if key in now and now[key] != self.right[key]]
        gone = [key for key in self.right if key not in now and str(self.run.folder / key) not in warnings()]
        return f"other numbers: {other}, without a word: {gone}" if other or gone else ""


def command(run: Run, work: Callable[[Run], object]) -> str | None:
    """What it ended with, as a user is told; ``None`` where it went on to its end."""
    if found := misplaced(run.folder):
        return found[0]
    try:
        with locked(run.folder):
            warn_of_old_version(run.folder)
            work(run)
    except Exception as error:
        said = explain(error, [])
        return f"traceback: {type(error).__name__}: {error}" if said is None else said
    return None


def whole(run: Run) -> None:
    run.experiment.task.run(run)


def training(run: Run) -> None:
    train_model(run, prepare_rows(run))


def facts(folder: Path) -> dict[str, Any]:
    """Every number that the run has come to, by the file that holds it."""
    found: dict[str, Any] = {}
    for pattern in NUMBERS:
        for path in folder.glob(pattern):
            if set_aside(path.parent):
                continue
            name = str(path.relative_to(folder))
            if path.suffix == ".parquet":
                found[name] = read_rows(path)
            elif path.suffix == ".jsonl":
                lines = map(json.loads, path.read_text().splitlines())
                found[name] = [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]
            else:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Folder, Folder]]:
    """A finished run, and one that was stopped when its training had done its last step."""
    place = tmp_path_factory.mktemp("recovery")
    run = made(place, *SETTINGS)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        # Each would take most of the time.
        patch.setattr("rearank.tasks.train.draw_curves", lambda *_: [])
        patch.setattr("rearank.experiment.commit", lambda: None)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(fit, "publish_best", stop)
            with pytest.raises(KeyboardInterrupt):
                command(run, whole)
        shutil.copytree(run.folder, place / "stopped")
        assert command(run, whole) is None
        shutil.copytree(run.folder, place / "finished")
        right = facts(run.folder)
        trained = {name: fact for name, fact in right.items() if name.startswith(("prepared/", "training/"))}
        yield Folder(run, place / "finished", whole, right), Folder(run, place / "stopped", training, trained)
    shutil.rmtree(place)


def wrongs(folder: Folder, names: list[str], caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """Name and damage -> what is wrong."""
    found = {}
    for name, damage in product(names, DAMAGES):
        caplog.clear()
        if wrong := folder.wrong(name, damage, lambda: caplog.text):
            found[f"{name} {damage.__name__}"] = wrong
    return found


def test_a_finished_run(folders: tuple[Folder, Folder], caplog: pytest.LogCaptureFixture) -> None:
    names = folders[0].names("training/checkpoints/checkpoint-1/")
    assert {"prepared/train.parquet", "training/result.json", "training/model/model.safetensors"} < set(names)
    assert {f"evaluation/synthetic/scripted/{name}" for name in ("run.trec", "metrics.json", "sealed.json")} < set(
        names
    )
    assert wrongs(folders[0], names, caplog) == {}


def test_a_stopped_training(folders: tuple[Folder, Folder], caplog: pytest.LogCaptureFixture) -> None:
    names = folders[1].names("prepared/", "training/checkpoints/")
    assert {"training/best.json", "training/best-2/model.safetensors", "training/train.jsonl"} < set(names)
    assert wrongs(folders[1], names, caplog) == {}


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    folders: tuple[Folder, Folder], caplog: pytest.LogCaptureFixture
) -> None:
    folder = folders[1]
    place = folder.put_back() / "training" / "checkpoints"
    last, kept = place / "checkpoint-2", folder.kept / "training" / "checkpoints" / "checkpoint-2"
    names = [path.name for path in kept.iterdir()]
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", "complete"} < set(names)
    for name, damage in product(names, DAMAGES):
        if (name, damage) == ("complete", empty):  # the mark of a trainer that lists no digests
            continue
        shutil.rmtree(last, ignore_errors=True)
        shutil.copytree(kept, last)
        assert complete_checkpoint(place) == last
        damage(last / name)
        assert complete_checkpoint(place) == place / "checkpoint-1", f"{name} {damage.__name__}"
    caplog.clear()
    assert folder.wrong("training/checkpoints/checkpoint-2/optimizer.pt", cut, lambda: caplog.text) == ""
    assert "checkpoint-2/optimizer.pt: was changed after it was written; the checkpoint is removed" in caplog.text
