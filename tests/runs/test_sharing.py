"""A job that another sweep has finished takes its results over; one with work of its own goes on with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tasks.test_sweep import explain, job_of

from rearank.runs.sharing import take_over
from rearank.runs.sweeps import Job
from rearank.tasks.sweep.jobs import JobUnderWay

FILES = {
    "training/model/model.safetensors": "weights",
    "training/result.json": "{}",
    "training/train.jsonl": "a curve",
    "training/figures/reward.png": "a figure",
    "evaluation/dl19/table.md": "a table",
    "completions.sqlite": "answers",
    "summary.json": "{}",
}
OWN = (
    *("job.json", "failure.txt", "report.html", "run.log", ".lock", ".job", ".hydra/config.yaml"),
    *("training/wandb/run.wandb", "training/wandb-id.txt", "evaluation/table.md.partial"),
)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def there(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    write(tmp_path / "twin", {**FILES, **dict.fromkeys(OWN, "the twin's own")})
    return tmp_path / "twin"


def test_whole_files_are_linked_and_those_written_in_place_are_copied(twin: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    write(mine, {"run.log": "my log", ".hydra/config.yaml": "mine"})
    take_over(twin, mine)
    assert there(mine) == {**FILES, "run.log": "my log", ".hydra/config.yaml": "mine"}
    linked = {name for name in FILES if (twin / name).stat().st_ino == (mine / name).stat().st_ino}
    assert linked == {"training/model/model.safetensors", "training/result.json", "summary.json"}
    with (mine / "training/train.jsonl").open("a") as file:
        file.write(" and more")
    assert (twin / "training/train.jsonl").read_text() == "a curve"


def test_a_transfer_that_was_cut_off_is_completed(twin: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    write(mine, {"training/train.jsonl": "mine", "summary.json.partial": "ha", "completions.sqlite.partial": "lf"})
    take_over(twin, mine)
    assert there(mine) == {**FILES, "training/train.jsonl": "mine"}


class Work:
    """A job's work, counted."""

    def __init__(self, job: JobUnderWay) -> None:
        self._folder, self.times = job.folder, 0

    def __call__(self) -> float:
        self.times += 1
        write(self._folder, FILES)
        return 0.5


def config(outputs: Path, **changes: Any) -> dict[str, Any]:
    own = {"_target_": "rearank.experiment.Experiment", "arm": "a", "name": "one"}
    return {**own, "seed": 1, "paths": {"outputs": str(outputs)}, **changes}


def carry_out(job: JobUnderWay, settings: dict[str, Any]) -> tuple[int, float | None]:
    work = Work(job)
    score = job.carry_out(settings, work, explain)
    return work.times, score


def test_an_equal_job_of_another_sweep_takes_over(tmp_path: Path) -> None:
    first, second = job_of(tmp_path / "one-sweep", arm="a"), job_of(tmp_path / "two-sweep", arm="b")
    assert carry_out(first, config(tmp_path)) == (1, 0.5)
    write(second.folder, {"failure.txt": "it could not begin", "run.log": ""})
    assert carry_out(second, config(tmp_path, arm="b", name="two")) == (0, 0.5)
    stored = json.loads((second.folder / "job.json").read_text())
    assert (stored["status"], stored["choices"]) == ("finished", {"arm": "b"})
    assert stored["taken_from"] == str(first.folder)
    assert FILES.items() <= there(second.folder).items()
    assert not (second.folder / "failure.txt").exists()
    assert carry_out(second, config(tmp_path, arm="b", name="two")) == (0, 0.5), "finished before"
    third = job_of(tmp_path / "three-sweep", arm="c")
    assert carry_out(third, config(tmp_path, arm="c")) == (0, 0.5), "of a twin, or of its twin"


def stopped(folder: Path) -> None:
    stored = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**stored, "status": "failed"}))


def other_settings(folder: Path) -> None:
    stored = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**stored, "settings": "0" * 16}))


def no_results(folder: Path) -> None:
    (folder / "training" / "result.json").unlink()


def unreadable(folder: Path) -> None:
    (folder / "job.json").write_text('{"status": "fini')


def elsewhere(folder: Path) -> None:
    folder.parent.rename(folder.parent.with_name("no sweep of ours"))


@pytest.mark.parametrize("spoil", [stopped, other_settings, no_results, unreadable, elsewhere])
def test_what_is_no_twin_is_left_alone(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    first, second = job_of(tmp_path / "one-sweep", arm="a"), job_of(tmp_path / "two-sweep", arm="a")
    carry_out(first, config(tmp_path))
    spoil(first.folder)
    assert carry_out(second, config(tmp_path)) == (1, 0.5)
    assert "taken_from" not in json.loads((second.folder / "job.json").read_text())


def test_other_settings_are_no_twin(tmp_path: Path) -> None:
    carry_out(job_of(tmp_path / "one-sweep", arm="a"), config(tmp_path))
    second = job_of(tmp_path / "two-sweep", arm="a")
    assert carry_out(second, config(tmp_path, seed=2)) == (1, 0.5)


def test_a_job_is_not_its_own_twin(tmp_path: Path) -> None:
    job = job_of(tmp_path / "one-sweep", arm="a")
    carry_out(job, config(tmp_path))
    (job.folder / "summary.json").unlink()
    assert carry_out(job, config(tmp_path)) == (1, 0.5)


def test_a_job_with_work_of_its_own_goes_on_with_it(tmp_path: Path) -> None:
    """Another setting's results, or half of a training, are not mixed with a twin's."""
    first, second = job_of(tmp_path / "one-sweep", arm="a"), job_of(tmp_path / "two-sweep", arm="a")
    carry_out(second, config(tmp_path, seed=2))
    carry_out(first, config(tmp_path))
    assert carry_out(second, config(tmp_path)) == (1, 0.5)


def test_a_job_whose_taking_over_was_cut_off_completes_it(tmp_path: Path) -> None:
    first, second = job_of(tmp_path / "one-sweep", arm="a"), job_of(tmp_path / "two-sweep", arm="a")
    carry_out(first, config(tmp_path))
    stone = second.folder / "summary.json.partial"
    stone.mkdir()  # a folder where a file is needed
    assert carry_out(second, config(tmp_path)) == (0, None)
    found = Job.read(second.folder)
    assert found.failed
    assert "summary.json.partial" in found.cause
    assert "Traceback" in (second.folder / "failure.txt").read_text()
    assert (second.folder / "completions.sqlite").is_file(), "half of it is there"
    assert not (second.folder / "training").exists()
    stone.rmdir()
    assert carry_out(second, config(tmp_path)) == (0, 0.5)
    assert FILES.items() <= there(second.folder).items()
    assert not Job.read(second.folder).failed
    assert not (second.folder / "failure.txt").exists()
