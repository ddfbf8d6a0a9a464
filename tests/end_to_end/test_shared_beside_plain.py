"""``trainer.shared_prompt=true`` and ``false``, end to end: the same draws, and figures that differ by rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.end_to_end.pipeline import curves, metrics, run

pytestmark = pytest.mark.slow

NEAR = 0.005
FEW = (
    *("algorithm.steps=4", "algorithm.minibatches=2", "algorithm.kl=0.01", "trainer.micro_batch=2"),
    *("trainer.threads=1", "trainer.validate_every=4", "evaluation.samples=0", "benchmark.collection.query_count=4"),
)


def test_figures_are_those_of_the_plain_path(tmp_path: Path) -> None:
    found = {}
    for shared in ("false", "true"):
        run(tmp_path / shared, *FEW, f"trainer.shared_prompt={shared}")
        found[shared] = tmp_path / shared / "run"
    plain, ours = (curves(folder) for folder in found.values())
    assert [line["step"] for line in ours] == [line["step"] for line in plain]
    for one, other in zip(ours, plain, strict=True):
        assert one == {name: pytest.approx(value, abs=NEAR, rel=NEAR) for name, value in other.items()}
    assert any(line.get("train/kl", 0) > 0 for line in ours)
    scores, expected = (metrics(folder) for folder in found.values())
    assert scores.keys() == expected.keys()
    for name, one in expected.items():
        assert scores[name]["mean"] == pytest.approx(one["mean"], abs=NEAR)
