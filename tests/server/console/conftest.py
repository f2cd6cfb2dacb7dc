"""A site to look at, and a browser to look with; both last as long as the session."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.interop.chromium import Chromium
from tests.interop.programs import Program
from tests.interop.tools import chromium_or_skip
from tests.server.console.looking import Look


class Site(Program):
    """The program `served`.

    Attributes:
        url: Where the component with jobs and models is.
        guarded: Where one is that wants a token, ``open-sesame``.
        gateway: Where one is that speaks OpenAI's API, to who has the key of `served`.
        alone: Where one is that has no engine.
        fickle: Where one is that goes ``away`` and comes ``back``.
    """

    def __init__(self, folder: Path) -> None:
        program = str(Path(__file__).with_name("served.py"))
        super().__init__(
            [sys.executable, "-W", "error", program, f"local:{folder}"],
            errors_too=True,
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.url = self.where("site")
        self.guarded = self.where("guarded")
        self.gateway = self.where("gateway")
        self.alone = self.where("alone")
        self.fickle = self.where("fickle")

    def where(self, name: str) -> str:
        """Wait until something is there, and tell where."""
        lines = self.until(lambda lines: any(line.startswith(f"{name} ") for line in lines), 60)
        return next(line for line in reversed(lines) if line.startswith(f"{name} ")).split()[1]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A browser without a window."""
    with Chromium(chromium_or_skip(), tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


@pytest.fixture
def look(chromium: Chromium, site: Site) -> Iterator[Look]:
    """A tab; at the end of the test, it must not have met an error, nor asked anybody else."""
    with chromium.open("about:blank#") as page:
        look = Look(page)
        yield look
        look.at_peace()
