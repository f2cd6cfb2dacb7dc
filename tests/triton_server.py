"""A real Triton for tests: the binary that the wheel ``nvidia-pytriton`` carries, on the processor.

    python -m tests.triton_server [MODEL…]

runs one with the models of ``tests/triton/models`` until it is interrupted; `make triton` does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from tritonclient import grpc as triton_grpc

HERE = Path(__file__).parent / "triton"
ROOT = HERE.parents[1]
MODELS = HERE / "models"

_VENV = ROOT / ".venv-triton"
_REQUIREMENTS = HERE / "requirements.txt"
_INSTALL_S = 240.0
_START_S = 60.0
_STOP_S = 20.0
_SHARED = Path("/dev/shm")


class TritonMissingError(Exception):
    """Triton cannot run here; the message says why."""


@dataclass(frozen=True, slots=True)
class TritonProgram:
    """An installed Triton.

    Attributes:
        binary: The program.
        backends: Folder of its backends.
        env: The environment it runs in.
    """

    binary: Path
    backends: Path
    env: dict[str, str]


def triton_program() -> TritonProgram:
    """The Triton of ``.venv-triton``, which is made where there is none.

    Raises:
        TritonMissingError: It cannot run on this machine, or not be fetched.
    """
    tag = f"{sys.platform} {os.uname().machine}"
    if tag != "linux x86_64":
        raise TritonMissingError(f"nvidia-pytriton has wheels for Linux on x86_64, not for {tag}")
    if not (3, 8) <= sys.version_info[:2] <= (3, 12):
        raise TritonMissingError(
            "numpy 1.26, which its Python backend needs, is for Python to 3.12"
        )
    version = sysconfig.get_python_version()
    wanted = f"{version}\n{_REQUIREMENTS.read_text()}"
    done = _VENV / ".installed"
    lock = ROOT / ".build" / "triton.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as held:
        # Workers of pytest come here together, and one installs.
        fcntl.flock(held, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != wanted:
            _install(version)
            done.write_text(wanted)
    return _installed(version)


@dataclass
class TritonServer:
    """A running server, or one that was killed.

    Attributes:
        program: What runs.
        port: Port of its gRPC service on the loopback.
        metrics_port: Port of its metrics.
        folder: Where its log is.
        models: Folder of its models.
        process: Its process; the Python backend's processes are in its group.
    """

    program: TritonProgram
    port: int
    metrics_port: int
    folder: Path
    models: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The backend's URL."""
        return f"triton://{self.address}"

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def start_again(self) -> None:
        """Start it anew where it was, with no model loaded."""
        ports = (self.port, self.metrics_port)
        self.process = _start(self.program, ports, self.folder, self.models)
        _wait(self.process, self.address, self.folder)

    def load(self, *models: str) -> None:
        """Load models; those that are loaded stay as they are."""
        client_of: Any = triton_grpc.InferenceServerClient
        with client_of(self.address) as client:
            for model in models:
                client.load_model(model, client_timeout=_START_S)

    def metric(self, name: str, model: str) -> float:
        """A number of its own metrics, 0 for one that there is not."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            lines: list[str] = answer.read().decode().splitlines()
        found = [line for line in lines if line.startswith(f"{name}{{") and f'"{model}"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def stop(self) -> None:
        """End it; what is left of it after a while is killed."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        # Its group and not the process alone: the Python backend's would be left for a while.
        try:
            if self.process.poll() is None:
                target = os.killpg if number is signal.SIGKILL else os.kill
                target(self.process.pid, number)
                self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            pass
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_STOP_S)
        for left in _SHARED.glob(f"{_prefix(self.port)}*"):
            left.unlink(missing_ok=True)


@contextmanager
def triton_server(folder: Path, models: Path = MODELS) -> Generator[TritonServer]:
    """Run a server until the block ends; no model is loaded.

    Args:
        folder: An empty folder for what it writes.
        models: Folder of the models that it can load.

    Yields:
        The server, once it answers.

    Raises:
        TritonMissingError: It cannot run on this machine, or not be fetched.
    """
    program = triton_program()
    ports = _free_ports()
    process = _start(program, ports, folder, models)
    server = TritonServer(program, *ports, folder, models, process)
    try:
        _wait(process, server.address, folder)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Generator[TritonServer]:
    """A server that all tests of this process share; skipped, with the reason, without one."""
    with triton_or_skip(tmp_path_factory.mktemp("triton")) as server:
        yield server


@contextmanager
def triton_or_skip(folder: Path, models: Path = MODELS) -> Generator[TritonServer]:
    """See `triton_server`; skips the test where it cannot run."""
    try:
        triton_program()
    except TritonMissingError as missing:
        pytest.skip(f"no Triton: {missing}")
    with triton_server(folder, models) as server:
        yield server


def _install(version: str) -> None:
    shutil.rmtree(_VENV, ignore_errors=True)
    python = str(_VENV / "bin" / "python")
    uv = shutil.which("uv")
    pip = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    commands = [
        [sys.executable, "-m", "venv", str(_VENV)],
        [*pip, "--quiet", "--no-deps", "--requirement", str(_REQUIREMENTS)],
    ]
    for command in commands:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_INSTALL_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise TritonMissingError(f"installing it took more than {_INSTALL_S} s") from None
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines()
            raise TritonMissingError(f"it could not be installed: {said[-1] if said else 'why?'}")
    found = _installed(version)
    # The backend looks for the program that runs models beside itself.
    stub = found.binary.parents[1] / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, found.backends / "python" / stub.name)


def _installed(version: str) -> TritonProgram:
    packages = _VENV / "lib" / f"python{version}" / "site-packages"
    root = packages / "pytriton" / "tritonserver"
    shared = sysconfig.get_config_var("LIBDIR")
    libraries = [str(packages / "nvidia_pytriton.libs"), str(shared)]
    env = {
        **os.environ,
        "PATH": f"{_VENV / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": ":".join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(
            ":"
        ),
        "VIRTUAL_ENV": str(_VENV),
        # Several at a time on a small machine: one thread each.
        "OPENBLAS_NUM_THREADS": "1",
    }
    return TritonProgram(root / "bin" / "tritonserver", root / "backends", env)


def _start(
    program: TritonProgram, ports: tuple[int, int], folder: Path, models: Path
) -> subprocess.Popen[bytes]:
    port, metrics_port = ports
    command = [
        str(program.binary),
        f"--model-repository={models}",
        "--model-control-mode=explicit",
        f"--backend-directory={program.backends}",
        f"--backend-config=python,shm-region-prefix-name={_prefix(port)}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        # A model then finds the trace among the parameters of a request.
        "--grpc-header-forward-pattern=traceparent",
        "--allow-http=false",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics_port}",
        "--allow-gpu-metrics=false",
        "--allow-cpu-metrics=false",
        "--exit-timeout-secs=5",
        "--disable-auto-complete-config",
    ]
    if guard := shutil.which("setpriv"):
        # A test that hangs ends its process, and nobody is left to stop this one.
        command = [guard, "--pdeathsig", "KILL", *command]
    with (folder / "log").open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=program.env,
            start_new_session=True,
        )


def _wait(process: subprocess.Popen[bytes], address: str, folder: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        # A channel for each attempt: one that failed waits longer and longer.
        with grpc.insecure_channel(address) as channel:
            untyped: Any = channel
            live: Any = untyped.unary_unary("/inference.GRPCInferenceService/ServerLive")
            try:
                live(b"", timeout=1)
            except grpc.RpcError:
                time.sleep(0.05)
            else:
                return
    log = (folder / "log").read_text(errors="replace")
    raise AssertionError(f"tritonserver did not start:\n{log[-4000:]}")


def _prefix(port: int) -> str:
    return f"protoplane-triton-{port}-"


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def main(names: Sequence[str]) -> None:
    """Run a server with these models, or all, until it is interrupted."""
    models = names or sorted(each.name for each in MODELS.iterdir() if each.is_dir())
    with tempfile.TemporaryDirectory() as folder, triton_server(Path(folder)) as server:
        server.load(*models)
        print(f"Triton serves {', '.join(models)} at {server.url}; Ctrl-C ends it", flush=True)
        try:
            server.process.wait()
        except KeyboardInterrupt:
            return
        raise SystemExit(f"tritonserver ended:\n{server.log()[-4000:]}")


if __name__ == "__main__":
    main(sys.argv[1:])
