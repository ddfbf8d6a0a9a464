"""Fixtures every room's tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

# A case may take long on a loaded machine; pytest-timeout ends what hangs.
hypothesis.settings.register_profile("rearank", deadline=None)
# `make mutants` runs the same tests thousands of times: few cases, and the same ones each time.
hypothesis.settings.register_profile("mutants", deadline=None, max_examples=8, derandomize=True, database=None)
hypothesis.settings.load_profile("rearank")

ROOT = Path(__file__).resolve().parent.parent
WITHOUT = [name for name in ("torch", "transformers", "tokenizers") if find_spec(name) is None]

# Several processes share the cores, and the models are tiny: more threads each only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job (`make test &`) ignores Ctrl-C, and so would the runs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests start first: begun last they would leave the other cores with nothing to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


@contextmanager
def _torch_may_be_missing() -> Iterator[None]:
    """The core has no torch (``make test-newest``): a test that comes to need it is skipped, saying so."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in WITHOUT:
            raise
        pytest.skip(f"needs the package {error.name}: pip install -e '.[train]'")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    """Fixtures, too."""
    with _torch_may_be_missing():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """The test itself."""
    with _torch_may_be_missing():
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real collections: ``../shared/data`` beside the project, or where ``REARANK_TEST_DATA`` points."""
    folder = Path(os.environ.get("REARANK_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real test data here (REARANK_TEST_DATA or ../shared/data)")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """CI shows at a glance whether the tests on real data ran."""
    skipped = terminalreporter.stats.get("skipped", [])
    data = sum("no real test data" in str(report.longrepr) for report in skipped)
    terminalreporter.write_line(f"data tests skipped for want of real collections: {data}")
