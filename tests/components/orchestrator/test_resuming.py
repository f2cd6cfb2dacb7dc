"""A text that several workers write is the text that one would have written."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from tests.components.orchestrator.scripted import written

from protoplane.inference.v1 import (
    FinishReason,
    GenerateRequest,
    GenerateResponse,
    SamplingParameters,
    TokenIds,
    Usage,
)
from protoplane_components.orchestrator.resuming import Writing
from protoplane_server.backends.stops import StopText


def worker(request: GenerateRequest, *, slow: int = 1) -> Iterator[GenerateResponse]:
    """A worker of letters: each is a token, whose text comes when ``slow`` of them are there."""
    sampling = request.sampling or SamplingParameters()
    prompt = request.prompt
    if request.token_ids is not None:
        prompt = "".join(map(chr, request.token_ids.ids))
    assert prompt
    stops = StopText(sampling.stop)
    done, held, finish = 0, "", FinishReason.FINISH_REASON_LENGTH
    for letter in written(prompt, 10 if sampling.max_tokens is None else sampling.max_tokens):
        done += 1
        held += letter
        text = ""
        # Always at the same places of the whole text, whoever writes it.
        if (len(prompt) + done) % slow == 0:
            text, held = stops.add(held), ""
        yield GenerateResponse(
            text=text,
            token_ids=[ord(letter)],
            index=done - 1,
            model="m" if done == 1 else "",
        )
        if stops.stopped:
            finish = FinishReason.FINISH_REASON_STOP
            break
    usage = Usage(prompt_tokens=len(prompt), completion_tokens=done)
    rest = "" if stops.stopped else stops.add(held)
    yield GenerateResponse(text=rest + stops.end(), index=done, finish_reason=finish, usage=usage)


def written_by(
    request: GenerateRequest, breaks: list[int], *, slow: int = 1
) -> list[GenerateResponse]:
    """What callers get where each worker but the last is lost after so many messages."""
    writing = Writing(request, resume=True)
    delivered: list[GenerateResponse] = []
    for after in [*breaks, None]:
        assert not writing.why_not
        for count, answer in enumerate(worker(writing.request(), slow=slow)):
            if count == after:
                break
            delivered += writing.delivered(answer)
        if writing.finished:
            return delivered
    raise AssertionError("it never ended")


BREAKS = st.lists(st.integers(0, 12), max_size=5)


@given(
    st.text("abc", min_size=1, max_size=5),
    st.integers(1, 30),
    BREAKS,
    st.integers(1, 3),
    st.booleans(),
)
def test_it_is_the_same_whoever_writes_it(
    prompt: str,
    most: int,
    breaks: list[int],
    slow: int,
    tokens: bool,
) -> None:
    request = GenerateRequest(sampling=SamplingParameters(temperature=0.0, max_tokens=most))
    if tokens:
        request.token_ids = TokenIds(ids=[*map(ord, prompt)])
    else:
        request.prompt = prompt
    answers = written_by(request, breaks, slow=slow)
    text = written(prompt, most)
    assert "".join(answer.text for answer in answers) == text
    assert [id_ for answer in answers for id_ in answer.token_ids] == [*map(ord, text)]
    assert [answer.index for answer in answers] == [*range(len(answers))]
    assert [answer.model for answer in answers[1:]] == [""] * (len(answers) - 1)
    assert answers[-1].finish_reason == FinishReason.FINISH_REASON_LENGTH
    assert answers[-1].usage == Usage(prompt_tokens=len(prompt), completion_tokens=most)
    assert all(not answer.usage for answer in answers[:-1])


@given(
    st.text("abc", min_size=1, max_size=5),
    BREAKS,
    st.lists(st.text("abcdz", min_size=1), max_size=3),
)
def test_texts_to_stop_at_are_found_across_workers(
    prompt: str, breaks: list[int], stops: list[str]
) -> None:
    # A stop that the text really holds, beside those that it may hold.
    stops = [*stops, written(prompt, 20)[9:11]]
    request = GenerateRequest(
        prompt=prompt, sampling=SamplingParameters(temperature=0.0, max_tokens=200, stop=stops)
    )
    alone = "".join(answer.text for answer in worker(request))
    assert "".join(answer.text for answer in written_by(request, breaks)) == alone


def test_a_worker_without_texts_is_not_waited_for() -> None:
    request = GenerateRequest(
        token_ids=TokenIds(ids=[1]), sampling=SamplingParameters(temperature=0.0, max_tokens=100)
    )
    writing = Writing(request, resume=True)
    answers = [
        each
        for number in range(50)
        for each in writing.delivered(GenerateResponse(token_ids=[number], index=number))
    ]
    told = [id_ for answer in answers for id_ in answer.token_ids]
    assert told == [*range(len(told))]
    assert len(told) >= 33
    going_on = writing.request()
    assert going_on.token_ids is not None
    assert going_on.token_ids.ids == [1, *told]


def test_without_tokens_nobody_goes_on() -> None:
    request = GenerateRequest(prompt="p", sampling=SamplingParameters(temperature=0.0))
    writing = Writing(request, resume=True)
    assert [*writing.delivered(GenerateResponse(text="a", model="m"))]
    assert "tells no tokens" in writing.why_not


def test_messages_pass_as_they_are_where_nothing_was_lost() -> None:
    request = GenerateRequest(prompt="p", sampling=SamplingParameters(max_tokens=9))
    writing = Writing(request, resume=False)
    for answer in worker(request):
        assert [*writing.delivered(answer)] == [answer]
    assert writing.finished
