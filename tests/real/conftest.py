"""Everything here needs a real model: ``make test-real`` makes its folder and says where it is."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from rearank.engines.model import Model

WHERE = "REARANK_REAL"
"""The variable that names the model's folder."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, saying why, where there is no real model, or no torch."""
    place = os.environ.get(WHERE)
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if place is None:
        reason = f"no real model is named ({WHERE}): make test-real"
    elif not (Path(place) / "config.json").is_file():
        reason = f"{WHERE}={place}: no model there (no package index was reached?)"
    else:
        reason = f"missing: {', '.join(missing)}" if missing else ""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.path.name != "test_fetch.py":
            item.add_marker(pytest.mark.slow)
            item.add_marker(
                pytest.mark.filterwarnings("default")
            )  # transformers, TRL, vLLM and verl warn of themselves
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def real() -> Model:
    """SmolLM2-135M-Instruct, of its Q4_1 weights."""
    return Model("smollm2_q4_1", str(Path(os.environ[WHERE]).resolve()))
