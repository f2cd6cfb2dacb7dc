"""What a server counts about its links, as `/metrics` shows it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.runtime.link.wire import frame, hello

from forge.captioner.v1 import CaptionerClient, ListStylesRequest
from protoplane_client import connect
from protoplane_components.captioner import Captioner
from protoplane_server import Options, Server

pytestmark = pytest.mark.anyio

LOCAL = "link+tcp://127.0.0.1:0"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def samples(server: Server) -> dict[tuple[str, str], float]:
    """The samples about links by name and carrier, as the HTTP door gives them."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{server.http_url}/metrics")).text
    return {
        (sample.name.removeprefix("protoplane_link"), sample.labels["carrier"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "carrier" in sample.labels
    }


async def until(server: Server, name: str, carrier: str, value: float) -> None:
    async with asyncio.timeout(30):
        while (await samples(server)).get((name, carrier)) != value:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_links_are_counted_by_carrier(tmp_path: Path) -> None:
    path = tmp_path / "l.sock"
    options = Options(grpc=None, http="127.0.0.1:0", link=(LOCAL, f"link+unix:{path}"))
    async with Server(Captioner(), options) as server:
        assert await samples(server) == {}
        port = int(server.link_addresses[0].rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        said = hello() + frame(
            "OPEN", 1, "END", method="/forge.captioner.v1.CaptionerService/ListStyles"
        )
        writer.write(said)
        await until(server, "_messages_sent_total", "tcp", 1)
        _, local = await asyncio.open_unix_connection(str(path))
        local.write(hello())
        await until(server, "_received_bytes_total", "unix", len(hello()))
        found = await samples(server)
        heard = await reader.read(65536)
        assert found["s", "tcp"] == found["s", "unix"] == 1
        assert found["s_opened_total", "tcp"] == 1
        assert found["s_lost_total", "tcp"] == 0
        assert found["_sent_bytes_total", "tcp"] == len(heard)
        assert found["_received_bytes_total", "tcp"] == len(said)
        assert found["_messages_received_total", "tcp"] == 1
        for each in (writer, local):
            each.close()
            await each.wait_closed()
        await until(server, "s", "tcp", 0)
        await until(server, "s", "unix", 0)
        # What they moved stays counted, and an end that either side chose is no loss.
        found = await samples(server)
        assert found["_sent_bytes_total", "tcp"] == len(heard)
        assert found["s_lost_total", "tcp"] == 0


async def test_a_link_that_breaks_the_rules_is_lost() -> None:
    options = Options(grpc=None, http="127.0.0.1:0", link=(LOCAL,))
    async with Server(Captioner(), options) as server:
        port = int(server.link_addresses[0].rpartition(":")[2])
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(hello() + hello())
            await reader.read()
            writer.close()
            await writer.wait_closed()
        await until(server, "s_lost_total", "tcp", 2)
        await until(server, "s", "tcp", 0)
        assert (await samples(server))["s_opened_total", "tcp"] == 2


@pytest.mark.parametrize("door", ["grpc", "http"])
async def test_links_through_other_doors_have_the_name_of_the_door(door: str) -> None:
    async with Server(Captioner(), Options(grpc="127.0.0.1:0", http="127.0.0.1:0")) as server:
        address = {"grpc": f"grpc://{server.grpc_address}", "http": server.http_url}[door]
        async with connect(f"link+{address}") as plane:
            await plane.client(CaptionerClient).list_styles(ListStylesRequest(), timeout_s=10)
            assert (await samples(server))["s", door] == 1
        await until(server, "s", door, 0)
