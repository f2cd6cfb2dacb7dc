"""An event plane that loses events, or is away."""

from __future__ import annotations

import random

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import EventId
from protoplane_runtime.engines.memory import MemoryLog


class LossyLog(MemoryLog):
    """Loses a share of the events, and may be away."""

    share = 0.0
    away = False
    published = 0

    async def publish(self, key: str, type_: str, data: bytes, json: str, **how: object) -> EventId:
        self.published += 1
        if self.away:
            raise PlaneError(Code.UNAVAILABLE, "the engine is away")
        if random.random() < self.share:
            return self.last
        return await super().publish(key, type_, data, json)
