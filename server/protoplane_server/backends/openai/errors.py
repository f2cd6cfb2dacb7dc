"""Errors of the API and of the way to it, as `PlaneError`."""

from __future__ import annotations

import re

import httpx2
import openai
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

from protoplane_base import Code, PlaneError

_CODES = {
    400: Code.INVALID_ARGUMENT,
    # It is the key of this instance that is not taken, not that of its caller.
    401: Code.FAILED_PRECONDITION,
    403: Code.FAILED_PRECONDITION,
    404: Code.NOT_FOUND,
    408: Code.DEADLINE_EXCEEDED,
    409: Code.ABORTED,
    413: Code.INVALID_ARGUMENT,
    422: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}
_MAX_RETRY_S = 3600.0
_MAX_CHARS = 500

FAILURES = (openai.OpenAIError, httpx2.HTTPError, ValueError)
"""What a call of the client raises: its own errors, and what breaks a stream off."""


def plane_error(error: Exception, server: str) -> PlaneError:
    """The error that a caller gets for one of `FAILURES`.

    Args:
        error: It.
        server: Where the server is.
    """
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        return PlaneError(Code.DEADLINE_EXCEEDED, f"{server} did not answer in time")
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, server)
    if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
        cause = error.__cause__ or error
        return PlaneError(Code.UNAVAILABLE, f"{server} cannot be reached: {_words(cause)}")
    if isinstance(error, openai.APIError):
        # Within a stream there is no status any more; some servers put its number here.
        number = str(error.code or "")
        code = _CODES.get(int(number) if number.isdecimal() else 0, Code.INTERNAL)
        return PlaneError(code, f"{server} broke off: {_words(error)}")
    return PlaneError(Code.INTERNAL, f"{server} gave an answer that is none: {_words(error)}")


def _of_status(error: openai.APIStatusError, server: str) -> PlaneError:
    code = _CODES.get(error.status_code, Code.INTERNAL)
    told = _message(error) or f"status {error.status_code}"
    if code is Code.FAILED_PRECONDITION:
        told = f"it does not take this instance's key: {told}"
    details: list[RetryInfo] = []
    wait_s = _retry_after_s(error)
    if wait_s is not None and code in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE):
        delay = Duration()
        delay.FromMilliseconds(max(1, round(wait_s * 1000)))
        details.append(RetryInfo(retry_delay=delay))
        told += f"; try again in {wait_s:g} s"
    return PlaneError(code, f"{server}: {told}", details)


def _message(error: openai.APIStatusError) -> str:
    # The client gives the object in "error" where there is one; llama.cpp and others differ.
    body: object = error.body
    if isinstance(body, dict):
        found: object = body.get("message") or body.get("error") or body.get("detail")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if found:
            return str(found)[:_MAX_CHARS]  # pyright: ignore[reportUnknownArgumentType]
    return _words(error)


def _retry_after_s(error: openai.APIStatusError) -> float | None:
    """Seconds of ``Retry-After`` (RFC 9110, section 10.2.3); ``None`` without, or for a date."""
    text = error.response.headers.get("retry-after", "")
    if not re.fullmatch(r"\d{1,9}(\.\d{1,3})?", text):
        return None
    return min(float(text), _MAX_RETRY_S)


def _words(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:_MAX_CHARS]
