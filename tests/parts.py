"""The component that door and client tests call: it does what the metadata `x-do` asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

from google.rpc.error_details_pb2 import ErrorInfo

from forge.captioner.v1 import (
    CaptionChunk,
    CaptionerService,
    CaptionFinished,
    CaptionRequest,
    CollectRequest,
    CollectResponse,
    ConverseRequest,
    ConverseResponse,
    ListStylesRequest,
    ListStylesResponse,
    Style,
)
from protoplane_base import Code, Context, PlaneError


class Parts(CaptionerService):
    """Answers honestly, unless `x-do` says: fail, crash, hang, wait, trailers, huge or wrong.

    Attributes:
        contexts: What each call was given.
        remaining_s: Time that each call had left when it began.
        hanging: Calls that hang now.
        cancelled: Calls that saw their cancellation.
        release: Lets calls that wait go on.
        changed: Set whenever one of these counts changes.
    """

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.remaining_s: list[float | None] = []
        self.hanging = 0
        self.cancelled = 0
        self.release = asyncio.Event()
        self._changed = asyncio.Event()

    async def until(self, **counts: int) -> None:
        """Wait until attributes have these values, thirty seconds at most."""

        async with asyncio.timeout(30):
            while any(getattr(self, name) != value for name, value in counts.items()):
                self._changed.clear()
                await self._changed.wait()

    async def caption(self, request: CaptionRequest, ctx: Context) -> AsyncIterator[CaptionChunk]:
        self._note(ctx)
        words = request.prompt.split()[: request.max_words]
        for index, word in enumerate(words):
            yield CaptionChunk(text=word, index=index)
        await self._do(ctx)
        if ctx.metadata.get("x-do") == "huge":
            yield CaptionChunk(text="x" * 2_000_000)
        await ctx.publish(CaptionFinished(request_id=ctx.request_id, words=len(words)))

    async def list_styles(self, request: ListStylesRequest, ctx: Context) -> ListStylesResponse:
        self._note(ctx)
        await self._do(ctx)
        if ctx.metadata.get("x-do") == "wrong":
            return cast(ListStylesResponse, CaptionChunk())
        return ListStylesResponse(styles=[Style.STYLE_PLAIN, Style.STYLE_VIVID])

    async def collect(
        self, requests: AsyncIterator[CollectRequest], ctx: Context
    ) -> CollectResponse:
        self._note(ctx)
        await self._do(ctx)
        texts = [request.text async for request in requests]
        if ctx.metadata.get("x-do") == "huge":
            texts.append("x" * 2_000_000)
        return CollectResponse(text="".join(texts), chunks=len(texts))

    async def converse(
        self, requests: AsyncIterator[ConverseRequest], ctx: Context
    ) -> AsyncIterator[ConverseResponse]:
        self._note(ctx)
        await self._do(ctx)
        async for request in requests:
            yield ConverseResponse(line=request.line.upper())

    def _note(self, ctx: Context) -> None:
        self.contexts.append(ctx)
        self.remaining_s.append(ctx.time_remaining_s())

    async def _do(self, ctx: Context) -> None:
        match ctx.metadata.get("x-do"):
            case "fail":
                info = ErrorInfo(reason="CAMERA_OFF", domain="forge", metadata={"room": "12"})
                raise PlaneError(Code.FAILED_PRECONDITION, "the camera is off; ünplugged", [info])
            case "crash":
                raise RuntimeError("the password is 1234")
            case "hang":
                await self._hang(asyncio.Event())
            case "wait":
                await self._hang(self.release)
            case "trailers":
                ctx.set_trailer("x-Text", "three words")
                ctx.set_trailer("x-raw-bin", b"\x00\xff")
            case _:
                pass

    async def _hang(self, until: asyncio.Event) -> None:
        self.hanging += 1
        self._changed.set()
        try:
            await until.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.hanging -= 1
            self._changed.set()
