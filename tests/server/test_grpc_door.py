"""The gRPC door keeps the component suite, and does what gRPC itself asks of a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from google.rpc.error_details_pb2 import BadRequest
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tests.component_suite import ComponentSuite, Harness, component_options, do, eventually
from tests.parts import Parts
from tests.server.plain_channel import PlainChannel

from forge.captioner.v1 import CaptionerService
from protoplane_base import Code, PlaneError
from protoplane_server import CallInfo, Server

pytestmark = pytest.mark.anyio

CAPTIONER = CaptionerService.spec.full_name
_INFO = CallInfo("grpc", "test", {})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    parts = Parts()
    async with Server(parts, component_options(grpc=0)) as server:
        async with grpc.aio.insecure_channel(str(server.grpc_address)) as channel:
            yield Harness(PlainChannel(channel), parts, server)
        parts.release.set()


class TestGrpcDoor(ComponentSuite):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[Harness]:
        parts = Parts()
        async with Server(parts, component_options(grpc=0)) as server:
            async with grpc.aio.insecure_channel(str(server.grpc_address)) as channel:
                yield Harness(PlainChannel(channel), parts, server)
            parts.release.set()


class TestUnixSocket(ComponentSuite):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[Harness]:
        parts = Parts()
        address = f"unix:{tmp_path / 'door.sock'}"
        async with Server(parts, component_options(grpc=address)) as server:
            assert server.grpc_address == address
            async with grpc.aio.insecure_channel(address) as channel:
                yield Harness(PlainChannel(channel), parts, server)


async def raw(server: Server, method: str, data: bytes, **options: Any) -> bytes:
    async with grpc.aio.insecure_channel(str(server.grpc_address)) as channel:
        stubs: Any = channel
        call = stubs.unary_unary(method)
        answer: bytes = await call(data, **options)
        return answer


@pytest.mark.parametrize(
    ("method", "data"),
    [("ListStyles", b"\xff\xff\xff"), ("Collect", b"\x0a\x05ab"), ("Caption", b"\x0a\x02\xff\xfe")],
)
async def test_bad_bytes(harness: Harness, method: str, data: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw(harness.server, f"/{CAPTIONER}/{method}", data)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "decode" in str(caught.value.details())
    await harness.serves_on()


async def test_unknown_method_says_what_there_is(harness: Harness) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw(harness.server, f"/{CAPTIONER}/Missing", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "ListStyles" in str(caught.value.details())


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_trailers(harness: Harness, kind: str) -> None:
    method = "ListStyles" if kind == "unary_unary" else "Caption"
    async with grpc.aio.insecure_channel(str(harness.server.grpc_address)) as channel:
        call: Any = getattr(channel, kind)(f"/{CAPTIONER}/{method}")
        started = call(b"", metadata=tuple(do("trailers").items()))
        trailers = dict(await started.trailing_metadata())
    assert trailers == {"x-text": "three words", "x-raw-bin": b"\x00\xff"}


async def test_details_too_large_for_trailers_are_left_out(harness: Harness) -> None:
    async def fail(_request: Any, _ctx: Any) -> Any:
        violation = BadRequest.FieldViolation(field="x", description="y" * 20_000)
        raise PlaneError(
            Code.INVALID_ARGUMENT, "z" * 20_000, [BadRequest(field_violations=[violation])]
        )

    entry = harness.server.dispatcher.begin(
        harness.server.dispatcher.method(f"/{CAPTIONER}/ListStyles"), _INFO
    ).entry
    entry.handler = fail
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw(harness.server, f"/{CAPTIONER}/ListStyles", b"")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_gzip(harness: Harness) -> None:
    answer = await raw(
        harness.server, f"/{CAPTIONER}/ListStyles", b"", compression=grpc.Compression.Gzip
    )
    assert answer == b"\x0a\x02\x01\x02"


async def test_gzip_answers() -> None:
    async with Server(Parts(), component_options(grpc=0, gzip=True)) as server:
        answer = await raw(server, f"/{CAPTIONER}/ListStyles", b"")
    assert answer == b"\x0a\x02\x01\x02"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection(harness: Harness, version: str) -> None:
    async with grpc.aio.insecure_channel(str(harness.server.grpc_address)) as channel:
        ask: Any = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        names = [f"grpc.reflection.{version}.ServerReflection", CAPTIONER]
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            *(
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
                for name in names
            ),
        ]
        listed, *files = [answer async for answer in ask(iter(questions))]
    assert {service.name for service in listed.list_services_response.service} == {
        CAPTIONER,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "protoplane.v1.Metrics",
    }
    for name, answer in zip(names, files, strict=True):
        file = descriptor_pb2.FileDescriptorProto.FromString(
            answer.file_descriptor_response.file_descriptor_proto[0]
        )
        assert name in {f"{file.package}.{service.name}" for service in file.service}


async def health(server: Server, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    answer = await raw(server, "/grpc.health.v1.Health/Check", request)
    return int(health_pb2.HealthCheckResponse.FromString(answer).status)


async def test_health(harness: Harness) -> None:
    serving = health_pb2.HealthCheckResponse.SERVING
    assert await health(harness.server, "") == serving
    assert await health(harness.server, CAPTIONER) == serving
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(harness.server, "forge.nowhere.v1.Nowhere")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_while_draining(harness: Harness) -> None:
    async with grpc.aio.insecure_channel(str(harness.server.grpc_address)) as channel:
        watch: Any = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        watches = [watch(health_pb2.HealthCheckRequest(service=CAPTIONER)) for _ in range(3)]
        for each in watches:
            assert (await each.read()).status == health_pb2.HealthCheckResponse.SERVING
        watches.pop().cancel()
        opened = asyncio.create_task(harness.call("unary", metadata=do("wait")))
        await harness.parts.until(hanging=1)
        stopping = asyncio.create_task(harness.server.stop())
        for each in watches:
            assert (await each.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not harness.server.ready
        assert await health(harness.server, "") == health_pb2.HealthCheckResponse.NOT_SERVING
        harness.parts.release.set()
        assert len(await opened) == 1
        await stopping
        for each in watches:
            assert await each.read() is grpc.aio.EOF


async def test_channelz(harness: Harness) -> None:
    await harness.serves_on()
    answer = await raw(harness.server, "/grpc.channelz.v1.Channelz/GetServers", b"")
    servers = channelz_pb2.GetServersResponse.FromString(answer).server
    assert sum(server.data.calls_started for server in servers) >= 1


async def test_calls_are_counted(harness: Harness) -> None:
    await harness.serves_on()
    with pytest.raises(grpc.aio.AioRpcError):
        await raw(harness.server, f"/{CAPTIONER}/ListStyles", b"\xff")
    await eventually(lambda: harness.server.dispatcher.open_calls == 0)
    text = harness.server.dispatcher.metrics.render().decode()
    labels = f'door="grpc",method="/{CAPTIONER}/ListStyles"'
    assert f'protoplane_calls_total{{code="OK",{labels}}} 1.0' in text
    assert f'protoplane_call_errors_total{{code="INVALID_ARGUMENT",{labels}}} 1.0' in text
    assert f"protoplane_calls_in_flight{{{labels}}} 0.0" in text
    assert f"protoplane_call_duration_seconds_count{{{labels}}} 2.0" in text


async def test_two_hundred_cancelled_calls_of_each_kind_are_seen(harness: Harness) -> None:
    for kind in ("unary", "server_stream"):
        before = harness.parts.cancelled
        tasks = [asyncio.create_task(harness.call(kind, metadata=do("hang"))) for _ in range(200)]
        await harness.parts.until(hanging=200)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await harness.parts.until(hanging=0, cancelled=before + 200)
