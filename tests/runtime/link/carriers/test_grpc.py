"""Links over gRPC, through the gRPC door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import grpc.aio
import pytest
from hypothesis import given, strategies
from tests.runtime.link.carriers.carrier_suite import Recorder, TlsCarrierSuite, first
from tests.runtime.link.carriers.test_tcp import free_port

from forge.captioner.v1 import CaptionerService
from protoplane.v1.link_pb2 import CarryRequest
from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_runtime.link.carriers.grpc_stream import METHOD, decode, encode
from protoplane_runtime.link.carriers.interface import Listener, Started
from protoplane_runtime.link.carriers.opening import connector, listener
from protoplane_runtime.tls import ClientTls, ServerTls
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.grpc_door import GrpcDoor, GrpcOptions
from protoplane_server.limits import Limits


@dataclass
class _Door:
    address: str
    door: GrpcDoor

    async def aclose(self) -> None:
        await self.door.stop(1)


class TestGrpc(TlsCarrierSuite):
    async def listen(self, started: Started, tls: ServerTls | None = None) -> Listener:
        return await self._open(started, tls, Limits())

    async def _open(self, started: Started, tls: ServerTls | None, limits: Limits) -> _Door:
        dispatcher = Dispatcher([CaptionerService()], events=MemoryLog(), limits=limits)
        door = GrpcDoor(dispatcher, GrpcOptions(tls=tls), link=started)
        address = await door.start("127.0.0.1:0")
        return _Door(f"link+{'grpc' if tls is None else 'grpcs'}://{address}", door)

    async def connect(self, address: str, started: Started, tls: ClientTls | None = None) -> None:
        await connector(address)(address, started, tls)

    def nowhere(self) -> str:
        return f"link+grpc://127.0.0.1:{free_port()}"

    async def test_a_server_that_takes_small_messages_only(self) -> None:
        taken: list[Recorder] = []

        def started(carrier: object) -> Recorder:
            taken.append(Recorder(carrier))  # type: ignore[arg-type]
            return taken[-1]

        near: list[Recorder] = []

        def ours(carrier: object) -> Recorder:
            near.append(Recorder(carrier))  # type: ignore[arg-type]
            return near[-1]

        there = await self._open(started, None, Limits(max_message_bytes=1000))
        await self.connect(there.address, ours)
        near[0].carrier.send(b"x" * 100_000)
        await (await first(taken)).takes(b"x" * 100_000)
        near[0].carrier.close()
        assert await near[0].until_lost() is None
        assert await taken[0].until_lost() is None
        await there.aclose()

    async def test_a_message_that_is_none_ends_the_link(self) -> None:
        taken: list[Recorder] = []

        def started(carrier: object) -> Recorder:
            taken.append(Recorder(carrier))  # type: ignore[arg-type]
            return taken[-1]

        there = await self._open(started, None, Limits())
        async with grpc.aio.insecure_channel(there.address.removeprefix("link+grpc://")) as channel:
            call = cast("Any", channel).stream_stream(METHOD)()
            await call.write(b"\xff\xff\xff")
            assert await call.read() is grpc.aio.EOF
        error = await taken[0].until_lost()
        assert error is not None
        assert error.code is Code.INVALID_ARGUMENT
        await there.aclose()

    async def test_a_door_without_links_says_so(self) -> None:
        door = GrpcDoor(Dispatcher([CaptionerService()], events=MemoryLog()))
        address = await door.start("127.0.0.1:0")
        with pytest.raises(PlaneError, match="takes no links") as caught:
            await self.connect(f"link+grpc://{address}", Recorder)
        assert caught.value.code is Code.UNAVAILABLE
        await door.stop(1)

    async def test_there_is_no_listener_but_the_door(self) -> None:
        with pytest.raises(PlaneError, match="open the door"):
            listener("link+grpc://127.0.0.1:0")

    @pytest.mark.parametrize("address", ["link+grpc://", "link+grpc://here", "link+grpcs://:1"])
    async def test_no_address(self, address: str) -> None:
        with pytest.raises(PlaneError) as caught:
            await self.connect(address, Recorder)
        assert caught.value.code is Code.INVALID_ARGUMENT


@given(strategies.lists(strategies.binary(max_size=300)))
def test_messages_are_what_protobuf_makes(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    message = encode(pieces)
    assert CarryRequest.FromString(message).frames == data
    assert decode(message) == data
    assert decode(CarryRequest(frames=data).SerializeToString()) == data


@given(strategies.binary(max_size=300))
def test_any_message_is_read_as_protobuf_does_or_refused(message: bytes) -> None:
    try:
        expected = CarryRequest.FromString(message).frames
    except Exception:  # noqa: BLE001  # whatever protobuf raises
        with pytest.raises(PlaneError):
            decode(message)
    else:
        assert decode(message) == expected
