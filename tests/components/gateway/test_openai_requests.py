"""Reading what OpenAI's API is asked: anything is read, or refused in its words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_components.gateway.openai.faults import error_answer, error_body
from protoplane_components.gateway.openai.requests import (
    Embeddings,
    read_chat,
    read_completion,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        *("model", "messages", "prompt", "input", "stream", "stream_options", "stop", "seed"),
        *("temperature", "max_tokens", "n", "logprobs", "tools", "user", "dimensions", "top_k"),
    ]
)
BODIES = st.dictionaries(NAMES | st.text(max_size=4), JSON, max_size=6)


@given(BODIES, st.sampled_from([read_chat, read_completion, Embeddings]))
def test_any_body_is_read_or_refused(body: object, read: object) -> None:
    assert callable(read)
    try:
        read(json.dumps(body).encode())
    except PlaneError as error:
        assert error.code is Code.INVALID_ARGUMENT  # noqa: PT017  # mostly it is refused
        status, _ = error_answer(error)
        document = json.loads(error_body(error))["error"]
        assert status == 400
        assert document["message"]


@given(st.binary(max_size=40))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(PlaneError) as caught:
        read_chat(data)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert json.loads(error_body(caught.value))["error"]["message"]


@given(st.integers(-(2**63), 2**64 - 1))
def test_seeds_are_unsigned(seed: int) -> None:
    body = {"model": "m", "prompt": "a", "seed": seed}
    request = read_completion(json.dumps(body).encode()).request
    assert request.sampling is not None
    assert request.sampling.seed == seed % 2**64
    request.to_bytes()
