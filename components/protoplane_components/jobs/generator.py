"""What makes images: the contract that a worker asks of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from protoplane.jobs.v1 import GenerateRequest, JobStage, Model


@dataclass(frozen=True, slots=True)
class Image:
    """An image.

    Attributes:
        data: Its bytes.
        width: Pixels across.
        height: Pixels down.
        media_type: What the bytes are.
    """

    data: bytes
    width: int
    height: int
    media_type: str = "image/png"


@dataclass(frozen=True, slots=True)
class Step:
    """How far an image has come.

    Attributes:
        stage: What is being done.
        step: Steps of the sampler that are done.
        percent: How much of the whole is done, from 0 to 100.
        preview: Makes a small image of what there is so far; asked for now and then only.
    """

    stage: JobStage
    step: int = 0
    percent: float = 0.0
    preview: Callable[[], Image] | None = None


class ImageGenerator(Protocol):
    """Makes images, step by step. The same request, seed included, makes the same image."""

    @property
    def models(self) -> Sequence[Model]:
        """The models that it has; `workers` of them is left at 0."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Step | Image, None]:
        """Make an image: its steps as they come, and last of all the image.

        Closing it, or cancelling who waits on it, ends the work at the present step.

        Args:
            request: What is asked for, with nothing left open.

        Raises:
            PlaneError: It cannot be made; UNAVAILABLE where another attempt may succeed.
        """
        ...
