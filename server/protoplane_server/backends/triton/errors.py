"""What Triton says went wrong, as errors of ours.

Triton tells most failures apart by their words alone: within a stream it sends nothing else, and
its codes say UNAVAILABLE of a full queue as of a server that goes away.
"""

from __future__ import annotations

import re

import grpc.aio

from protoplane_base import Code, PlaneError

QUEUE_FULL = "Exceeds maximum queue size"
"""What Triton says where a model's queue takes no more."""

_QUEUE_TIMEOUT = "Request timeout expired"
_DEAD_PROCESS = re.compile(r"Stub process '[^']*' is not healthy")
_LOST_REGION = re.compile(r"shared memory region", re.IGNORECASE)
_AWAY = re.compile(r"failed to connect|Connection re|Socket closed|Stream removed|Broken pipe")
# An id stands before what the core says; the files and lines of a model are for its log.
_DECORATION = re.compile(r"^\[request id: [^\]]*\] |\s+At:\n.*\Z", re.DOTALL)

_BY_WORDS = (
    (re.compile(r"unknown model|is not found|is not available|failed to poll"), Code.NOT_FOUND),
    (
        re.compile(
            r"unexpected (inference )?(input|output|shape)|data-type is|inputs? but got|"
            r"batch-size must be|must specify|does not match|byte size"
        ),
        Code.INVALID_ARGUMENT,
    ),
    (re.compile(r"unloaded|not ready|Server is stopping"), Code.UNAVAILABLE),
)


def error_of_call(error: grpc.aio.AioRpcError, address: str) -> PlaneError:
    """The error of an rpc that failed.

    Args:
        error: What gRPC raised.
        address: Where Triton is.
    """
    number: int = error.code().value[0]
    said = error.details() or f"the call failed with {error.code().name}"
    code = Code(number)
    # gRPC has no better word for a connection that breaks under a message that is being written.
    torn = code is Code.INTERNAL and said == "Internal error from Core"
    if torn or (code in (Code.UNAVAILABLE, Code.UNKNOWN) and _AWAY.search(said)):
        why = said.rpartition("last error: ")[2].rpartition("remote host: ")[2]
        return PlaneError(Code.UNAVAILABLE, f"cannot reach Triton at {address}: {why}")
    return error_of_words(said, code)


def error_of_words(said: str, code: Code | None = None) -> PlaneError:
    """The error that Triton describes.

    Args:
        said: Its words.
        code: The code of the rpc; absent within a stream.
    """
    words = plain_words(said)
    if QUEUE_FULL in said:
        return PlaneError(Code.RESOURCE_EXHAUSTED, words)
    if _QUEUE_TIMEOUT in said:
        return PlaneError(
            Code.DEADLINE_EXCEEDED, f"the request waited in Triton's queue for too long: {words}"
        )
    if _DEAD_PROCESS.search(said):
        return PlaneError(
            Code.UNAVAILABLE, f"the process of the model has ended: {words}; start Triton anew"
        )
    if code is None or code is Code.UNKNOWN:
        code = next((each for pattern, each in _BY_WORDS if pattern.search(said)), Code.INTERNAL)
    return PlaneError(code, words)


def plain_words(said: str) -> str:
    """Triton's words without the id of the request, and the files and lines of a model."""
    return _DECORATION.sub("", said).strip()


def is_lost_region(error: PlaneError) -> bool:
    """Whether Triton does not know shared memory that it was told of: it has started anew."""
    return error.code in (Code.INVALID_ARGUMENT, Code.NOT_FOUND) and bool(
        _LOST_REGION.search(error.message)
    )
