"""A generator that needs no model file: little figures of pixels, grown out of noise step by step.

It is a toy behind a real interface. What it shares with a diffusion model is how it is served: it
begins with noise, each step takes some of it away, the prompt and the seed decide what is left, and
one can look at it on the way.
"""

from __future__ import annotations

import asyncio
import colorsys
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from protoplane.jobs.v1 import GenerateRequest, JobStage, Model
from protoplane_components.jobs import png
from protoplane_components.jobs.generator import Image, Step

_Field = NDArray[np.float64]

_SIDE = 32
_PREVIEW = 64
_HUES = {
    "red": 0.0, "fire": 0.03, "orange": 0.08, "gold": 0.13, "yellow": 0.16, "sun": 0.15,
    "green": 0.33, "forest": 0.36, "leaf": 0.3, "teal": 0.48, "sea": 0.52, "water": 0.55,
    "blue": 0.61, "sky": 0.56, "night": 0.68, "purple": 0.76, "pink": 0.9, "rose": 0.94,
}  # fmt: skip
_LORAS = ["glow", "mono", "outline"]
_STYLES = {
    "sprite-creature": ("Creatures with eyes, upright.", 0.95, 0.8),
    "sprite-plant": ("Plants that spread at the top.", 0.7, 1.25),
    "sprite-ship": ("Ships, long and narrow.", 0.5, 1.0),
}


class SpriteGenerator:
    """Makes sprites.

    Args:
        step_s: Seconds to wait in each step. The sprite needs microseconds for one; the pause makes
            it as slow as a real model, so that one can watch.
    """

    def __init__(self, *, step_s: float = 0.05) -> None:
        self._step_s = step_s

    @property
    def models(self) -> Sequence[Model]:
        """The models that it has."""
        return [
            Model(name=name, description=description, loras=_LORAS)
            for name, (description, _, _) in sorted(_STYLES.items())
        ]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Step | Image, None]:
        """Make a sprite; see `protoplane_components.jobs.generator.ImageGenerator.generate`."""
        steps = request.steps or 1
        for stage in (
            JobStage.JOB_STAGE_INITIALISING,
            JobStage.JOB_STAGE_LOADING_MODELS,
            JobStage.JOB_STAGE_ENCODING,
        ):
            yield Step(stage)
            await asyncio.sleep(self._step_s)
        sprite = _Sprite(request)
        for step in range(1, steps + 1):
            sprite.denoise(step, steps)
            yield Step(
                JobStage.JOB_STAGE_SAMPLING,
                step,
                5 + 85 * step / steps,
                partial(_image, sprite, _PREVIEW, _PREVIEW),
            )
            await asyncio.sleep(self._step_s)
        yield Step(JobStage.JOB_STAGE_DECODING, steps, 92)
        image = await asyncio.to_thread(
            _image, sprite, request.width or _PREVIEW, request.height or _PREVIEW
        )
        yield Step(JobStage.JOB_STAGE_POST_PROCESSING, steps, 97)
        yield image


class _Sprite:
    """A field of heights, mirrored, and how it becomes colours."""

    def __init__(self, request: GenerateRequest) -> None:
        words = request.prompt.casefold().split()
        key = f"{request.model}\n{' '.join(words)}\n{request.seed or 0}"
        digest = blake2b(key.encode(), digest_size=8).digest()
        self._random = np.random.default_rng(int.from_bytes(digest))
        self._guidance = 7.5 if request.guidance_scale is None else request.guidance_scale
        self._weights = {
            lora.name: 1.0 if lora.weight is None else lora.weight for lora in request.loras
        }
        _, wide, tall = _STYLES.get(request.model, _STYLES["sprite-creature"])
        y, x = np.meshgrid(np.linspace(-1, 1, _SIDE), np.linspace(0, 1, _SIDE // 2), indexing="ij")
        lean = 0.35 * y if wide == 0.7 else 0.0
        body = 1.0 - (x / (wide - lean)) ** 2 - (y / tall) ** 2
        noise: _Field = self._random.standard_normal((_SIDE, _SIDE // 2))
        bumps = _smooth(noise, 3) * 1.6
        self._target: _Field = np.asarray(body + bumps)
        self.heights: _Field = self._random.standard_normal((_SIDE, _SIDE // 2))
        named = [_HUES[word.strip(".,!?")] for word in words if word.strip(".,!?") in _HUES]
        self._hue = named[0] if named else float(self._random.random())
        self._accent = named[1] if len(named) > 1 else (self._hue + 0.42) % 1
        self._eyes = "creature" in request.model
        self._eye_row = int(self._random.integers(9, 14))

    def denoise(self, step: int, steps: int) -> None:
        """Take some of the noise away."""
        left = 1 - step / steps
        pull = min(1.0, (0.25 + self._guidance / 20) * (1 / max(1.0, steps * left + 1)) * 2)
        self.heights = self.heights + pull * (self._target - self.heights)
        self.heights = self.heights + left * 0.25 * self._random.standard_normal(self.heights.shape)
        if step == steps:
            self.heights = 0.9 * self._target + 0.1 * _smooth(self.heights, 1)

    def pixels(self) -> png.Pixels:
        """What it looks like now: ``[32, 32, 3]``."""
        heights = np.concatenate([self.heights[:, ::-1], self.heights], axis=1)
        inside = heights > 0.25
        shade = np.clip(0.35 + 0.5 * np.floor(heights * 4) / 4, 0.25, 1.0)
        mono = self._weights.get("mono", 0.0)
        base = np.array(colorsys.hsv_to_rgb(self._hue, 0.75 * max(0.0, 1 - mono), 1.0))
        accent = np.array(colorsys.hsv_to_rgb(self._accent, 0.8 * max(0.0, 1 - mono), 1.0))
        marked = (heights > 0.9)[..., None]
        colours = np.where(marked, accent, base) * shade[..., None]
        edge = inside & ~_eroded(inside)
        colours[edge] *= max(0.0, 1 - 0.75 * (0.6 + self._weights.get("outline", 0.0)))
        ground = np.array([0.07, 0.07, 0.1])
        glow = self._weights.get("glow", 0.0)
        around = _smooth(inside.astype(np.float64), 4)[..., None] * glow * 0.8 * base
        pixels = np.where(inside[..., None], colours, np.clip(ground + around, 0, 1))
        if self._eyes:
            row, middle = self._eye_row, _SIDE // 2
            for column in (middle - 5, middle + 3):
                pixels[row : row + 2, column : column + 2] = 1.0
                pixels[row + 1, column + (column > middle)] = 0.0
        return np.asarray(pixels * 255, np.uint8)


def _image(sprite: _Sprite, width: int, height: int) -> Image:
    rows = np.arange(height) * _SIDE // height
    columns = np.arange(width) * _SIDE // width
    return Image(png.encode(sprite.pixels()[np.ix_(rows, columns)]), width, height)


def _smooth(field: _Field, times: int) -> _Field:
    for _ in range(times):
        padded = np.pad(field, 1, mode="edge")
        field = (
            padded[1:-1, 1:-1] * 2
            + padded[:-2, 1:-1]
            + padded[2:, 1:-1]
            + padded[1:-1, :-2]
            + padded[1:-1, 2:]
        ) / 6
    return field


def _eroded(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(inside, 1)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
