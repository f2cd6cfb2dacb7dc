"""A generator that does what the prompt says, and settings that waste no time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from protoplane.jobs.v1 import GenerateRequest, JobStage, Model
from protoplane_base import Code, PlaneError
from protoplane_components.jobs import Image, JobSettings, Step

FAST = JobSettings(retry_s=0.05, max_retry_s=0.2, grace_s=1.0, progress_s=0, preview_s=0)


class Scripted:
    """Prompts: ``hang``, ``fail``, ``crash``, ``away`` (twice UNAVAILABLE), else an image.

    Attributes:
        begun: Prompts, in the order in which work on them began.
        hanging: How many hang now.
        left: How many were left while they hung.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.hanging = 0
        self.left = 0

    @property
    def models(self) -> Sequence[Model]:
        return [Model(name="m", loras=["soft"])]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Step | Image, None]:
        self.begun.append(request.prompt)
        image = Image(request.prompt.encode(), 1, 1, "text/plain")
        yield Step(JobStage.JOB_STAGE_SAMPLING, 1, 50.0, lambda: image)
        match request.prompt:
            case "hang":
                self.hanging += 1
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    self.hanging -= 1
                    self.left += 1
            case "fail":
                raise PlaneError(Code.FAILED_PRECONDITION, "the brush is dry; dip it")
            case "crash":
                raise ZeroDivisionError("secret 1234")
            case "away" if self.begun.count("away") < 3:
                raise PlaneError(Code.UNAVAILABLE, "the device is away")
            case _:
                pass
        yield image
