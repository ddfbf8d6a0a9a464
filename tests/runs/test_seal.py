"""What has changed since it was written is found, and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rearank.runs.layout import SEAL, misplaced
from rearank.runs.seal import DamagedFileError, damaged, read_checked, seal, write_checked
from rearank.runs.sharing import shared
from rearank.runs.stage import Stage, StageError
from rearank.runs.sweeps import Job, Sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file, and a folder with a file in a folder; a third file isn't sealed."""
    (tmp_path / "model" / "inner").mkdir(parents=True)
    (tmp_path / "model" / "inner" / "weights").write_bytes(b"\0" * 2_000_000)
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "log").write_text("grows")
    seal(tmp_path, ["result.json", "model"])
    return tmp_path


def test_what_is_as_it_was_is_whole(folder: Path) -> None:
    assert damaged(folder) == []
    (folder / "log").write_text("grows on")
    assert damaged(folder) == []
    assert set(json.loads((folder / SEAL).read_text())["files"]) == {"result.json", "model/inner/weights"}


def test_what_has_changed_or_is_missing_is_named(folder: Path) -> None:
    weights = folder / "model" / "inner" / "weights"
    weights.write_bytes(b"\0" * 1_999_999 + b"\1")
    (folder / "result.json").unlink()
    found = [f"{folder / 'result.json'}: is missing", f"{weights}: was changed after it was written"]
    assert damaged(folder) == found
    cache = folder / "cache"
    assert damaged(folder, cache) == damaged(folder, cache) == found, "remembered digests are those of the change"


def test_a_seal_is_sealed_itself(folder: Path) -> None:
    path = folder / SEAL
    whole = path.read_text()
    path.write_text(whole.replace("result.json", "rfsult.json"))
    assert damaged(folder) == [f"{path}: was changed after it was written"]
    path.write_text(whole[:40])
    (line,) = damaged(folder)
    assert line.startswith(f"{path}: can't be parsed (")
    path.write_text('{"files": []}')
    assert damaged(folder) == [f"{path}: was changed after it was written"]
    path.unlink()
    path.symlink_to(path)
    assert damaged(folder) == [f"{path}: is no file"]
    path.unlink()
    path.mkdir()
    assert damaged(folder) == [f"{path}: is no file"]
    path.rmdir()
    assert damaged(folder) == [], "an earlier version's folder"


def test_checked_files(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    assert read_checked(path) is None
    write_checked(path, {"step": 2, "ndcg": 0.5})
    assert read_checked(path) == {"step": 2, "ndcg": 0.5}
    for text in (path.read_text().replace("0.5", "0.6"), '{"step": 3}', "[1, 2]", "{", "", "\udcff"):
        path.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(DamagedFileError, match=r"best\.json: "):
            read_checked(path)


def test_results_of_unknown_settings_are_not_gone_on_from(tmp_path: Path) -> None:
    """A half-written ``settings.json`` once counted as none, and other settings went on with what was there."""
    place = tmp_path / "training"
    stage = Stage(place, {"seed": 1})
    (stage.open() / "result").touch()
    settings = place / "settings.json"
    text = settings.read_text()
    unread = "can't be parsed"
    shapes = ("[]", '{"code": [], "files": 3}', '{"code": {}, "files": {}, "code_accepted": {}}')
    for damage, what in (
        (text[: len(text) // 2], unread),
        *((shape, unread) for shape in shapes),
        (None, "is missing"),
    ):
        settings.unlink() if damage is None else settings.write_text(damage)
        with pytest.raises(StageError, match=rf"settings\.json: {what}, so nothing says .* move {place} away"):
            Stage(place, {"seed": 2}).open()
        settings.write_text(text)
    settings.unlink()
    for make in (lambda: settings.symlink_to(settings), lambda: (settings.unlink(), settings.mkdir())):
        make()
        with pytest.raises(StageError, match=r"settings\.json: is no file, so nothing says"):
            Stage(place, {"seed": 2}).open()
    settings.rmdir()
    Stage(place, {"seed": 2}, rerun=True).open()
    assert (tmp_path / "training.1" / "result").exists()
    assert not (place / "result").exists()


def test_a_write_that_was_cut_off_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "settings.json.partial").write_text("{")
    (tmp_path / "environment.json").write_text('{"time": ')
    Stage(tmp_path, {"seed": 1}).open()
    assert json.loads((tmp_path / "environment.json").read_text())["python"], "written again, it could not be read"


def test_what_jobs_share_is_made_again_once_it_is_damaged(tmp_path: Path) -> None:
    files, store = ("rows", SEAL), tmp_path / "store"

    def job(name: str) -> bool:
        """Whether the rows were there."""
        place = tmp_path / name / "prepared"
        place.mkdir(parents=True)
        with shared(store, {"seed": 1}, place, files) as there:
            if not there:
                (place / "rows").write_text("the rows")
                seal(place, ["rows"])
        assert (place / "rows").read_text() == "the rows"
        return there

    assert [job("a"), job("b")] == [False, True]
    (kept,) = store.glob("*/rows")
    kept.write_text("the r")
    assert [job("c"), job("d")] == [False, True]


@pytest.mark.parametrize("text", ["", '{"swept": {"se', "[]", '{"swept": 1, "overrides": []}', "{}", "\udcff"])
def test_a_damaged_sweep_file_is_named(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "sweep.json").write_bytes(text.encode(errors="surrogateescape"))
    assert Sweep.read(tmp_path) == Sweep(tmp_path)
    assert f"{tmp_path / 'sweep.json'}: is not what a sweep writes" in caplog.text


@pytest.mark.parametrize("text", ["", '{"status": "fini', "[]", '{"status": "finished"}', "\udcff"])
def test_a_damaged_job_counts_as_stopped(text: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "job.json").write_bytes(text.encode(errors="surrogateescape"))
    (job,) = Sweep(tmp_path, {"seed": ["1"]}).jobs()
    assert job == Job.read(tmp_path / "one")
    assert job.failed
    assert job.cause.startswith(f"{tmp_path / 'one' / 'job.json'}: is not what a job writes (")
    assert "the sweep's own command" in job.command


def test_what_stands_where_a_file_is_needed_is_named(tmp_path: Path) -> None:
    places = ("summary.json", "prepared/train.parquet", "training/result.json", "evaluation/synthetic/queries.json")
    for name in (*places, "training.1/result.json", "evaluation/synthetic/base/metrics.json", "training/checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    link = tmp_path / "completions.sqlite"
    link.symlink_to(link)
    (tmp_path / "report.html").touch()
    found = misplaced(tmp_path)
    assert [line.partition(": ")[0] for line in found] == sorted(str(tmp_path / n) for n in (*places, link.name))
    assert all("move it away" in line for line in found)
