"""Which jobs a list asks for, and its pages."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_left
from collections.abc import Callable, Sequence

from protoplane.jobs.v1 import Job, ListJobsRequest
from protoplane_base import Code, PlaneError
from protoplane_components.jobs.records import nanos, request_of

Place = tuple[int, str]
"""Where a job is in the history: when it was accepted, in nanoseconds since 1970, and its id."""

DEFAULT_PAGE = 50
MAX_PAGE = 500


def place_of(job: Job) -> Place:
    """Where a job is in the history."""
    return nanos(job.accepted_at), job.id


def page(
    request: ListJobsRequest, places: Sequence[Place], job_of: Callable[[str], Job]
) -> tuple[list[Job], str]:
    """The jobs of a page, the newest first, and the token of the next one.

    What is accepted between two pages is on neither; nothing is on two of them.

    Args:
        request: What is asked for.
        places: All jobs, the oldest first.
        job_of: Gives the job of an id.

    Raises:
        PlaneError: INVALID_ARGUMENT for a page size or token that is none.
    """
    size = request.page_size or DEFAULT_PAGE
    if not 1 <= size <= MAX_PAGE:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"page_size is {size}; it must be 1 to {MAX_PAGE}, or 0"
        )
    at = len(places)
    if request.page_token:
        at = bisect_left(places, _parse(request.page_token))
    if request.accepted_before is not None:
        at = min(at, bisect_left(places, (nanos(request.accepted_before), "")))
    first = 0
    if request.accepted_from is not None:
        first = bisect_left(places, (nanos(request.accepted_from), ""))
    found: list[Job] = []
    for index in range(at - 1, first - 1, -1):
        job = job_of(places[index][1])
        if not matches(request, job):
            continue
        if len(found) == size:
            return found, _token(place_of(found[-1]))
        found.append(job)
    return found, ""


def matches(request: ListJobsRequest, job: Job) -> bool:
    """Whether a list asks for a job, apart from its time."""
    asked = request_of(job)
    return (
        (not request.states or job.state in request.states)
        and (not request.model or asked.model == request.model)
        and (not request.text or request.text.casefold() in asked.prompt.casefold())
    )


def _token(place: Place) -> str:
    return base64.urlsafe_b64encode(f"{place[0]} {place[1]}".encode()).decode()


def _parse(token: str) -> Place:
    try:
        time, space, id_ = (
            base64.b64decode(token, altchars=b"-_", validate=True).decode().partition(" ")
        )
        if space and time.isascii() and time.isdigit():
            return int(time), id_
    except (binascii.Error, UnicodeDecodeError, ValueError):
        pass
    raise PlaneError(
        Code.INVALID_ARGUMENT, f"{token[:80]!r} is no page_token; give the one of the page before"
    )
