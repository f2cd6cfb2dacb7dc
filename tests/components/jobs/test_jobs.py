"""The jobs component over its doors, with a generator that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.component_suite import component_options
from tests.components.jobs.engine_urls import engine_url
from tests.components.jobs.scripted import FAST, Scripted

from protoplane.jobs.v1 import (
    CancelRequest,
    FollowRequest,
    FollowResponse,
    GenerateRequest,
    GetJobRequest,
    Job,
    JobAccepted,
    JobFinished,
    JobsClient,
    JobState,
    ListJobsRequest,
    ListModelsRequest,
    Lora,
    PingRequest,
    ReadResultRequest,
    StatusRequest,
)
from protoplane_base import Code, Duration, PlaneError
from protoplane_client import connect
from protoplane_components.jobs import Jobs
from protoplane_runtime.engines.interface import Event, Start
from protoplane_server import Options, Server

pytestmark = pytest.mark.anyio

EACH_ENGINE = pytest.mark.parametrize(
    "server", ["memory:", "local:", "nats:", "zenoh:"], indirect=True
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def generator() -> Scripted:
    return Scripted()


@pytest.fixture(params=["memory:", "nats:"])
async def server(
    generator: Scripted, request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Server]:
    with engine_url(request.param, tmp_path) as engine:
        options = component_options(
            http="127.0.0.1:0", inproc="jobs-test", engine=engine, objects=f"local:{tmp_path}"
        )
        async with Server(Jobs(generator, slots=1, settings=FAST), options) as server:
            yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[JobsClient]:
    async with connect("inproc:jobs-test") as plane:
        client = JobsClient(plane)

        async def manned() -> bool:
            return (await client.status(StatusRequest())).workers == 1

        await until(manned)
        yield client


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds, 30 seconds at most."""
    async with asyncio.timeout(30):
        while not await holds():  # noqa: ASYNC110  # what is asked sets no event
            await asyncio.sleep(0.01)


async def submit(client: JobsClient, prompt: str, **fields: Any) -> JobAccepted:
    answer = await client.generate(GenerateRequest(prompt=prompt, **fields), timeout_s=30)
    assert answer.accepted is not None
    return answer.accepted


async def followed(client: JobsClient, id_: str) -> list[FollowResponse]:
    return [each async for each in client.follow(FollowRequest(id=id_), timeout_s=30)]


async def job(client: JobsClient, id_: str) -> Job:
    found = (await client.get_job(GetJobRequest(id=id_))).job
    assert found is not None
    return found


async def hung(client: JobsClient, generator: Scripted, id_: str = "h") -> None:
    """Occupy the only worker."""
    await submit(client, "hang", id=id_)

    async def hangs() -> bool:
        return generator.hanging == 1

    await until(hangs)


@EACH_ENGINE
async def test_a_job_from_submission_to_its_image(client: JobsClient) -> None:
    accepted = await submit(client, "a fox", id="one", seed=7)
    assert accepted.job_id == "one"
    updates = await followed(client, "one")
    complete = updates[-1].complete
    assert complete is not None
    assert complete.result is not None
    assert (complete.attempts, complete.result.seed) == (1, 7)
    parts = [part async for part in client.read_result(ReadResultRequest(id="one"))]
    assert b"".join(part.data for part in parts) == b"a fox"


@EACH_ENGINE
async def test_following_tells_all_updates(client: JobsClient, generator: Scripted) -> None:
    await hung(client, generator)
    await submit(client, "next", id="n")
    answers: Any = client.follow(FollowRequest(id="n"), timeout_s=30)
    kinds: list[str | None] = []
    async with aclosing(answers):
        async for answer in answers:
            kinds.append(answer.which_oneof("update"))
            if kinds == ["accepted"]:
                await client.cancel(CancelRequest(id="h"))
    assert kinds[:4] == ["accepted", "started", "progress", "preview"]
    assert kinds[-1] == "complete"


async def test_priorities_then_the_order_they_came_in(
    client: JobsClient, generator: Scripted
) -> None:
    await hung(client, generator)
    places = [
        (await submit(client, prompt, id=prompt, priority=priority)).position
        for prompt, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5))
    ]
    assert places == [0, 0, 2, 1]
    await client.cancel(CancelRequest(id="h"))
    for id_ in "abcd":
        await followed(client, id_)
    assert generator.begun == ["hang", "b", "d", "a", "c"]


async def test_cancelling_a_queued_job(client: JobsClient, generator: Scripted) -> None:
    await hung(client, generator)
    await submit(client, "never", id="q")
    answer = await client.cancel(CancelRequest(id="q"))
    assert answer.cancelled is not None
    assert answer.cancelled.state == JobState.JOB_STATE_CANCELLED
    [_, last] = await followed(client, "q")
    assert last.cancelled is not None
    assert "never" not in generator.begun


async def test_cancelling_reaches_the_worker(client: JobsClient, generator: Scripted) -> None:
    await hung(client, generator)
    answer = await client.cancel(CancelRequest(id="h"))
    assert answer.cancelled is not None
    assert (await followed(client, "h"))[-1].cancelled is not None
    assert (generator.hanging, generator.left) == (0, 1)
    again = await client.cancel(CancelRequest(id="h"))
    assert again.cancelled is not None
    assert again.cancelled.state == JobState.JOB_STATE_CANCELLED


async def test_a_finished_job_cannot_be_cancelled(client: JobsClient) -> None:
    await submit(client, "quick", id="f")
    await followed(client, "f")
    with pytest.raises(PlaneError) as caught:
        await client.cancel(CancelRequest(id="f"))
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_time_limit(client: JobsClient, generator: Scripted) -> None:
    await submit(client, "hang", id="slow", time_limit=Duration.from_seconds(0.2))
    last = (await followed(client, "slow"))[-1]
    assert last.error is not None
    assert last.error.failure is not None
    assert last.error.failure.code == "DEADLINE_EXCEEDED"
    assert generator.hanging == 0


async def test_the_same_id_is_the_same_job(client: JobsClient, generator: Scripted) -> None:
    for _ in range(3):
        await submit(client, "once", id="same")
    await asyncio.gather(*(submit(client, "twice", id="both") for _ in range(5)))
    for id_ in ("same", "both"):
        await followed(client, id_)
    assert (await submit(client, "once", id="same")).state == JobState.JOB_STATE_SUCCEEDED
    assert sorted(generator.begun) == ["once", "twice"]
    with pytest.raises(PlaneError) as caught:
        await submit(client, "something else", id="same")
    assert caught.value.code is Code.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("prompt", "code", "words"),
    [("fail", "FAILED_PRECONDITION", "the brush is dry"), ("crash", "INTERNAL", "log")],
)
async def test_a_job_that_fails(client: JobsClient, prompt: str, code: str, words: str) -> None:
    await submit(client, prompt, id="bad")
    failed = (await followed(client, "bad"))[-1].error
    assert failed is not None
    assert failed.failure is not None
    assert failed.failure.code == code
    assert words in failed.failure.message
    assert "1234" not in failed.failure.message


async def test_what_is_unavailable_is_tried_again(client: JobsClient) -> None:
    await submit(client, "away", id="w")
    complete = (await followed(client, "w"))[-1].complete
    assert complete is not None
    assert complete.attempts == 3


@pytest.mark.parametrize("server", ["memory:"], indirect=True)
@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"prompt": " "}, Code.INVALID_ARGUMENT, "prompt is empty"),
        ({"id": ".hidden"}, Code.INVALID_ARGUMENT, "no id of a job"),
        ({"id": "a/b"}, Code.INVALID_ARGUMENT, "no id of a job"),
        ({"width": 0}, Code.INVALID_ARGUMENT, "width is 0"),
        ({"steps": 100_000}, Code.INVALID_ARGUMENT, "it must be 1 to 1000"),
        ({"guidance_scale": float("nan")}, Code.INVALID_ARGUMENT, "guidance_scale"),
        ({"time_limit": Duration(0)}, Code.INVALID_ARGUMENT, "time_limit is 0 s"),
        ({"model": "other"}, Code.NOT_FOUND, "they have m"),
        ({"loras": [Lora(name="hard")]}, Code.NOT_FOUND, "it has soft"),
    ],
)
async def test_requests_that_cannot_be(
    client: JobsClient, fields: dict[str, Any], code: Code, words: str
) -> None:
    asked: dict[str, Any] = {"prompt": "a fox", **fields}
    with pytest.raises(PlaneError, match=words) as caught:
        await client.generate(GenerateRequest(**asked))
    assert caught.value.code is code


async def test_listing_filters_and_pages(client: JobsClient) -> None:
    for number in range(5):
        await submit(client, f"fox {number}", id=f"j{number}")
    await submit(client, "fail", id="bad")
    for id_ in ("j4", "bad"):
        await followed(client, id_)
    pages: list[list[str]] = []
    token = ""
    while True:
        request = ListJobsRequest(page_size=2, text="FOX", page_token=token)
        answer = await client.list_jobs(request)
        pages.append([each.id for each in answer.jobs])
        token = answer.next_page_token
        if not token:
            break
    assert pages == [["j4", "j3"], ["j2", "j1"], ["j0"]]
    failed = await client.list_jobs(ListJobsRequest(states=[JobState.JOB_STATE_FAILED]))
    assert [each.id for each in failed.jobs] == ["bad"]
    middle = (await job(client, "j2")).accepted_at
    later = await client.list_jobs(ListJobsRequest(accepted_from=middle, text="fox"))
    before = await client.list_jobs(ListJobsRequest(accepted_before=middle, text="fox"))
    assert [each.id for each in later.jobs] == ["j4", "j3", "j2"]
    assert [each.id for each in before.jobs] == ["j1", "j0"]
    with pytest.raises(PlaneError, match="is no page_token"):
        await client.list_jobs(ListJobsRequest(page_token="?"))


async def test_estimates_are_learned(client: JobsClient, generator: Scripted) -> None:
    assert (await submit(client, "first", id="e1")).estimated_duration is None
    await followed(client, "e1")
    await hung(client, generator)
    await submit(client, "second", id="e2")
    third = await submit(client, "third", id="e3")
    assert third.estimated_duration is not None
    assert third.estimated_wait is not None
    assert third.estimated_wait.total_seconds > 0


async def test_status_ping_and_models(client: JobsClient, generator: Scripted) -> None:
    await hung(client, generator)
    await submit(client, "waits", id="w")
    status = await client.status(StatusRequest())
    assert (status.queued, status.running, status.finished) == (1, 1, 0)
    assert (status.workers, status.slots) == (1, 1)
    assert (await client.ping(PingRequest(nonce="x"))).nonce == "x"
    [model] = (await client.list_models(ListModelsRequest())).models
    assert (model.name, model.workers) == ("m", 1)
    [running] = (await client.list_jobs(ListJobsRequest(states=[JobState.JOB_STATE_RUNNING]))).jobs
    assert running.id == "h"


@EACH_ENGINE
async def test_each_end_is_published_once(client: JobsClient, server: Server) -> None:
    ids = [f"p{number}" for number in range(10)]
    await asyncio.gather(*(submit(client, "p", id=id_) for id_ in ids))
    for id_ in ids:
        await followed(client, id_)
    told: list[str] = []
    events: Any = server.events.read(["jobs/*/finished"], after=Start.EARLIEST)
    async with asyncio.timeout(30), aclosing(events):
        async for batch in events:
            told += [
                JobFinished.from_bytes(each.data).job_id
                for each in batch
                if isinstance(each, Event)
            ]
            if len(told) >= len(ids):
                break
    assert sorted(told) == ids


async def test_over_rest(client: JobsClient, server: Server) -> None:
    async with httpx.AsyncClient(base_url=str(server.http_url), timeout=30) as web:
        answer = await web.post("/jobs/v1/jobs", json={"id": "r", "prompt": "by rest"})
        assert answer.json()["accepted"]["jobId"] == "r"
        await followed(client, "r")
        found = (await web.get("/jobs/v1/jobs/r")).json()["job"]
        assert found["state"] == "JOB_STATE_SUCCEEDED"
        assert (await web.get("/jobs/v1/jobs/none")).status_code == 404
        assert (await web.get("/jobs/v1/ping", params={"nonce": "n"})).json()["nonce"] == "n"
        listed = (await web.get("/jobs/v1/jobs", params={"states": "JOB_STATE_SUCCEEDED"})).json()
        assert [each["id"] for each in listed["jobs"]] == ["r"]


async def test_without_an_engine_it_says_so() -> None:
    options = Options(grpc=None, http=None)
    with pytest.raises(PlaneError, match="an engine"):
        async with Server(Jobs(Scripted()), options):
            pass
