"""Which checkpoints stay: a killed run finds one to go on from, and the best weights up to it."""

from __future__ import annotations

from pathlib import Path

from rearank.training.local import complete_checkpoint, mark_complete, prune

PATTERN = "global_step_*"


def save(folder: Path, step: int, *, weights_only: bool) -> None:
    place = folder / f"global_step_{step}"
    place.mkdir()
    mark_complete(place, weights_only=weights_only)


def steps(folder: Path) -> set[int]:
    return {int(path.name.rpartition("_")[2]) for path in folder.glob(PATTERN)}


def test_the_best_of_before_outlives_a_better_one_that_a_kill_takes_away(tmp_path: Path) -> None:
    """Step 10 is best, 20 is whole, 30 is better; killed at 35 the run falls back to 20, and its best is 10 again."""
    save(tmp_path, 10, weights_only=True)
    prune(tmp_path, PATTERN, 2, (10, -1))
    save(tmp_path, 20, weights_only=False)
    prune(tmp_path, PATTERN, 2, (10, 10))
    save(tmp_path, 30, weights_only=True)
    prune(tmp_path, PATTERN, 2, (30, 10))
    assert steps(tmp_path) == {10, 20, 30}
    assert complete_checkpoint(tmp_path, PATTERN) == tmp_path / "global_step_20"
    assert steps(tmp_path) == {10, 20}


def test_weights_that_are_not_the_best_go(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 60):
        save(tmp_path, step, weights_only=step % 20 > 0)
    prune(tmp_path, PATTERN, 2, (20, 20))
    assert steps(tmp_path) == {20, 40, 60}


def test_one_cut_short_is_removed_whatever_its_step(tmp_path: Path) -> None:
    save(tmp_path, 20, weights_only=False)
    (tmp_path / "global_step_10").mkdir()
    (tmp_path / "global_step_40").mkdir()
    assert complete_checkpoint(tmp_path, PATTERN) == tmp_path / "global_step_20"
    assert steps(tmp_path) == {20}
    assert complete_checkpoint(tmp_path / "none", PATTERN) is None
