"""Server-sent events on the wire: pure functions from events to bytes.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

from protoplane_server.http.asgi import Headers

KEEP_ALIVE = b":\n"
"""A comment. No empty line follows it: some clients take that for an event."""

HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def sse_event(data: str, *, event: str = "", id_: str = "", key: str = "") -> bytes:
    """One event as bytes; see `sse_text`."""
    return sse_text(data, event=event, id_=id_, key=key).encode()


def sse_text(data: str, *, event: str = "", id_: str = "", key: str = "") -> str:
    """One event.

    Args:
        data: Its data; each line of it becomes a ``data:`` line.
        event: Its type; a client that is given none calls it ``message``.
        id_: What a client that reconnects sends as ``Last-Event-ID``.
        key: Key that it is filed under. This is a field of our own; the specification has clients
            ignore fields that they do not know.
    """
    head = (
        (f"id: {id_}\n" if id_ else "")
        + (f"event: {event}\n" if event else "")
        + (f"key: {key}\n" if key else "")
    )
    if "\n" in data or "\r" in data:
        lines = data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return head + "".join(f"data: {line}\n" for line in lines) + "\n"
    return f"{head}data: {data}\n\n"


def sse_retry(retry_ms: int, *, id_: str = "") -> bytes:
    """How long a client is to wait before it reconnects, and from which event on.

    It has no data, so a client takes note of both and dispatches no event.
    """
    return (f"retry: {retry_ms}\n" + (f"id: {id_}\n" if id_ else "") + "\n").encode()


def wants_events(accept: bytes | None) -> bool:
    """Whether an ``Accept`` header asks for server-sent events."""
    return accept is not None and b"text/event-stream" in accept
