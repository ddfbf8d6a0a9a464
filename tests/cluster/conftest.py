"""Everything here needs the cluster's packages (verl, Ray, vLLM): `make test-cluster` has an environment with them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

MISSING = [name for name in ("verl", "ray", "vllm") if find_spec(name) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, saying why, where the packages are missing."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        # verl, vLLM and what they import warn of their own deprecations.
        item.add_marker(pytest.mark.filterwarnings("default"))
        if MISSING:
            item.add_marker(pytest.mark.skip(reason=f"the cluster's packages are missing: {', '.join(MISSING)}"))


@pytest.fixture
def no_ray_left() -> Iterator[None]:
    """After the test no process of Ray's or vLLM's is left, however the run ended."""
    yield
    from tests.cluster.runs import cluster_processes

    assert cluster_processes(patience=40) == []
