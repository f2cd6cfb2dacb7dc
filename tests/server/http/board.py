"""A component with one rpc of each kind, and a real door in front of it on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import ValidationError

from forge.captioner.v1 import (
    CaptionChunk,
    CaptionFinished,
    CaptionRequest,
    CollectRequest,
    CollectResponse,
    ConverseRequest,
    ConverseResponse,
)
from protoplane_base import (
    Code,
    HttpRoute,
    Idempotency,
    MethodKind,
    MethodSpec,
    PlaneError,
    Service,
    ServiceSpec,
)
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_server.access import TokenAccess
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.http import HttpDoor
from protoplane_server.http.at_once import JsonAnswer
from protoplane_server.http.door import bound_socket
from protoplane_server.limits import Limits

NAME = "board.v1.Board"


def _method(
    name: str,
    kind: MethodKind,
    request: Any,
    response: Any,
    *routes: HttpRoute,
    idempotency: Idempotency = Idempotency.UNKNOWN,
) -> MethodSpec[Any, Any]:
    return MethodSpec(
        service=NAME,
        name=name,
        python_name=name.lower(),
        kind=kind,
        request=request,
        response=response,
        routes=routes,
        idempotency=idempotency,
    )


METHODS = (
    _method(
        "Say",
        MethodKind.UNARY,
        CaptionRequest,
        CollectResponse,
        HttpRoute("POST", "/v1/say", body="*"),
        HttpRoute("GET", "/v1/{prompt=prompts/*}:say"),
        HttpRoute("GET", "/v1/deep/{prompt=**}", response_body="text"),
        HttpRoute("PUT", "/v1/plain/{prompt}", body="max_words"),
        idempotency=Idempotency.NO_SIDE_EFFECTS,
    ),
    _method("Finish", MethodKind.UNARY, CaptionFinished, CaptionFinished,
            HttpRoute("GET", "/v1/finish/{request_id}")),
    _method("Write", MethodKind.UNARY, CaptionRequest, CollectResponse),
    _method(
        "Tell",
        MethodKind.SERVER_STREAM,
        CaptionRequest,
        CaptionChunk,
        HttpRoute("GET", "/v1/tell/{prompt}"),
    ),
    _method("Join", MethodKind.CLIENT_STREAM, CollectRequest, CollectResponse),
    _method("Chat", MethodKind.BIDI_STREAM, ConverseRequest, ConverseResponse),
)  # fmt: skip


@dataclass
class Board(Service):
    """Prompts say what to do: ``wait`` waits, ``fail`` fails, ``crash`` crashes."""

    spec: ClassVar[ServiceSpec] = ServiceSpec(
        full_name=NAME,
        component="test/board",
        file="board.proto",
        methods={method.name: method for method in METHODS},
        events=(CaptionFinished,),
    )
    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])

    async def say(self, request: CaptionRequest, ctx: Any) -> CollectResponse:
        await self._wait(request.prompt)
        return self._said(request, ctx)

    def _said(self, request: CaptionRequest, ctx: Any) -> CollectResponse:
        self.metadata = dict(ctx.metadata)
        self._fail(request.prompt)
        if request.prompt == "trailer":
            ctx.set_trailer("mood", "fine")
            ctx.set_trailer("raw-bin", b"\x00\xff")
        text = "x" * request.max_words if request.prompt == "big" and request.max_words else ""
        return CollectResponse(
            text=text or request.prompt, chunks=request.max_words or int(request.style)
        )

    async def write(self, request: CaptionRequest, ctx: Any) -> CollectResponse:
        return await self.say(request, ctx)

    async def finish(self, request: CaptionFinished, ctx: Any) -> CaptionFinished:
        return request

    async def tell(self, request: CaptionRequest, ctx: Any) -> AsyncIterator[CaptionChunk]:
        if request.prompt == "early":
            raise PlaneError(Code.NOT_FOUND, "nothing to tell")
        for index, word in enumerate(request.prompt.split()):
            await self._obey(word)
            yield CaptionChunk(text=word, index=index)

    async def join(self, requests: AsyncIterator[CollectRequest], ctx: Any) -> CollectResponse:
        texts: list[str] = []
        async for request in requests:
            await self._obey(request.text)
            texts.append(request.text)
        return CollectResponse(text="".join(texts), chunks=len(texts))

    async def chat(
        self, requests: AsyncIterator[ConverseRequest], ctx: Any
    ) -> AsyncIterator[ConverseResponse]:
        async for request in requests:
            await self._obey(request.line)
            yield ConverseResponse(line=request.line.upper())

    async def _obey(self, word: str) -> None:
        self._fail(word)
        await self._wait(word)

    def _fail(self, word: str) -> None:
        if word == "fail":
            raise PlaneError(
                Code.FAILED_PRECONDITION, "told to fail: ünlucky", [CaptionChunk(text="why")]
            )
        if word == "crash":
            raise RuntimeError("told to crash")

    async def _wait(self, word: str) -> None:
        if word == "wait":
            self.started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise


class QuickBoard(Board):
    """Says all but ``wait`` at once.

    Attributes:
        at_once: How often it did, or was told to fail.
    """

    at_once: int = 0

    def json_answers(self) -> Mapping[str, JsonAnswer]:
        return {"Say": self._say_at_once}

    def _say_at_once(self, data: bytes, ctx: Any) -> bytes | None:
        try:
            request = CaptionRequest.model_validate_json(data)
        except ValidationError:
            return None
        if request.prompt == "wait":
            return None
        self.at_once += 1
        return self._said(request, ctx).model_dump_json().encode()


@dataclass
class Running:
    """A door that serves."""

    door: HttpDoor
    board: Board
    log: MemoryLog
    dispatcher: Dispatcher
    port: int
    task: asyncio.Task[None]
    ready: list[bool]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connect(
        self, *, window_bytes: int = 1 << 16
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that takes little more than ``window_bytes`` until it is read."""
        return await asyncio.open_connection("127.0.0.1", self.port, limit=window_bytes)

    async def until_open(self, calls: int) -> None:
        """Wait until so many calls are being served."""
        async with asyncio.timeout(5):
            while self.dispatcher.open_calls < calls:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def raw(self, request: bytes, *, limit_s: float = 5.0) -> bytes:
        """Send bytes and read until the server closes."""
        reader, writer = await self.connect()
        try:
            writer.write(request)
            async with asyncio.timeout(limit_s):
                return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def running(
    *,
    max_message_bytes: int = 1 << 20,
    max_calls: int | None = None,
    stall_s: float = 30.0,
    tokens: Mapping[str, str] | None = None,
    log: Any = None,
    board: Board | None = None,
    **options: Any,
) -> AsyncGenerator[Running, None]:
    """Serve until the block ends, then stop; a log that is given is closed too."""
    log = MemoryLog() if log is None else log
    board = Board() if board is None else board
    dispatcher = Dispatcher(
        [board],
        events=log,
        limits=Limits(
            max_message_bytes=max_message_bytes, max_concurrent_calls=max_calls, stall_s=stall_s
        ),
        access=TokenAccess(tokens) if tokens else None,
    )
    ready = [True]
    options.setdefault("grace_s", 0.2)
    door = HttpDoor(dispatcher, health=lambda: ready[0], **options)
    sock: socket.socket = bound_socket("127.0.0.1", 0)
    sock.listen()
    port: int = sock.getsockname()[1]
    task = asyncio.create_task(door.run([sock]))
    try:
        yield Running(door, board, log, dispatcher, port, task, ready)
    finally:
        door.stop()
        async with asyncio.timeout(5):
            await task
        await log.close()
