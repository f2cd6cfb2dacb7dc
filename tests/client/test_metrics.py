"""What planes count, as Prometheus reads it."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from tests.client.desk import ASK, Desk

from forge.captioner.v1 import CollectRequest
from protoplane_base import PlaneError
from protoplane_client import ConnectionState, Plane, connect
from protoplane_client.metrics import PlaneCollector
from protoplane_components.captioner import Captioner
from protoplane_server import Options, Server

pytestmark = pytest.mark.anyio

LOCAL = "link+tcp://127.0.0.1:0"
PREFIX = "protoplane_client_"


def desk(*, name: str | None = None, tokens: dict[str, str] | None = None) -> Server:
    return Server(Desk(), Options(grpc=None, http=None, link=(LOCAL,), name=name, tokens=tokens))


async def ask(plane: Plane) -> None:
    await plane.unary(ASK, CollectRequest(text="hello"), {})


async def test_state_and_counts_of_each_instance() -> None:
    async with desk(name="tests/desk/one") as one, desk(tokens={"t": "ann"}) as locked:
        address = locked.link_addresses[0]
        async with connect(one.link_addresses[0]) as good, connect(address) as bad:
            registry = CollectorRegistry()
            registry.register(PlaneCollector({"good": good, "bad": bad}))

            def value(name: str, plane: str, instance: str, **more: str) -> float | None:
                labels = {"plane": plane, "instance": instance, **more}
                return registry.get_sample_value(PREFIX + name, labels)

            before = one.link_addresses[0]
            assert value("connections", "good", before, state="disconnected") == 1
            for _ in range(3):
                await ask(good)
            with pytest.raises(PlaneError):
                await ask(bad)
            name = "tests/desk/one"
            for state in ConnectionState:
                connected = state is ConnectionState.CONNECTED
                assert value("connections", "good", name, state=state.value) == connected
            assert value("connections", "bad", address, state="failed") == 1
            stats = good.routes[0].stats
            assert value("messages_sent_total", "good", name) == 3
            assert value("messages_received_total", "good", name) == 3
            assert value("sent_bytes_total", "good", name) == stats.bytes_sent
            assert value("received_bytes_total", "good", name) == stats.bytes_received
            assert value("errors_total", "good", name) == 0
            assert value("errors_total", "bad", address) == 1
            assert value("reconnects_total", "good", name) == 0
            assert value("calls_outstanding", "good", name) == 0
            since = value("connection_state_since_timestamp_seconds", "good", name)
            assert since == stats.since_s


async def test_two_ways_to_one_instance_are_one_series() -> None:
    options = Options(grpc=None, http=None, link=(LOCAL, "link+tcp://localhost:0"))
    async with Server(Desk(), options) as server, connect(server.link_addresses) as plane:
        async with asyncio.timeout(30):
            while {route.state for route in plane.routes} != {ConnectionState.CONNECTED}:
                await ask(plane)
        registry = CollectorRegistry()
        registry.register(PlaneCollector({"desk": plane}))
        labels = {"plane": "desk", "instance": server.name}
        sent = sum(route.stats.messages_sent for route in plane.routes)
        assert registry.get_sample_value(PREFIX + "messages_sent_total", labels) == sent
        connected = {**labels, "state": "connected"}
        assert registry.get_sample_value(PREFIX + "connections", connected) == 2


async def test_a_component_shows_what_it_calls_at_its_own_metrics() -> None:
    async with (
        desk(name="tests/desk/behind") as behind,
        connect(behind.link_addresses[0]) as plane,
        Server(Captioner(), Options(grpc=None, http="127.0.0.1:0")) as server,
    ):
        server.dispatcher.metrics.registry.register(PlaneCollector({"desk": plane}))
        await ask(plane)
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{server.http_url}/metrics")).text
        found = {
            (sample.name, sample.labels.get("instance")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert found[PREFIX + "messages_sent_total", "tests/desk/behind"] == 1
        assert ("protoplane_replies_remembered", None) in found


def test_without_prometheus_it_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "sys.modules['prometheus_client.core'] = None\n"
        "import protoplane_client\n"
        "try:\n"
        "    import protoplane_client.metrics\n"
        "except ImportError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("MissingExtraError counting what planes do needs an extra")
    assert "protoplane[server]" in done.stdout
