"""Everything here needs the cluster's packages (verl, Ray, vLLM): `make test-cluster` has an environment with them."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.end_to_end.pipeline import environment

MISSING = [name for name in ("verl", "ray", "vllm") if find_spec(name) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, saying why, where the packages are missing. The longest file starts first."""
    items.sort(key=lambda item: item.path.name != "test_training.py")
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        # verl, vLLM and what they import warn of their own deprecations.
        item.add_marker(pytest.mark.filterwarnings("default"))
        if MISSING:
            item.add_marker(pytest.mark.skip(reason=f"the cluster's packages are missing: {', '.join(MISSING)}"))


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray that was there before: two machines (both this one) of two "GPUs" each. Its address."""
    from tests.cluster.runs import has_machines

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray, address = str(Path(sys.executable).parent / "ray"), f"127.0.0.1:{port}"
    said = tmp_path_factory.mktemp("ray") / "said.log"
    # A token in the user's home is nothing for a test.
    without_token = pytest.MonkeyPatch()
    without_token.setenv("RAY_AUTH_MODE", "disabled")
    nodes = []
    try:
        for role in (["--head", f"--port={port}", "--include-dashboard=false"], [f"--address={address}"]):
            command = [ray, "start", *role, "--num-gpus=2", "--num-cpus=48", "--block"]
            with said.open("a") as log:
                nodes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment()))
            assert has_machines(address, len(nodes)), said.read_text()
        yield address
    finally:
        for node in nodes:  # and no other Ray's, as `ray stop` would
            node.terminate()
        for node in nodes:
            node.wait(timeout=60)
        without_token.undo()
