"""A real Kubernetes API for tests: etcd and kube-apiserver of some folder, on the loopback.

There are no nodes: what a controller would write of pods, the tests write themselves. ``make
kubernetes`` builds the two programs from the Go module proxy, which takes a while.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tests.certificates import make_certificates

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / ".build" / "kubernetes"
"""Where ``make kubernetes`` puts ``etcd`` and ``kube-apiserver``."""

ADMIN, STRANGER = "admin-token", "stranger-token"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/forge/endpointslices"
_WAIT_S = 90.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running API.

    Attributes:
        url: Where it is.
        authority: PEM file of the authority of its certificate.
    """

    url: str
    authority: Path

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: str = ADMIN,
    ) -> tuple[int, Any]:
        """Make a request.

        Returns:
            The status, and the JSON of the answer.
        """
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"authorization": f"Bearer {token}", "content-type": kind},
            method=method,
        )
        context = ssl.create_default_context(cafile=os.fspath(self.authority))
        try:
            with urlopen(request, timeout=20, context=context) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            with error:
                return error.code, json.load(error)

    def do(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Make a request that must succeed, as the administrator."""
        status, said = self.ask(method, path, body)
        assert status < 300, said
        return said

    def kubeconfig(self, folder: Path, token: str = ADMIN) -> Path:
        """Write a file that leads to it."""
        file = folder / "kubeconfig.json"
        server = {"server": self.url, "certificate-authority": os.fspath(self.authority)}
        context = {"cluster": "test", "user": "me", "namespace": "forge"}
        file.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": context}],
                    "clusters": [{"name": "test", "cluster": server}],
                    "users": [{"name": "me", "user": {"token": token}}],
                }
            )
        )
        return file


@contextmanager
def etcd(folder: Path) -> Generator[str]:
    """Run the database of an API until the block ends.

    Args:
        folder: An empty folder for what it keeps.

    Yields:
        Where it is.
    """
    client, peer = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
    with _running(
        folder / "etcd.log",
        PROGRAMS / "etcd",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ):
        yield client


@contextmanager
def cluster(folder: Path, database: str, *arguments: str) -> Generator[Cluster]:
    """Run an API until the block ends.

    Args:
        folder: A folder for what it keeps.
        database: The URL of its `etcd`, where an earlier one may have left what it had.
        arguments: More arguments of ``kube-apiserver``.
    """
    certificates = folder / "certificates"
    if not certificates.exists():
        certificates.mkdir()
        make_certificates(certificates)
    tokens = folder / "tokens.csv"
    tokens.write_text(f'{ADMIN},admin,1,"system:masters"\n{STRANGER},stranger,2\n')
    port = _free_port()
    log = folder / "apiserver.log"
    with _running(
        log,
        PROGRAMS / "kube-apiserver",
        f"--etcd-servers={database}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={certificates / 'server.pem'}",
        f"--tls-private-key-file={certificates / 'server.key'}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={certificates / 'server.pem'}",
        f"--service-account-signing-key-file={certificates / 'server.key'}",
        "--service-cluster-ip-range=10.0.0.0/24,fd00:10:96::/112",
        "--endpoint-reconciler-type=none",
        *arguments,
    ) as process:
        found = Cluster(f"https://127.0.0.1:{port}", certificates / "ca.pem")
        until = time.monotonic() + _WAIT_S
        while not _answers(found):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < until, log.read_text()[-4000:]
            time.sleep(0.2)
        status, said = found.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "forge"}})
        assert status in (201, 409), said
        yield found


def _answers(found: Cluster) -> bool:
    try:
        return found.ask("GET", "/readyz?verbose=false")[0] == 200
    except (URLError, OSError):
        return False
    except json.JSONDecodeError:
        # It says "ok" in plain text.
        return True


@contextmanager
def _running(log: Path, program: Path, *arguments: str) -> Generator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen([program, *arguments], stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
