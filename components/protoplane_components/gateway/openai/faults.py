"""Errors as OpenAI's API shows them.

Source: https://platform.openai.com/docs/guides/error-codes.
"""

from __future__ import annotations

import math

from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from pydantic import ValidationError
from pydantic_core import to_json

from protoplane_base import Code, PlaneError
from protoplane_components.gateway.admission import DOMAIN, EXCEEDED
from protoplane_server.errors import field_path
from protoplane_server.http.asgi import Headers
from protoplane_server.http.faults import HttpError, delay_s, error_status, retry_headers

_INVALID = frozenset({Code.INVALID_ARGUMENT, Code.OUT_OF_RANGE, Code.FAILED_PRECONDITION})


class ParameterError(PlaneError):
    """A request that names a parameter which is wrong, or not supported.

    Args:
        param: The parameter.
        message: What is wrong, and what would do.
        reason: A word for it that programs know, ``unsupported_parameter`` for example.
    """

    def __init__(self, param: str, message: str, reason: str = "invalid_value") -> None:
        super().__init__(Code.INVALID_ARGUMENT, message)
        self.param = param
        self.reason = reason


def unsupported(param: str, remedy: str) -> ParameterError:
    """The error of a parameter that is known and cannot be followed."""
    return ParameterError(
        param, f"{param} is not supported here; {remedy}", "unsupported_parameter"
    )


def from_validation(error: ValidationError) -> PlaneError:
    """The error of a body that does not fit; it names the first parameter at fault."""
    fault = error.errors(include_url=False, include_input=False)[0]
    if fault["type"] == "json_invalid":
        why = fault["msg"].removeprefix("Invalid JSON: ")
        return PlaneError(Code.INVALID_ARGUMENT, f"the body is no JSON: {why}")
    path = [part for part in fault["loc"] if isinstance(part, int) or part.isidentifier()]
    param = field_path(path)
    if not param:
        return PlaneError(Code.INVALID_ARGUMENT, f"the body does not do: {fault['msg']}")
    missing = fault["type"] == "missing"
    what = f"{param} is missing" if missing else f"{param}: {fault['msg']}"
    return ParameterError(param, what, "missing_required_parameter" if missing else "invalid_value")


def error_body(error: PlaneError) -> bytes:
    """``{"error": {…}}``."""
    kind, code, param = _kind(error)
    document = {"message": error.message, "type": kind, "param": param, "code": code}
    return to_json({"error": document})


def error_answer(error: PlaneError) -> tuple[int, Headers]:
    """Status and headers of an answer that is an error."""
    headers = retry_headers(error)
    for detail in error.details:
        if isinstance(detail, RetryInfo):
            # The official clients prefer this one to the whole seconds.
            headers.append((b"retry-after-ms", b"%d" % max(1, math.ceil(delay_s(detail) * 1000))))
            break
    if isinstance(error, HttpError):
        headers.extend(error.headers)
    elif error.code is Code.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b"Bearer"))
    elif error.code is Code.UNAVAILABLE and not headers:
        headers.append((b"retry-after", b"1"))
    status = error_status(error)
    # What a model cannot do is the request's fault; the official clients try a 501 again.
    return 400 if status == 501 else status, headers


def _kind(error: PlaneError) -> tuple[str, str | None, str | None]:
    """Its type, its code and the parameter at fault."""
    if isinstance(error, ParameterError):
        return "invalid_request_error", error.reason, error.param
    if isinstance(error, HttpError) and error.status < 500:
        code = "request_too_large" if error.status == 413 else None
        return "invalid_request_error", code, None
    match error.code:
        case Code.UNAUTHENTICATED:
            return "invalid_request_error", "invalid_api_key", None
        case Code.PERMISSION_DENIED:
            return "invalid_request_error", "permission_denied", None
        case Code.NOT_FOUND:
            return "invalid_request_error", "model_not_found", "model"
        case Code.RESOURCE_EXHAUSTED:
            return _limit(error), "rate_limit_exceeded", None
        case Code.UNIMPLEMENTED:
            return "invalid_request_error", "unsupported", "model"
        case Code.UNAVAILABLE:
            return "server_error", "unavailable", None
        case Code.DEADLINE_EXCEEDED:
            return "server_error", "timeout", None
        case _:
            kind = "invalid_request_error" if error.code in _INVALID else "server_error"
            return kind, None, None


def _limit(error: PlaneError) -> str:
    """Which limit it was: ours, or a worker's."""
    for detail in error.details:
        if isinstance(detail, ErrorInfo) and (detail.reason, detail.domain) == (EXCEEDED, DOMAIN):
            return str(detail.metadata["limit"])
    return "server_overloaded"
