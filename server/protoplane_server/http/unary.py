"""A unary call whose request has been read, whichever form it came in."""

from __future__ import annotations

import asyncio
from typing import Any

from protoplane_base import MethodSpec, PlaneError
from protoplane_server.http.asgi import Exchange, Headers
from protoplane_server.http.departure import Departure
from protoplane_server.http.faults import answer_error
from protoplane_server.http.messages import encode
from protoplane_server.http.metadata import connect_timeout_s, metadata_headers
from protoplane_server.http.state import DoorState


async def call_unary(
    exchange: Exchange,
    state: DoorState,
    method: MethodSpec[Any, Any],
    request: Any,
    *,
    json: bool,
    prefix: str = "",
) -> tuple[bytes, Headers] | None:
    """Call a method, and answer where that fails.

    A client that goes away cancels it.

    Args:
        exchange: The HTTP request.
        state: The door's state.
        method: The method.
        request: The message.
        json: Whether the answer is to be JSON.
        prefix: What the names of trailers begin with.

    Returns:
        The answer, encoded, and its trailers as headers, to be sent; ``None`` where there is
        nothing to send any more.

    Raises:
        PlaneError: INVALID_ARGUMENT for a deadline that cannot be read.
    """
    dispatcher = state.dispatcher
    context = dispatcher.begin(
        method, state.call_info(exchange, connect_timeout_s(exchange.headers))
    )
    body = b""
    failure: PlaneError | None = None
    departure = Departure.of_call(state, exchange)
    departure.begin()
    try:
        response = await dispatcher.unary(context, request)
        body = encode(method, response, state.max_bytes, json=json)
    except PlaneError as error:
        failure = error
    except asyncio.CancelledError:
        if not departure.gone:
            failure = departure.shut_down()
            if failure is None:
                raise
    finally:
        departure.end()
    if departure.gone:
        return None
    trailers = metadata_headers(context.trailers, prefix) if context.trailers else []
    if failure is None:
        return body, trailers
    await answer_error(exchange, failure, trailers)
    return None
