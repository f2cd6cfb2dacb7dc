"""The parts of the queue that are pure, and the sprites."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protoplane.jobs.v1 import GenerateRequest, Job, JobResult, JobStage, ListJobsRequest, Lora
from protoplane_base import PlaneError, Timestamp
from protoplane_components.jobs import Image, SpriteGenerator, Step, png
from protoplane_components.jobs.estimates import Estimates
from protoplane_components.jobs.history import page, place_of
from protoplane_components.jobs.line import Line
from protoplane_components.jobs.records import accepted, claimed, retried, succeeded

NAMES = ["sprite-creature", "sprite-plant", "sprite-ship"]


def request(id_: str, priority: int = 0, steps: int = 10) -> GenerateRequest:
    return GenerateRequest(id=id_, prompt="p", model="m", steps=steps, priority=priority)


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 5)), max_size=30), st.data())
def test_line(jobs: list[tuple[int, int]], data: st.DataObject) -> None:
    line = Line()
    made = {
        f"j{number}": accepted(request(f"j{number}", priority), Timestamp(seconds))
        for number, (priority, seconds) in enumerate(jobs)
    }
    for job in made.values():
        line.add(job)
    gone: set[str] = data.draw(st.sets(st.sampled_from(sorted(made)))) if made else set()
    for id_ in gone:
        line.remove(id_)
    order = [*line]
    assert {*order} == {*made} - gone
    assert [line.position(id_) for id_ in order] == [*range(len(order))]
    keys = [(-jobs[int(id_[1:])][0], jobs[int(id_[1:])][1]) for id_ in order]
    assert all(one <= other for one, other in pairwise(keys))


def test_a_job_that_is_tried_again_keeps_its_place() -> None:
    line = Line()
    first = accepted(request("a"), Timestamp(1))
    line.add(accepted(request("b"), Timestamp(2)))
    line.add(retried(claimed(first, "w/1", Timestamp(3)), Timestamp(9)))
    assert [*line] == ["a", "b"]


@given(st.sets(st.integers(0, 40), max_size=40), st.integers(1, 7))
def test_pages_hold_each_job_once(times: set[int], size: int) -> None:
    jobs = {f"j{at}": accepted(request(f"j{at}"), Timestamp(at)) for at in times}
    places = sorted(place_of(job) for job in jobs.values())
    seen: list[str] = []
    token = ""
    while True:
        asked = ListJobsRequest(page_size=size, page_token=token)
        found, token = page(asked, places, jobs.__getitem__)
        assert len(found) <= size
        seen += [job.id for job in found]
        if not token:
            break
    assert seen == [f"j{at}" for at in sorted(times, reverse=True)]


def nobody(id_: str) -> Job:
    raise KeyError(id_)


@given(st.text(max_size=40))
def test_any_text_as_page_token(token: str) -> None:
    try:
        page(ListJobsRequest(page_token=token), [], nobody)
    except PlaneError as error:
        assert "page_token" in error.message  # noqa: PT017  # most texts are none


def test_estimates() -> None:
    estimates = Estimates()
    assert estimates.duration_s(request("a")) is None
    job = claimed(accepted(request("a", steps=10), Timestamp(0)), "w/1", Timestamp(10))
    estimates.learn(succeeded(job, JobResult(), Timestamp(15)))
    assert estimates.duration_s(request("b", steps=20)) == pytest.approx(10)
    assert estimates.wait_s([request("b")] * 4, 4, left_s=2, slots=2) == pytest.approx(11)
    assert estimates.wait_s([], 0, left_s=0, slots=0) is None


def test_larger_images_are_estimated_apart() -> None:
    estimates = Estimates()
    for width, took_s in ((64, 1), (512, 30)):
        asked = GenerateRequest(prompt="a", model="m", steps=10, width=width, height=64)
        job = claimed(accepted(asked, Timestamp(0)), "w/1", Timestamp(10))
        estimates.learn(succeeded(job, JobResult(), Timestamp(10 + took_s)))

    def duration_s(width: int, model: str = "m") -> float | None:
        asked = GenerateRequest(prompt="b", model=model, steps=20, width=width, height=64)
        return estimates.duration_s(asked)

    assert duration_s(64) == pytest.approx(2)
    assert duration_s(512) == pytest.approx(60)
    # A size that is new is as slow as what is known of the model, a new model as all.
    assert duration_s(2048) == duration_s(2048, "other") == pytest.approx(2 + 0.2 * 58)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_png_comes_back(width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    assert np.array_equal(png.decode(png.encode(pixels)), pixels)


@settings(max_examples=300)
@given(st.data())
def test_damaged_png(data: st.DataObject) -> None:
    whole = bytearray(png.encode(np.zeros((4, 5, 3), np.uint8)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    try:
        pixels = png.decode(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except ValueError:
        return
    assert pixels.ndim == 3


async def sprite(**fields: Any) -> tuple[list[Step], Image]:
    asked: dict[str, Any] = {
        "prompt": "a red fox",
        "steps": 5,
        "width": 40,
        "height": 24,
        "seed": 1,
        **fields,
    }
    generator = SpriteGenerator(step_s=0)
    made = [each async for each in generator.generate(GenerateRequest(**asked))]
    image = made[-1]
    assert isinstance(image, Image)
    return [each for each in made if isinstance(each, Step)], image


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("model", NAMES)
async def test_sprites(model: str) -> None:
    steps, image = await sprite(model=model)
    assert (await sprite(model=model))[1] == image
    assert (await sprite(model=model, seed=2))[1] != image
    assert (await sprite(model=model, loras=[Lora(name="glow")]))[1] != image
    pixels = png.decode(image.data)
    assert pixels.shape == (24, 40, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 5
    assert [each.stage for each in steps if each.step == 0] == [
        JobStage.JOB_STAGE_INITIALISING,
        JobStage.JOB_STAGE_LOADING_MODELS,
        JobStage.JOB_STAGE_ENCODING,
    ]
    percents = [each.percent for each in steps]
    assert percents == sorted(percents)
    preview = next(each.preview for each in steps if each.preview is not None)()
    assert len(preview.data) < 10_000
