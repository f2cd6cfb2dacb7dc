"""TLS and mutual TLS from the client's side: `connect`, and the commands as real processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tests.certificates import make_certificates, needs_openssl
from tests.component_suite import Harness, component_options
from tests.interop.programs import Program
from tests.parts import Parts

from forge.captioner.v1 import CaptionFinished
from protoplane_base import Code, PlaneError
from protoplane_client import Plane, Tls, connect
from protoplane_client.subscription import Received
from protoplane_server import Server
from protoplane_server import Tls as ServerTls

pytestmark = [pytest.mark.anyio, needs_openssl]

COMMAND = [sys.executable, "-c", "from protoplane_runtime.cli import main; main()"]
CAPTIONER = "protoplane_components.captioner:Captioner"
STYLES = {"styles": ["STYLE_PLAIN", "STYLE_VIVID"]}
DOORS = ["grpc", "http"]
UNWANTED = {
    "anonymous": "it may ask callers for a certificate",
    "distrustful": "(?i)certificate.verify.failed",
    "plain": r"if it speaks TLS, the target begins with (grpcs|https)://",
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def tls(certificates: Path, *, identified: bool) -> Tls:
    if not identified:
        return Tls(ca=certificates / "ca.pem")
    cert, key = certificates / "client.pem", certificates / "client.key"
    return Tls(ca=certificates / "ca.pem", cert=cert, key=key)


@pytest.fixture(params=[False, True], ids=["tls", "mutual"])
async def server(certificates: Path, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    files = ServerTls(
        certificate=certificates / "server.pem",
        key=certificates / "server.key",
        client_ca=certificates / "ca.pem" if request.param else None,
    )
    async with Server(Parts(), component_options(grpc=0, http=0, tls=files)) as server:
        yield server


mutual = pytest.mark.parametrize("server", [True], ids=["mutual"], indirect=True)


def target(server: Server, door: str) -> str:
    return f"grpcs://{server.grpc_address}" if door == "grpc" else str(server.http_url)


def harness(plane: Plane, server: Server) -> Harness:
    return Harness(plane, Parts(), server)


@pytest.mark.parametrize("kind", ["unary", "server_stream", "client_stream", "bidi_stream"])
@pytest.mark.parametrize("door", DOORS)
async def test_calls(server: Server, certificates: Path, door: str, kind: str) -> None:
    async with connect(target(server, door), tls=tls(certificates, identified=True)) as plane:
        assert await harness(plane, server).call(kind, timeout_s=10)


async def test_events_beside_grpc(server: Server, certificates: Path) -> None:
    identity = tls(certificates, identified=True)
    async with connect(target(server, "grpc"), http=server.http_url, tls=identity) as plane:
        await plane.publish("forge/captions/42", CaptionFinished(words=7))
        events: Any = plane.subscribe("forge/captions/*", after="earliest", give_up_s=10)
        async with aclosing(events):
            event = await anext(events)
            assert isinstance(event, Received)
            assert json.loads(event.json) == {"words": 7}


@mutual
@pytest.mark.parametrize("caller", UNWANTED)
@pytest.mark.parametrize("kind", ["unary", "server_stream"])
@pytest.mark.parametrize("door", DOORS)
async def test_refused(
    server: Server, certificates: Path, door: str, kind: str, caller: str
) -> None:
    place, identity = target(server, door), tls(certificates, identified=False)
    if caller == "plain":
        place = place.replace("grpcs:", "grpc:").replace("https:", "http:")
    async with connect(place, tls=identity if caller == "anonymous" else None) as plane:
        with pytest.raises(PlaneError, match=UNWANTED[caller]) as caught:
            await harness(plane, server).call(kind, timeout_s=10)
        assert caught.value.code is Code.UNAVAILABLE
    async with connect(target(server, door), tls=tls(certificates, identified=True)) as plane:
        await harness(plane, server).serves_on()


@mutual
async def test_a_connection_that_was_good_and_breaks_has_no_hint(
    server: Server, certificates: Path
) -> None:
    identity = tls(certificates, identified=True)
    async with connect(target(server, "http"), tls=identity) as plane:
        await harness(plane, server).serves_on()
        await server.stop(0)
        with pytest.raises(PlaneError) as caught:
            await harness(plane, server).serves_on()
        assert caught.value.code is Code.UNAVAILABLE
        assert "certificate" not in caught.value.message


# The commands.


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")), "COLUMNS": "100"}


@pytest.fixture(scope="module")
def served(certificates: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    files = ["--tls-cert", "server.pem", "--tls-key", "server.key", "--tls-client-ca", "ca.pem"]
    options = [
        str(certificates / file) if file.endswith((".pem", ".key")) else file for file in files
    ]
    command = [*COMMAND, "serve", CAPTIONER, "--grpc", "0", "--http", "0", *options]
    with Program(command, errors_too=True, env=environment) as program:
        lines = program.until(lambda lines: any("HTTP at " in line for line in lines))
        said = re.search(r"gRPC at (\S+) and HTTP at (https://\S+)", "\n".join(lines))
        assert said
        yield {"grpc": f"grpcs://{said[1]}", "http": said[2]}
        assert program.end() == 0


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def identity(certificates: Path) -> list[str]:
    files = {"--tls-ca": "ca.pem", "--tls-cert": "client.pem", "--tls-key": "client.key"}
    return [word for name, file in files.items() for word in (name, str(certificates / file))]


@pytest.mark.parametrize("door", DOORS)
def test_call_command(
    served: dict[str, str], environment: dict[str, str], certificates: Path, door: str
) -> None:
    done = run(environment, "call", served[door], "ListStyles", *identity(certificates))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == STYLES


@pytest.mark.parametrize("door", DOORS)
def test_call_command_without_a_certificate(
    served: dict[str, str], environment: dict[str, str], certificates: Path, door: str
) -> None:
    trust = ["--tls-ca", str(certificates / "ca.pem")]
    done = run(environment, "call", served[door], "ListStyles", *trust)
    assert done.returncode == 1
    assert re.search("UNAVAILABLE.*may ask callers for a certificate", done.stderr)
    assert "Traceback" not in done.stderr


def test_publish_and_listen_commands(
    served: dict[str, str], environment: dict[str, str], certificates: Path
) -> None:
    at = ["--at", served["http"], *identity(certificates)]
    name = "forge.captioner.v1.CaptionFinished"
    key = "forge/captions/42"
    done = run(environment, "publish", key, '{"words": 7}', "--type", name, *at)
    assert done.returncode == 0, done.stderr
    heard = run(environment, "listen", key, "--after", "earliest", "--count", "1", *at)
    assert json.loads(heard.stdout)["message"] == {"words": 7}


def test_unix_socket_from_the_command_line(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = f"unix:{tmp_path_factory.mktemp('s')}/g"
    command = [*COMMAND, "serve", CAPTIONER, "--grpc", place, "--http", "0"]
    with Program(command, errors_too=True, env=environment) as program:
        program.until(lambda lines: any(f"gRPC at {place} and" in line for line in lines))
        done = run(environment, "call", place, "ListStyles")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == STYLES
        assert program.end() == 0
