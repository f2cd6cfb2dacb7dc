"""Numbers that options take: such as the schemas can carry, so that others are wrong usage."""

from __future__ import annotations

import math
from typing import Any

import click

from protoplane_base import Duration

INT32 = click.IntRange(-(2**31), 2**31 - 1)
"""An int32."""

UINT64 = click.IntRange(0, 2**64 - 1)
"""A uint64."""

COUNT = click.IntRange(1, 2**63 - 1)
"""An int64 of at least one."""

_MAX_SECONDS = 315_576_000_000.0
"""The longest duration that protobuf has: some 10,000 years."""


class Seconds(click.ParamType[Duration]):
    """Seconds as a duration; neither endless nor no number.

    Args:
        zero: Whether 0 is one.
    """

    name = "seconds"

    def __init__(self, *, zero: bool = False) -> None:
        self._range = click.FloatRange(min=0, min_open=not zero, max=_MAX_SECONDS)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Duration:
        """What the text says, else `click.BadParameter`."""
        if isinstance(value, Duration):
            return value
        seconds = self._range.convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return Duration.from_seconds(seconds)
