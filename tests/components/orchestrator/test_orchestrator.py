"""The orchestrator as a worker to its callers, and requests whose worker is lost."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from tests.components.orchestrator.scripted import (
    GREEDY,
    LOST,
    Fleet,
    Worker,
    eventually,
    written,
)

from protoplane.inference.v1 import (
    Capability,
    Conversation,
    ConversationMessage,
    EmbedRequest,
    GenerateRequest,
    GenerateResponse,
    InferRequest,
    ListModelsRequest,
    LoadModelRequest,
    ModelState,
    ModelStatusRequest,
    SamplingParameters,
    SequenceStep,
    TokenIds,
    UnloadModelRequest,
    Usage,
)
from protoplane.orchestrator.v1 import StreamBroken, WorkerFailure
from protoplane_base import Code, PlaneError
from protoplane_components.orchestrator import OrchestratorSettings
from protoplane_runtime.tracing import TRACEPARENT

pytestmark = pytest.mark.anyio

ASK = GenerateRequest(model="m", prompt="p", sampling=GREEDY)
TEXT = written("p", 20)
RESUME = OrchestratorSettings(resume=True)
SHORT = OrchestratorSettings(grace_s=0.2)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_it_answers_as_a_worker_does(fleet: Fleet) -> None:
    worker = await fleet.worker("a")
    front = await fleet.orchestrator(workers=1)
    client = front.inference
    answers = [answer async for answer in client.generate(ASK)]
    assert "".join(answer.text for answer in answers) == TEXT
    assert [answer.index for answer in answers] == [*range(21)]
    assert answers[0].model == "m"
    assert answers[-1].usage == Usage(prompt_tokens=1, completion_tokens=20)
    embedded = await client.embed(EmbedRequest(texts=["ab", "abc"]))
    assert [each.values for each in embedded.embeddings] == [[2.0], [3.0]]
    assert embedded.model == "m"
    assert (await client.infer(InferRequest(model="m"))).model == "m"
    stream = client.infer_stream(InferRequest(model="m"))
    assert [answer.version async for answer in stream] == ["0", "1", "2"]
    status = await client.model_status(ModelStatusRequest(model="m"))
    assert status.model is not None
    assert (status.model.name, status.model.platform) == ("m", "scripted")
    assert worker.active == 0
    assert all(each.in_flight == 0 for each in front.made.pool.workers.values())


async def test_a_request_without_a_model_goes_to_the_first_that_can(fleet: Fleet) -> None:
    only_embeds = Worker("a", able=[Capability.CAPABILITY_EMBED])
    await fleet.worker("a", only_embeds)
    writes = await fleet.worker("b", Worker("z", "k"))
    front = await fleet.orchestrator(workers=2)
    assert await front.text(GenerateRequest(prompt="p", sampling=GREEDY)) == TEXT
    assert [call.model for call in writes.calls] == ["k"]


async def test_a_worker_that_is_lost_before_the_first_token_is_passed_over(fleet: Fleet) -> None:
    first, second = await fleet.worker("a"), await fleet.worker("b")
    front = await fleet.orchestrator(OrchestratorSettings(policy="round-robin"), workers=2)
    first.die_after = 0
    while not first.calls:
        assert await front.text(ASK) == TEXT
    assert len(first.calls) == 1
    assert len(second.calls) >= 1
    assert (front.made.counts.retries, front.made.counts.broken) == (1, 0)
    # It is left alone for a moment, and gets requests again.
    first.die_after = None
    while len(first.calls) == 1:
        assert await front.text(ASK) == TEXT
    assert front.made.counts.retries == 1


async def test_unary_calls_go_to_another_worker(fleet: Fleet) -> None:
    first, second = await fleet.worker("a"), await fleet.worker("b")
    front = await fleet.orchestrator(workers=2)
    first.refuse = second.refuse = LOST
    with pytest.raises(PlaneError, match="fell off") as caught:
        await front.inference.embed(EmbedRequest(model="m", texts=["a"]))
    assert caught.value.code is Code.UNAVAILABLE
    second.refuse = None
    for _ in range(4):
        await front.inference.embed(EmbedRequest(model="m", texts=["a"]))
        await front.inference.infer(InferRequest(model="m"))
    assert second.embedded == 4
    assert first.embedded == 0


async def test_a_full_worker_is_passed_over_and_its_hint_told(fleet: Fleet) -> None:
    first, second = await fleet.worker("a"), await fleet.worker("b")
    front = await fleet.orchestrator(workers=2)
    first.refuse = PlaneError(Code.RESOURCE_EXHAUSTED, "my queue is full")
    for _ in range(3):
        assert await front.text(ASK) == TEXT
    assert len(second.calls) == 3
    second.refuse = first.refuse
    with pytest.raises(PlaneError, match="my queue is full") as caught:
        await front.text(ASK)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


async def test_a_fault_of_the_caller_is_not_tried_twice(fleet: Fleet) -> None:
    workers = [await fleet.worker("a"), await fleet.worker("b")]
    front = await fleet.orchestrator(workers=2)
    for worker in workers:
        worker.refuse = PlaneError(Code.INVALID_ARGUMENT, "top_p is 7")
    with pytest.raises(PlaneError, match="top_p is 7"):
        await front.text(ASK)
    assert sum(len(worker.calls) for worker in workers) == 1
    assert front.made.counts.retries == 0


async def test_a_text_whose_worker_is_lost_midway_breaks_off_with_details(fleet: Fleet) -> None:
    worker = await fleet.worker("a")
    await fleet.worker("b")
    front = await fleet.orchestrator(workers=2)
    worker.die_after = 3
    texts: list[str] = []
    error: PlaneError | None = None
    while error is None:
        texts.clear()
        try:
            async for answer in front.inference.generate(ASK, metadata={"x-request-id": "r7"}):
                texts += [answer.text]
        except PlaneError as caught:
            error = caught
    assert "".join(texts) == TEXT[:3]
    assert error.code is Code.UNAVAILABLE
    [told] = error.details
    assert isinstance(told, StreamBroken)
    assert (told.worker, told.request_id) == ("protoplane/inference/a", "r7")
    assert (told.messages_delivered, told.tokens_delivered, told.characters_delivered) == (3, 3, 3)
    assert told.reason == "resuming is off"
    assert front.made.counts.broken == 1


async def test_a_stream_of_results_breaks_off_midway_too(fleet: Fleet) -> None:
    worker = await fleet.worker("a")
    front = await fleet.orchestrator(SHORT, workers=1)
    worker.die_after = 2
    answers = front.inference.infer_stream(InferRequest(model="m"))
    assert [(await anext(answers)).version for _ in range(2)] == ["0", "1"]
    with pytest.raises(PlaneError) as caught:
        await anext(answers)
    [told] = caught.value.details
    assert isinstance(told, StreamBroken)
    assert told.messages_delivered == 2


SEEDED = SamplingParameters(seed=7, max_tokens=20)
STOPPED = SamplingParameters(temperature=0.0, max_tokens=20, stop=["never", "not this"])


@pytest.mark.parametrize(
    ("sampling", "tokens"),
    [(GREEDY, False), (GREEDY, True), (SEEDED, False), (SEEDED, True), (STOPPED, False)],
)
async def test_a_text_goes_on_at_another_worker(
    fleet: Fleet, sampling: SamplingParameters, *, tokens: bool
) -> None:
    workers = [await fleet.worker(id_) for id_ in "abc"]
    front = await fleet.orchestrator(RESUME, workers=3)
    # Each loses it after four tokens, until one is left whole.
    for worker in workers[:2]:
        worker.die_after = 4
    request = GenerateRequest(model="m", sampling=sampling)
    if tokens:
        request.token_ids = TokenIds(ids=[ord("p")])
    else:
        request.prompt = "p"
    for _ in range(3):
        answers = [answer async for answer in front.inference.generate(request)]
        assert "".join(answer.text for answer in answers) == TEXT
        assert [each for answer in answers for each in answer.token_ids] == [*map(ord, TEXT)]
        assert [answer.index for answer in answers] == [*range(len(answers))]
        assert [answer.model for answer in answers][:2] == ["m", ""]
        assert answers[-1].usage == Usage(prompt_tokens=1, completion_tokens=20)
    assert front.made.counts.resumes >= 1
    assert front.made.counts.broken == 0


async def test_what_cannot_be_gone_on_with_breaks_off(fleet: Fleet) -> None:
    worker = await fleet.worker("a")
    front = await fleet.orchestrator(RESUME, workers=1)
    worker.die_after = 2
    said = Conversation(messages=[ConversationMessage(role="user", content="p")])
    for request, reason in (
        (GenerateRequest(model="m", conversation=said), "conversation"),
        (GenerateRequest(model="m", prompt="p"), "greedy"),
    ):
        with pytest.raises(PlaneError) as caught:
            await front.text(request)
        [told] = caught.value.details
        assert isinstance(told, StreamBroken)
        assert reason in told.reason


async def test_a_text_that_nobody_can_go_on_with_breaks_off(fleet: Fleet) -> None:
    worker = await fleet.worker("a")
    front = await fleet.orchestrator(OrchestratorSettings(resume=True, grace_s=0.05), workers=1)
    worker.die_after = 2
    with pytest.raises(PlaneError) as caught:
        await front.text(ASK)
    [told] = caught.value.details
    assert isinstance(told, StreamBroken)
    assert told.tokens_delivered == 2
    assert told.reason == "no other worker is there"


async def test_leaving_callers_and_deadlines_reach_the_worker(fleet: Fleet) -> None:
    worker = await fleet.worker("a")
    front = await fleet.orchestrator(workers=1)
    worker.hang_after = 1
    answers: Any = front.inference.generate(ASK)
    async with aclosing(answers):
        assert (await anext(answers)).text == TEXT[0]
    await eventually(lambda: worker.cancelled == 1 and worker.active == 0)
    worker.go.clear()
    task = asyncio.create_task(front.inference.embed(EmbedRequest(model="m", texts=["a"])))
    await eventually(lambda: worker.active == 1)
    task.cancel()
    await eventually(lambda: worker.cancelled == 2 and worker.active == 0)
    with pytest.raises(PlaneError) as caught:
        await front.text(ASK, timeout_s=0.5)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    await eventually(lambda: worker.active == 0)
    left_s = worker.contexts[-1].time_remaining_s()
    assert left_s is not None
    assert left_s <= 0.5
    await eventually(lambda: front.made.pool.workers["protoplane/inference/a"].in_flight == 0)


async def test_name_trace_and_priority_reach_the_worker(fleet: Fleet) -> None:
    worker = await fleet.worker("a")
    front = await fleet.orchestrator(workers=1)
    request = GenerateRequest(model="m", prompt="p", sampling=GREEDY, priority=3)
    await front.text(request, metadata={"x-request-id": "r9", TRACEPARENT: TRACE})
    [context], [call] = worker.contexts, worker.calls
    assert context.request_id == "r9"
    trace = context.metadata[TRACEPARENT]
    assert isinstance(trace, str)
    assert trace.split("-")[1] == TRACE.split("-")[1]
    assert call.priority == 3


async def test_requests_of_a_sequence_stay_at_one_worker(fleet: Fleet) -> None:
    workers = {id_: await fleet.worker(id_) for id_ in "abc"}
    front = await fleet.orchestrator(OrchestratorSettings(policy="round-robin"), workers=3)
    for step in range(4):
        for id_ in "stu":
            sequence = SequenceStep(id=id_, start=step == 0)
            await front.inference.infer(InferRequest(model="m", sequence=sequence))
    assert sorted("".join(worker.sequences) for worker in workers.values()) == [
        "ssss",
        "tttt",
        "uuuu",
    ]
    [name] = (id_ for id_, worker in workers.items() if "s" in worker.sequences)
    await fleet.servers[name].stop(0)
    await eventually(lambda: len(front.known) == 2)
    with pytest.raises(PlaneError, match="begin a new sequence") as caught:
        await front.inference.infer(InferRequest(model="m", sequence=SequenceStep(id="s")))
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_models_are_merged_and_changed_everywhere(fleet: Fleet) -> None:
    first = await fleet.worker("a", Worker("m", "only-a"))
    second = await fleet.worker("b")
    front = await fleet.orchestrator(workers=2)
    client = front.inference
    first.models["m"] = ModelState.MODEL_STATE_FAILED
    listed = (await client.list_models(ListModelsRequest())).models
    assert [(model.name, model.state.name[12:]) for model in listed] == [
        ("m", "LOADED"),
        ("only-a", "LOADED"),
    ]
    status = await client.model_status(ModelStatusRequest(model="m"))
    assert status.stats is not None
    assert status.stats.succeeded == 14
    loaded = await client.load_model(LoadModelRequest(model="new"))
    assert loaded.model is not None
    assert loaded.model.name == "new"
    assert (first.loads, second.loads) == (["+new"], ["+new"])
    await eventually(lambda: all("new" in w.models for w in front.made.pool.workers.values()))
    await client.unload_model(UnloadModelRequest(model="new"), metadata={"protoplane-workers": "b"})
    assert (first.loads, second.loads) == (["+new"], ["+new", "-new"])
    # Who does not have it has nothing to unload.
    await client.unload_model(UnloadModelRequest(model="only-a"))
    assert first.loads[-1] == "-only-a"
    with pytest.raises(PlaneError, match="there is no worker 'z'"):
        await client.load_model(LoadModelRequest(model="x"), metadata={"protoplane-workers": "z"})


async def test_each_worker_that_cannot_load_is_told(fleet: Fleet) -> None:
    first, second = await fleet.worker("a"), await fleet.worker("b")
    front = await fleet.orchestrator(workers=2)
    first.refuse = PlaneError(Code.RESOURCE_EXHAUSTED, "no memory is left")
    with pytest.raises(PlaneError, match="1 workers could not load 'x', 1 did") as caught:
        await front.inference.load_model(LoadModelRequest(model="x"))
    [told] = caught.value.details
    assert told == WorkerFailure(
        worker="protoplane/inference/a", code="RESOURCE_EXHAUSTED", message="no memory is left"
    )
    assert second.loads == ["+x"]


async def test_many_texts_at_once_are_all_whole(fleet: Fleet) -> None:
    workers = [await fleet.worker(id_, Worker(capacity=7)) for id_ in "abc"]
    front = await fleet.orchestrator(RESUME, workers=3)
    workers[1].die_after = 5
    prompts = [f"prompt {number}" for number in range(100)]

    async def one(prompt: str) -> list[GenerateResponse]:
        request = GenerateRequest(model="m", prompt=prompt, sampling=GREEDY)
        return [answer async for answer in front.inference.generate(request)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(prompt)) for prompt in prompts]
    for prompt, task in zip(prompts, tasks, strict=True):
        assert "".join(answer.text for answer in task.result()) == written(prompt, 20)
    assert max(worker.peak for worker in workers) <= 7
    assert front.made.counts.broken == 0
    assert all(worker.in_flight == 0 for worker in front.made.pool.workers.values())
