"""What all tests share: an engine of their own, never that of whoever runs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def engine_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """``local:`` is an empty folder, in this process and in those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PROTOPLANE_ENGINE", raising=False)
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a failure when it happens: a run that is cut off never reaches its summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        sys.stderr.write(f"\nFAILED {report.nodeid} ({report.when})\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what tests counted (`record_property`), which a green dot does not say."""
    told = [
        f"{report.nodeid}: "
        + ", ".join(f"{count} {what}" for what, count in report.user_properties)
        for report in terminalreporter.getreports("passed")
        if report.user_properties
    ]
    if told:
        terminalreporter.section("what was counted")
        for line in told:
            terminalreporter.write_line(line)
