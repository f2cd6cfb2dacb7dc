"""Long lists in pages, and long answers in parts."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from protoplane_base import Code, PlaneError

DEFAULT_PAGE = 100
"""Most items of a page, where the caller does not say."""

MAX_PAGE = 1000
"""Most items that a caller may ask for."""

_T = TypeVar("_T")


def page_size(asked: int) -> int:
    """How many items a page has at most.

    Args:
        asked: What the caller said; 0 for the default, and more than `MAX_PAGE` means that.

    Raises:
        PlaneError: INVALID_ARGUMENT; it is negative.
    """
    if asked < 0:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"page_size is {asked}; it is from 1 to {MAX_PAGE}, or 0"
        )
    return min(asked or DEFAULT_PAGE, MAX_PAGE)


def page_token(last: str) -> str:
    """What asks for the items behind the one of this name."""
    return urlsafe_b64encode(last.encode()).decode().rstrip("=")


def behind(token: str) -> str:
    """Name of the item behind which a page begins; empty for the first page.

    Raises:
        PlaneError: INVALID_ARGUMENT; it is no page token.
    """
    try:
        return urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except ValueError:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{token[:80]!r} is no page token; give the next_page_token of the answer before",
        ) from None


def parts(
    items: Iterable[_T], size: Callable[[_T], int], max_bytes: int, max_items: int
) -> Iterator[list[_T]]:
    """Items in lists of bounded size; an item that is larger than the bound is alone in its list.

    Args:
        items: The items.
        size: Bytes of one, roughly.
        max_bytes: Most bytes of a list.
        max_items: Most items of one.
    """
    part: list[_T] = []
    held = 0
    for item in items:
        more = size(item)
        if part and (held + more > max_bytes or len(part) == max_items):
            yield part
            part, held = [], 0
        part.append(item)
        held += more
    if part:
        yield part
