"""A server-streaming rpc as server-sent events.

One event a message, without a type, so that ``onmessage`` gets it; then ``event: end``, or
``event: error`` with the error's code, message and details.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any
from urllib.parse import parse_qs, parse_qsl

from protoplane_base import MethodSpec, PlaneError
from protoplane_server.http.asgi import Exchange
from protoplane_server.http.body import read_body
from protoplane_server.http.connect import query_message
from protoplane_server.http.departure import Departure, disconnection
from protoplane_server.http.event_stream import EventStream
from protoplane_server.http.faults import answer_error, error_json
from protoplane_server.http.messages import JSON, PROTO, decode, encode
from protoplane_server.http.metadata import connect_timeout_s, header_text, metadata_headers
from protoplane_server.http.parameters import descriptor_of, fill
from protoplane_server.http.sse import sse_event, sse_retry
from protoplane_server.http.state import DoorState


async def call_as_events(
    exchange: Exchange,
    state: DoorState,
    method: MethodSpec[Any, Any],
    content_type: bytes,
) -> None:
    """Serve a GET, its message or its fields in the query, or a POST."""
    data = await read_body(exchange, state)
    if exchange.scope["method"] == "GET":
        text = exchange.scope["query_string"].decode("latin-1")
        query = parse_qs(text, keep_blank_values=True)
        content_type = JSON
        if "message" in query and (
            "encoding" in query or (len(query) == 1 and query["message"][0].startswith("{"))
        ):
            data = query_message(query, state.max_bytes)
            if query.get("encoding", ["json"])[-1] != "json":
                content_type = PROTO
        else:
            document: dict[str, Any] = {}
            fill(
                document,
                descriptor_of(method.request),
                parse_qsl(text, keep_blank_values=True),
            )
            data = json.dumps(document).encode()
    await serve_events(exchange, state, method, decode(method, data, json=content_type == JSON))


async def serve_events(
    exchange: Exchange, state: DoorState, method: MethodSpec[Any, Any], request: Any
) -> None:
    """Answer a valid request with events.

    The head of the response leaves with the first message, or when there has been none for a
    while. A call that fails before that is answered with the status of its error.
    """
    context = state.dispatcher.begin(
        method, state.call_info(exchange, connect_timeout_s(exchange.headers))
    )
    stream = EventStream(
        exchange,
        state.rounds,
        state.keep_alive_s,
        stall_s=state.dispatcher.limits.stall_s,
        headers=[(b"x-request-id", context.request_id.encode())],
    )
    departure = Departure(state, disconnection(exchange.receive), at_once=True)
    try:
        with departure, stream:
            async with aclosing(state.dispatcher.stream(context, request)) as responses:
                async for response in responses:
                    data = encode(method, response, state.max_bytes, json=True)
                    await stream.write(sse_event(data.decode()))
    except PlaneError as error:
        if not exchange.started:
            await answer_error(exchange, error, metadata_headers(context.trailers))
            return
        last = sse_event(error_json(error).decode(), event="error")
        if state.closing.is_set():
            last += sse_retry(state.retry_ms)
        await exchange.finish(last)
        return
    if departure.gone or stream.stalled:
        return
    trailers = {name: header_text(value) for name, value in context.trailers.items()}
    end = {"metadata": trailers} if trailers else {}
    await stream.write(b"")
    await exchange.finish(sse_event(json.dumps(end, separators=(",", ":")), event="end"))
