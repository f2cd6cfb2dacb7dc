"""Requests with long prompts come out of JSON as in the ordinary way; by C and by Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import pytest
from tests.components.kv_router.hashing_ways import WAYS, loaded

from protoplane.router.v1 import QueryRequest, RoutingRequest, SelectRequest
from protoplane_components.kv_router import reading
from protoplane_components.kv_router.hashing import as_hashes, block_hashes

TOKENS = [7 * number % 100_000 for number in range(400)]


@pytest.fixture(autouse=True, scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for hashing in loaded(request.param):
            patch.setattr(reading, "read_prompt", hashing.read_prompt)
            yield


def read(document: Any) -> SelectRequest | None:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return reading.prompt_reader(SelectRequest, attrgetter("request"), 16)(data)


def asking(**more: Any) -> dict[str, Any]:
    return {"request": {"prompt": {"tokens": {"ids": TOKENS}}, **more}}


def test_the_prompt_is_block_hashes_and_all_else_is_as_it_came() -> None:
    rest = {"model": "m", "priority": 3, "session": "s", "excludedWorkers": ["a"]}
    found = read(asking(lora="l", cacheNamespace="n", **rest))
    assert found is not None
    assert isinstance(found.request, RoutingRequest)
    assert found.request.prompt is not None
    blocks = found.request.prompt.blocks
    assert blocks is not None
    assert blocks.tokens == len(TOKENS)
    assert blocks.hashes == block_hashes(TOKENS, 16, lora="l", cache_namespace="n").tolist()
    assert as_hashes(blocks.hashes).tolist() == blocks.hashes
    ordinary = SelectRequest.model_validate_json(json.dumps({"request": rest}))
    assert ordinary.request is not None
    found.request.prompt = None
    assert found.request.model_dump(exclude={"lora", "cache_namespace"}) == (
        ordinary.request.model_dump(exclude={"lora", "cache_namespace"})
    )
    # What was read is a message as any other: it goes on in the wire format.
    again = read(asking())
    assert again is not None
    assert SelectRequest.from_bytes(again.to_bytes()) == again
    assert SelectRequest.model_validate_json(again.model_dump_json()) == again


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[" * 600,
        json.dumps({"request": {"prompt": {"text": "ids" * 400}}}).encode(),
        json.dumps({"request": {"prompt": {"tokens": {"ids": [1, 2, 3]}}}}).encode(),
        json.dumps({"request": {"prompt": {"tokens": {"ids": [*TOKENS, "7"]}}}}).encode(),
        json.dumps({"request": {"prompt": {"tokens": {"ids": [*TOKENS, -7]}}}}).encode(),
        json.dumps({"request": {"prompt": {"blocks": {"hashes": TOKENS}}}}).encode(),
        json.dumps(asking(unheard=1)).encode(),
        json.dumps(asking(session='"ids": [1]')).encode()[:-1],
        json.dumps({"ids": TOKENS, **asking()}).encode(),
        json.dumps(asking()).encode().replace(b"]", b""),
        json.dumps(asking()).encode()[:-2] + b',"prompt":{"tokens":{"ids":[5]}}}}',
    ],
)
def test_anything_else_is_left_to_the_ordinary_way(data: bytes) -> None:
    assert read(data) is None


def test_a_list_in_a_text_is_no_prompt() -> None:
    found = read(asking(session='"ids": [1, 2]'))
    assert found is not None
    assert found.request is not None
    assert found.request.session == '"ids": [1, 2]'
    assert found.request.prompt is not None
    assert found.request.prompt.blocks is not None
    assert found.request.prompt.blocks.tokens == len(TOKENS)


def test_a_query_has_its_prompt_elsewhere() -> None:
    reader = reading.prompt_reader(QueryRequest, lambda request: request, 16)
    found = reader(json.dumps({"prompt": {"tokens": {"ids": TOKENS}}}).encode())
    assert found is not None
    assert found.prompt is not None
    assert found.prompt.tokens is None
