"""Errors as HTTP shows them: a status and the error body of the Connect protocol.

Source: https://connectrpc.com/docs/protocol#error-end-stream.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format
from google.rpc.error_details_pb2 import RetryInfo

from protoplane_base import Code, PlaneError
from protoplane_server.errors import to_status
from protoplane_server.http.asgi import Exchange, Headers, Response


class HttpError(PlaneError):
    """An error whose HTTP status says more than its code does.

    Args:
        status: The HTTP status.
        code: As of any `PlaneError`.
        message: As of any `PlaneError`.
        headers: Headers to send with it.
    """

    def __init__(
        self,
        status: int,
        code: Code,
        message: str,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(code, message)
        self.status = status
        self.headers = tuple(headers)


def too_large(what: str, limit: int) -> HttpError:
    """The error of a body or message past the limit; the connection cannot be used further."""
    return HttpError(
        413,
        Code.RESOURCE_EXHAUSTED,
        f"{what} is larger than this server takes, {limit} bytes; send less or raise its limit",
        [(b"connection", b"close")],
    )


def error_document(error: PlaneError) -> dict[str, Any]:
    """The error as a Connect error body has it: code, message and details."""
    document: dict[str, Any] = {"code": error.code.connect_name, "message": error.message}
    if error.details:
        document["details"] = [_detail(packed) for packed in to_status(error).details]
    return document


def error_json(error: PlaneError) -> bytes:
    """The error as JSON on one line."""
    return json.dumps(error_document(error), ensure_ascii=False, separators=(",", ":")).encode()


def error_status(error: PlaneError) -> int:
    """The HTTP status that carries an error."""
    return error.status if isinstance(error, HttpError) else error.code.http_status


def retry_headers(error: PlaneError) -> Headers:
    """``retry-after`` in whole seconds, where a ``google.rpc.RetryInfo`` says when to try again."""
    for detail in error.details:
        if isinstance(detail, RetryInfo):
            return [(b"retry-after", b"%d" % max(1, math.ceil(delay_s(detail))))]
    return []


def delay_s(hint: RetryInfo) -> float:
    """How long a hint says to wait, in seconds."""
    return float(hint.retry_delay.seconds + hint.retry_delay.nanos / 1e9)


def error_answer(error: PlaneError, extra: Headers | None = None) -> Response:
    """The response with an error; its body is JSON whatever the request was in."""
    headers: Headers = [(b"content-type", b"application/json"), *(extra or ())]
    if error.details:
        headers.extend(retry_headers(error))
    if isinstance(error, HttpError):
        headers.extend(error.headers)
    return error_status(error), headers, error_json(error)


async def answer_error(exchange: Exchange, error: PlaneError, extra: Headers | None = None) -> None:
    """Answer with an error; see `error_answer`."""
    await exchange.answer(*error_answer(error, extra))


def _detail(packed: Any) -> dict[str, Any]:
    detail: dict[str, Any] = {
        "type": packed.type_url.rpartition("/")[2],
        "value": base64.b64encode(packed.value).rstrip(b"=").decode(),
    }
    try:
        debug = json_format.MessageToDict(packed)
    except (TypeError, ValueError):  # A type that this process does not know.
        return detail
    debug.pop("@type", None)
    detail["debug"] = debug
    return detail
