"""Our rows of `bench/request_plane.py`: one component and one generated client, by each carrier."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

import uvloop
from request_plane_broker import broker
from request_plane_side import TEXT, TOKENS, WORD, Caller, Side, serve_until_ended, untyped

from protoplane_base import Context

if TYPE_CHECKING:
    from protoplane_server import Server
    from protoplane_server.options import OptionFields


@dataclass(frozen=True, slots=True)
class Carrier:
    """A way to the component whose server is a process of its own.

    Attributes:
        name: What the row is called.
        options: How the server is to listen; see `protoplane_server.Options`.
        target: What a caller gives to `protoplane_client.connect`, told by the running server.
        needs: Modules that the carrier needs beyond the server's and the client's own.
        streams: Whether it has streams.
    """

    name: str
    options: OptionFields
    target: Callable[[Server], str | None]
    needs: tuple[str, ...] = ()
    streams: bool = True

    @property
    def apart(self) -> bool:
        """See `Side.apart`."""
        return True

    def serve(self) -> None:
        """See `Side.serve`."""
        from protoplane_server import serve

        serve(
            echo_component(),
            on_ready=lambda server: print(self.target(server), flush=True),
            **self.options,
        )

    async def connect(self, address: str) -> Caller:
        """See `Side.connect`."""
        from protoplane_client import connect

        return PlaneCaller(connect(address))


def echo_component() -> Any:
    """The component of the benchmark, as a user writes it."""
    api = untyped("bench.echo.v1")

    class Echo(api.EchoService):  # type: ignore[misc, name-defined]
        async def echo(self, request: Any, ctx: Context) -> Any:
            return api.EchoResponse(id=request.id, text=request.text)

        async def tokens(self, request: Any, ctx: Context) -> AsyncIterator[Any]:
            for index in range(request.count):
                yield api.TokensResponse(text=request.text, index=index)

        async def watch(self, request: Any, ctx: Context) -> AsyncIterator[Any]:
            yield api.WatchResponse(text=request.text)
            await asyncio.Event().wait()

    return Echo()


class PlaneCaller:
    """The generated client on a plane, with Pydantic models both ways.

    Args:
        plane: What `protoplane_client.connect` gave.
    """

    def __init__(self, plane: Any) -> None:
        self._api = untyped("bench.echo.v1")
        self._plane = plane
        self._client = self._api.EchoClient(plane)
        self._ids = count()

    async def call(self) -> None:
        """See `Caller.call`."""
        request = self._api.EchoRequest(id=f"{next(self._ids):016d}", text=TEXT)
        answer = await self._client.echo(request)
        if answer.id != request.id or answer.text != request.text:
            raise ValueError(f"asked {request.id}, answered {answer.id}")

    async def stream(self) -> AsyncIterator[object]:
        """See `Caller.stream`."""
        expected = 0
        async for token in self._client.tokens(self._api.TokensRequest(text=WORD, count=TOKENS)):
            if token.index != expected:
                raise ValueError(f"token {token.index} came for {expected}")
            expected += 1
            yield token

    async def watch(self) -> AsyncIterator[object]:
        """See `Caller.watch`."""
        async for token in self._client.watch(self._api.WatchRequest(text=WORD)):
            yield token

    async def aclose(self) -> None:
        """See `Caller.aclose`."""
        await self._plane.aclose()


class InProcess:
    """Both ends in one process, on one event loop."""

    name = "in-process"
    needs = ()
    streams = True
    apart = False

    def serve(self) -> None:
        """Nothing: `connect` starts the server too."""

    async def connect(self, address: str) -> Caller:
        """See `Side.connect`."""
        from protoplane_client import connect
        from protoplane_server import Server
        from protoplane_server.options import Options

        server = Server(echo_component(), Options(grpc=None, http=None, inproc="echo"))
        await server.start()
        return InProcessCaller(connect("inproc:echo"), server)


class InProcessCaller(PlaneCaller):
    """A caller that ends its server too.

    Args:
        plane: What `protoplane_client.connect` gave.
        server: The server in this process.
    """

    def __init__(self, plane: Any, server: Server) -> None:
        super().__init__(plane)
        self._server = server

    async def aclose(self) -> None:
        """See `Caller.aclose`."""
        await super().aclose()
        await self._server.stop()


class Nats:
    """Links through a NATS server of their own."""

    name = "nats"
    needs = ("nats",)
    streams = True
    apart = True

    def serve(self) -> None:
        """See `Side.serve`."""
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        from protoplane_server import Options, Server

        async with broker() as url:
            options = Options(grpc=None, http=None, link=(f"link+{url}/bench.echo",))
            async with Server(echo_component(), options) as server:
                gc.collect()
                gc.freeze()
                await serve_until_ended(server.link_addresses[0])

    async def connect(self, address: str) -> Caller:
        """See `Side.connect`."""
        from protoplane_client import connect

        return PlaneCaller(connect(address))


PROMISED = ("in-process", "unix", "tcp", "grpc", "http", "zmq", "nats", "zenoh")
"""The carriers of the link; those that cannot be had are told to be absent."""


def _linked(server: Server) -> str:
    return server.link_addresses[0]


_LINKS: OptionFields = {"grpc": None, "http": None}

CARRIERS: tuple[Side, ...] = (
    Carrier(
        "gRPC door",
        {"grpc": "127.0.0.1:0", "http": None},
        lambda server: server.grpc_address,
    ),
    InProcess(),
    Carrier(
        "unix",
        {**_LINKS, "link": (f"link+unix:{gettempdir()}/protoplane-bench-{os.getpid()}.sock",)},
        _linked,
    ),
    Carrier("tcp", {**_LINKS, "link": ("link+tcp://127.0.0.1:0",)}, _linked),
    Carrier(
        "grpc",
        {"grpc": "127.0.0.1:0", "http": None},
        lambda server: f"link+grpc://{server.grpc_address}",
    ),
    Carrier(
        "http",
        {"grpc": None, "http": "127.0.0.1:0"},
        lambda server: f"link+{server.http_url}",
    ),
    Carrier("zmq", {**_LINKS, "link": ("link+zmq://127.0.0.1:0",)}, _linked, needs=("zmq",)),
    Nats(),
    Carrier(
        "zenoh",
        {**_LINKS, "link": ("link+zenoh:bench/echo?listen=tcp/127.0.0.1:0",)},
        _linked,
        needs=("zenoh",),
    ),
)
