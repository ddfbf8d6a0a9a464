"""A folder in which something is damaged or stands in the way, as ``task=evaluate`` and ``preflight`` meet it."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from tests.tasks.runs import SMALL, made

from rearank.runs.reader import read_systems
from rearank.tasks.pipeline import evaluate_models
from rearank.tasks.preflight import PreflightError, preflight


def test_what_is_damaged_is_measured_again_to_the_same_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = made(tmp_path, *SMALL)
    evaluate_models(run)
    place = run.folder / "evaluation" / "synthetic" / "scripted"
    (place.parent / "other" / "run.trec").mkdir(parents=True)  # this command measures no such system

    def results() -> dict[Path, bytes]:
        return {path: path.read_bytes() for name in ("run.trec", "metrics.json") for path in [place / name]}

    whole = results()
    own = place.parent.parent / "wandb" / "offline-run-1"  # W&B's: no system's, and `wandb sync` looks for it there
    (own / "files").mkdir(parents=True)
    (own / "run-1.wandb").write_bytes(b"x")
    own.with_name("latest-run").symlink_to(own.name)

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:100])

    def loop(path: Path) -> None:
        path.unlink()
        path.symlink_to(path)

    for number, (damage, name) in enumerate(product((cut, loop, Path.unlink), ("run.trec", "metrics.json")), 1):
        caplog.clear()
        damage(place / name)
        evaluate_models(run)
        assert results() == whole
        assert f"{place / name}: " in caplog.text
        assert f"is kept as {place}.{number}" in caplog.text
    assert [one.name for one in read_systems(tmp_path / "run")] == ["bm25", "scripted", "ideal"]
    assert {path.name for path in place.parent.glob("other*")} == {"other.1"}
    assert {path.name for path in own.parent.iterdir()} == {"offline-run-1", "latest-run"}


def test_what_would_stop_a_run_at_its_end_is_refused_before_it(tmp_path: Path) -> None:
    run = made(tmp_path, *SMALL, "task=evaluate")
    store = run.folder / "completions.sqlite"
    run.folder.mkdir()
    preflight(run)
    assert list(run.folder.iterdir()) == [], "nothing is started"
    store.write_text("no database " * 1000)
    (run.folder / "summary.json").mkdir()
    with pytest.raises(PreflightError) as caught:
        preflight(run)
    lines = str(caught.value).splitlines()
    assert any(f"{store}: can't keep completions here" in line for line in lines)
    assert any(f"{run.folder / 'summary.json'}: a folder, or" in line for line in lines)
    store.unlink()
    store.mkdir()
    with pytest.raises(PreflightError, match=r"completions\.sqlite: a folder, or a link .* move it away"):
        preflight(run)
