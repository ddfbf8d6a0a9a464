"""``examples/cluster/serve.yaml`` with two replicas of the tiny model: a kill under load loses no request."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.pipeline import ROOT

pytest.importorskip("grpc_reflection", reason="the extra ray-serve is missing")
pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

REQUESTS = 60


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    place = str(ROOT / "experiments" / "performance")
    sys.path.insert(0, place)
    try:
        import ray_serve

        yield ray_serve
    finally:
        sys.path.remove(place)
        sys.modules.pop("ray_serve", None)


def test_a_killed_replica_under_load_loses_no_request(tmp_path: Path, script: Any) -> None:
    from rearank import Reranker

    with Reranker("tiny", engine="transformers", overrides=["strategy.size=5", "strategy.step=2"]) as alone:
        expected = [list(alone.rerank(*script.work(number)).indexes) for number in range(REQUESTS)]
    with script.deployed(tmp_path, script.TINY, 2) as served:
        before = served.replicas()
        assert len(before) == 2
        found = script.load(served.port, REQUESTS, 12, script.kill_one(served, 10))
        assert found.failed == 0, [answer for answer in found.answers if answer[0] != 200]
        assert [order for _, order in found.answers] == expected
        said = (tmp_path / "said.log").read_text()
        assert "which is given to another one" in said, "the kill met requests under way"
        deadline = time.monotonic() + 120
        while len(set(served.replicas()) - set(before)) < 1 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert set(served.replicas()) - set(before), "Ray Serve starts another one in its place"
        status, order = script.ask(served.port, *script.work(0))
        assert (status, order) == (200, expected[0])
        status, _ = script.ask(served.port, "", ["a"])
        assert status == 422, "the front is task=serve's application"
    assert served.replicas() == [], "all ends with it"
