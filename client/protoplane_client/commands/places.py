"""Places in a log, as commands take them."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from protoplane_runtime.engines.interface import EventId, Since, Start

_AGE = re.compile(r"([0-9]+)([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

if TYPE_CHECKING:
    _PlaceType = click.ParamType[EventId | Start | Since]
else:
    _PlaceType = click.ParamType  # It takes arguments only in newer releases.


class Place(_PlaceType):
    """A place in the log: ``earliest``, ``now``, an id, or a time."""

    name = "place"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> EventId | Start | Since:
        """Read one."""
        if isinstance(value, EventId | Start | Since):
            return value
        text = str(value)
        for start in Start:
            if text == start.value:
                return start
        age = _AGE.fullmatch(text)
        if age is not None:
            return Since(time.time_ns() - int(age[1]) * _SECONDS[age[2]] * 10**9)
        try:
            return EventId.parse(text)
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.astimezone()
            return Since(int(moment.timestamp() * 1e6) * 1000)
        except (ValueError, OverflowError):
            self.fail(
                f"{text!r} is no place in a log; write an id such as 1-42, a time such as "
                "2026-11-20T17:30, an age such as 2h, or earliest",
                param,
                ctx,
            )
