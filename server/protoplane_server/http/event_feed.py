"""Sends what a reader of the log is given, for as long as the client takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import cast

from protoplane_base import PlaneError
from protoplane_runtime.engines.interface import Event, Gap
from protoplane_server.http.asgi import Exchange, Headers
from protoplane_server.http.departure import Departure, disconnection
from protoplane_server.http.event_encoding import Encode, encoded
from protoplane_server.http.event_stream import EventStream
from protoplane_server.http.faults import error_json
from protoplane_server.http.sse import sse_event, sse_retry
from protoplane_server.http.state import DoorState

_LAST_WORD_S = 0.1


async def feed(
    exchange: Exchange,
    state: DoorState,
    batches: AsyncIterator[Sequence[Event | Gap]],
    encode: Encode,
    *,
    opening_id: str,
    headers: Headers | None = None,
) -> None:
    """Answer with a stream of events, until the client goes or takes no more, or the door closes.

    The log is asked for the next batch only once the socket took the one before, so a reader holds
    no more than one piece of a batch.

    Args:
        exchange: The request.
        state: The door's state.
        batches: What the log gives the reader; it is closed at the end.
        encode: Makes bytes of each event.
        opening_id: Id to open with: what a client that loses the stream before its first event
            comes back with.
        headers: Headers of the response, beside those of any event stream.

    Raises:
        PlaneError: The log refused before the response began; a later error is its last event.
    """
    stream = EventStream(
        exchange,
        state.rounds,
        state.keep_alive_s,
        stall_s=state.dispatcher.limits.stall_s,
        headers=headers,
    )
    departure = Departure(
        state,
        disconnection(exchange.receive),
        at_once=True,
        group=state.streams,
        near=None if exchange.has_body else exchange.near,
    )
    last = b""
    reader = cast("AsyncGenerator[Sequence[Event | Gap], None]", batches)
    try:
        with departure, stream:
            await stream.write(sse_retry(state.retry_ms, id_=opening_id))
            exchange.forget_request()
            async with aclosing(reader):
                async for batch in reader:
                    for piece in encoded(batch, encode):
                        await stream.write(piece)
    except PlaneError as error:
        if not exchange.started:
            raise
        if not state.closing.is_set():
            last = sse_event(error_json(error).decode(), event="error")
    if departure.gone:
        return
    # One that stalled where its connection cannot be closed reads of the end if it ever goes on.
    patience_s = _LAST_WORD_S if stream.stalled else state.dispatcher.limits.stall_s
    try:
        async with asyncio.timeout(patience_s):
            await exchange.finish(last + sse_retry(state.retry_ms))
    except TimeoutError:
        exchange.abort()
