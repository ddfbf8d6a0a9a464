"""Fixtures every room's tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job (`make test &`) ignores Ctrl-C, and so would the runs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
