"""The peers of `bench/request_plane.py`, each as one writes it who knows the library well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import uvloop
from request_plane_broker import broker
from request_plane_side import TEXT, TOKENS, WORD, Caller, Side, serve_until_ended, untyped

_SERVICE = "bench.echo.v1.EchoService"
_TIMEOUT_S = 20.0


def _messages() -> Any:
    """Protobuf's own classes of the benchmark's schema."""
    return untyped("bench.echo.v1.echo_pb2")


def _checked(answer: Any, asked: Any) -> None:
    if answer.id != asked.id or answer.text != asked.text:
        raise ValueError(f"asked {asked.id}, answered {answer.id}")


class GrpcAio:
    """``grpc.aio`` with protobuf's own classes, as ``protoc``'s stubs and servicers use it."""

    name = "grpc.aio"
    needs = ("grpc",)
    streams = True
    apart = True

    def serve(self) -> None:
        """See `Side.serve`."""
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        import grpc
        import grpc.aio

        pb = _messages()

        async def echo(request: Any, context: Any) -> Any:
            return pb.EchoResponse(id=request.id, text=request.text)

        async def tokens(request: Any, context: Any) -> AsyncIterator[Any]:
            for index in range(request.count):
                yield pb.TokensResponse(text=request.text, index=index)

        async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
            yield pb.WatchResponse(text=request.text)
            await asyncio.Event().wait()

        handlers: dict[str, Any] = {
            "Echo": grpc.unary_unary_rpc_method_handler(
                echo,
                request_deserializer=pb.EchoRequest.FromString,
                response_serializer=pb.EchoResponse.SerializeToString,
            ),
            "Tokens": grpc.unary_stream_rpc_method_handler(
                tokens,
                request_deserializer=pb.TokensRequest.FromString,
                response_serializer=pb.TokensResponse.SerializeToString,
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                watch,
                request_deserializer=pb.WatchRequest.FromString,
                response_serializer=pb.WatchResponse.SerializeToString,
            ),
        }
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await serve_until_ended(f"127.0.0.1:{port}")
        await server.stop(None)

    async def connect(self, address: str) -> Caller:
        """See `Side.connect`."""
        return _GrpcAioCaller(address)


class _GrpcAioCaller:
    def __init__(self, address: str) -> None:
        import grpc.aio

        self._pb = pb = _messages()
        self._ids = count()
        self._channel: Any = grpc.aio.insecure_channel(address)
        self._echo = self._channel.unary_unary(
            f"/{_SERVICE}/Echo",
            request_serializer=pb.EchoRequest.SerializeToString,
            response_deserializer=pb.EchoResponse.FromString,
        )
        self._tokens = self._channel.unary_stream(
            f"/{_SERVICE}/Tokens",
            request_serializer=pb.TokensRequest.SerializeToString,
            response_deserializer=pb.TokensResponse.FromString,
        )
        self._watch = self._channel.unary_stream(
            f"/{_SERVICE}/Watch",
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )

    async def call(self) -> None:
        request = self._pb.EchoRequest(id=f"{next(self._ids):016d}", text=TEXT)
        _checked(await self._echo(request), request)

    async def stream(self) -> AsyncIterator[object]:
        expected = 0
        async for token in self._tokens(self._pb.TokensRequest(text=WORD, count=TOKENS)):
            if token.index != expected:
                raise ValueError(f"token {token.index} came for {expected}")
            expected += 1
            yield token

    async def watch(self) -> AsyncIterator[object]:
        async for token in self._watch(self._pb.WatchRequest(text=WORD)):
            yield token

    async def aclose(self) -> None:
        await self._channel.close()


class Nats:
    """NATS request/reply through the real server, with protobuf's own classes as bodies."""

    name = "nats-py"
    needs = ("nats",)
    streams = False
    apart = True

    def serve(self) -> None:
        """See `Side.serve`."""
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        pb = _messages()

        async def echo(request: Any) -> Any:
            return pb.EchoResponse(id=request.id, text=request.text)

        async def answer(message: Any) -> None:
            response = await echo(pb.EchoRequest.FromString(message.data))
            await message.respond(response.SerializeToString())

        # nats-py awaits the callback of a subscription message by message. A task for each keeps
        # one slow handler from holding up the others, as it does in every other row.
        answering: set[asyncio.Task[None]] = set()

        async def received(message: Any) -> None:
            task = asyncio.create_task(answer(message))
            answering.add(task)
            task.add_done_callback(answering.discard)

        async with broker() as url:
            connection = await _connected(url)
            await connection.subscribe("bench.echo", queue="echo", cb=received)
            await connection.flush()
            await serve_until_ended(url)
            await connection.close()

    async def connect(self, address: str) -> Caller:
        """See `Side.connect`."""
        return _NatsCaller(await _connected(address))


class _NatsCaller:
    def __init__(self, connection: Any) -> None:
        self._pb = _messages()
        self._ids = count()
        self._connection = connection

    async def call(self) -> None:
        request = self._pb.EchoRequest(id=f"{next(self._ids):016d}", text=TEXT)
        answer = await self._connection.request(
            "bench.echo", request.SerializeToString(), timeout=_TIMEOUT_S
        )
        _checked(self._pb.EchoResponse.FromString(answer.data), request)

    def stream(self) -> AsyncIterator[object]:
        raise NotImplementedError

    def watch(self) -> AsyncIterator[object]:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self._connection.close()


async def _connected(url: str) -> Any:
    # A connection that is lost ends the measure, so it is not to be looked for.
    nats = untyped("nats")
    return await nats.connect(url, skip_subject_validation=True, allow_reconnect=False)


class ZeroMq:
    """ZeroMQ ROUTER and DEALER over TCP, with msgpack bodies."""

    name = "pyzmq"
    needs = ("zmq", "msgpack")
    streams = False
    apart = True

    def serve(self) -> None:
        """See `Side.serve`."""
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        msgpack, zmq = untyped("msgpack"), untyped("zmq")
        pack, unpack = msgpack.Packer().pack, msgpack.unpackb
        context: Any = untyped("zmq.asyncio").Context()
        socket: Any = context.socket(zmq.ROUTER)
        port = socket.bind_to_random_port("tcp://127.0.0.1")

        async def echo(request: dict[str, Any]) -> dict[str, Any]:
            return {"id": request["id"], "text": request["text"]}

        async def answer(peer: bytes, number: bytes, body: bytes) -> None:
            response = await echo(unpack(body))
            await socket.send_multipart((peer, number, pack(response)))

        answering: set[asyncio.Task[None]] = set()

        def received(frames: list[bytes]) -> None:
            task = asyncio.create_task(answer(*frames))
            answering.add(task)
            task.add_done_callback(answering.discard)

        async def receive() -> None:
            while True:
                received(await socket.recv_multipart())
                for frames in _waiting(socket):
                    received(frames)

        receiving = asyncio.create_task(receive())
        await serve_until_ended(f"tcp://127.0.0.1:{port}")
        receiving.cancel()
        await asyncio.wait([receiving])
        context.destroy(linger=0)

    async def connect(self, address: str) -> Caller:
        """See `Side.connect`."""
        return _ZeroMqCaller(address)


class _ZeroMqCaller:
    def __init__(self, address: str) -> None:
        msgpack, zmq = untyped("msgpack"), untyped("zmq")
        self._pack, self._unpack = msgpack.Packer().pack, msgpack.unpackb
        self._ids = count()
        self._answers: dict[bytes, asyncio.Future[bytes]] = {}
        self._context: Any = untyped("zmq.asyncio").Context()
        self._socket: Any = self._context.socket(zmq.DEALER)
        self._socket.connect(address)
        self._receiving = asyncio.create_task(self._receive())

    async def _receive(self) -> None:
        while True:
            self._received(*await self._socket.recv_multipart())
            for frames in _waiting(self._socket):
                self._received(*frames)

    def _received(self, number: bytes, body: bytes) -> None:
        answer = self._answers.get(number)
        if answer is not None and not answer.done():
            answer.set_result(body)

    async def call(self) -> None:
        index = next(self._ids)
        number = index.to_bytes(8)
        request = {"id": f"{index:016d}", "text": TEXT}
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            await self._socket.send_multipart((number, self._pack(request)))
            response = self._unpack(await answer)
        finally:
            del self._answers[number]
        if response != request:
            raise ValueError(f"asked {request['id']}, answered {response}")

    def stream(self) -> AsyncIterator[object]:
        raise NotImplementedError

    def watch(self) -> AsyncIterator[object]:
        raise NotImplementedError

    async def aclose(self) -> None:
        self._receiving.cancel()
        await asyncio.wait([self._receiving])
        self._context.destroy(linger=0)


def _waiting(socket: Any) -> list[list[bytes]]:
    """All messages that have come in already, read until ZeroMQ has no more."""
    zmq = untyped("zmq")
    raw = zmq.Socket.shadow(socket)
    messages: list[list[bytes]] = []
    try:
        while True:
            messages.append(raw.recv_multipart(zmq.NOBLOCK))
    except zmq.Again:
        return messages


PEERS: tuple[Side, ...] = (GrpcAio(), Nats(), ZeroMq())
