"""Who is there, as server-sent events: what the console shows of discovery."""

from __future__ import annotations

from contextlib import aclosing

from protoplane_base import PlaneError
from protoplane_runtime.engines.discovery import Discovery
from protoplane_server.http.asgi import Exchange
from protoplane_server.http.departure import Departure, disconnection
from protoplane_server.http.event_stream import EventStream
from protoplane_server.http.faults import answer_error, error_json
from protoplane_server.http.sse import sse_event, sse_retry
from protoplane_server.http.state import DoorState
from protoplane_server.planes.discovery import follow

_MAX_BYTES = 1_000_000


async def serve_instances(
    exchange: Exchange, state: DoorState, discovery: Discovery, namespace: str
) -> None:
    """Tell who comes, changes and goes, until the client goes or the door closes.

    Each event is a `protoplane.v1.DiscoveryWatchResponse`, as `Discovery.Watch` answers with.
    """
    stream = EventStream(
        exchange, state.rounds, state.keep_alive_s, stall_s=state.dispatcher.limits.stall_s
    )
    departure = Departure(state, disconnection(exchange.receive), at_once=True, group=state.streams)
    try:
        with departure, stream:
            async with aclosing(follow(discovery, None, namespace, _MAX_BYTES)) as answers:
                async for answer in answers:
                    await stream.write(sse_event(answer.model_dump_json()))
    except PlaneError as error:
        if not exchange.started:
            await answer_error(exchange, error)
            return
        last = sse_event(error_json(error).decode(), event="error")
        await exchange.finish(last + sse_retry(state.retry_ms))
        return
    if departure.gone or stream.stalled:
        return
    await stream.write(b"")
    await exchange.finish(sse_retry(state.retry_ms))
