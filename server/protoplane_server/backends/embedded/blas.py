"""Keeps matrix products to one thread.

Those of a step are so small that sharing them out costs more than it gains, many times more where
other programs want the processors too.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]


def one_thread() -> AbstractContextManager[object]:
    """What runs inside multiplies with one thread; it takes some 10 microseconds."""
    limited: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")  # pyright: ignore[reportUnknownMemberType]
    return limited


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
