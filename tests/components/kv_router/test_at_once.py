"""What is read and answered beside the models is what they would have read and answered."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields
from pydantic import ValidationError

from protoplane.router.v1 import (
    RegisterWorkerRequest,
    RoutingRequest,
    SelectAndReserveRequest,
    SelectAndReserveResponse,
    SelectRequest,
    Worker,
)
from protoplane_base import Code, PlaneError
from protoplane_components.kv_router import KvRouter, Router
from protoplane_components.kv_router import at_once as quick
from protoplane_components.kv_router.admission import Admission
from protoplane_components.kv_router.hashing import block_hashes, prefix_keys

pytestmark = pytest.mark.anyio
SIZE = 16
texts = st.text(max_size=8)
names = st.lists(texts, max_size=3)
tokens = st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=40)
usual = {
    "model": texts,
    "lora": texts,
    "cacheNamespace": texts,
    "priority": st.integers(-(1 << 31), (1 << 31) - 1),
    "session": texts,
    "pinnedWorkers": names,
    "excludedWorkers": names,
    "expectedOutputTokens": st.integers(0, (1 << 32) - 1),
    "policy": texts,
    "requestId": texts,
    "omitScores": st.booleans(),
}
anything = (
    st.none() | st.integers(-(1 << 33), 1 << 33) | st.floats() | texts | names | st.booleans()
)
odd = {
    **{name: value | anything for name, value in usual.items()},
    "prompt": anything,
    "cache_namespace": texts,
    "unheard": anything,
}


def asking(ids: list[int], more: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": {"tokens": {"ids": ids}}, **more}


@given(ids=tokens, more=st.fixed_dictionaries({}, optional=usual), spaced=st.booleans())
def test_what_is_usual_is_read_as_the_models_read_it(
    ids: list[int], more: dict[str, Any], spaced: bool
) -> None:
    document = {"request": asking(ids, more)}
    data = json.dumps(document, separators=None if spaced else (",", ":")).encode()
    found = quick.read_select(data, SIZE)
    assert found is not None
    asked, prompt = found
    expected = SelectRequest.model_validate_json(data).request
    assert expected is not None
    for field in fields(quick.Asked):
        if field.name != "prompt":
            assert getattr(asked, field.name) == getattr(expected, field.name)
    hashes = block_hashes(ids, SIZE, lora=expected.lora, cache_namespace=expected.cache_namespace)
    assert prompt.keys is not None
    assert prompt.keys.tolist() == prefix_keys(hashes).tolist()
    assert prompt.count == len(ids)


@given(
    ids=tokens,
    more=st.fixed_dictionaries({}, optional=odd),
    outer=st.dictionaries(st.sampled_from(["lease", "x", "request"]), anything, max_size=1),
    cut=st.integers(0, 40),
)
def test_what_the_models_refuse_is_left_to_them(
    ids: list[int], more: dict[str, Any], outer: dict[str, Any], cut: int
) -> None:
    whole = json.dumps({"request": asking(ids, more), **outer}).encode()
    for data in (whole, whole[:-cut], whole + b"]"):
        for message, read in (
            (SelectRequest, quick.read_select),
            (SelectAndReserveRequest, quick.read_select_and_reserve),
        ):
            try:
                message.model_validate_json(data)
            except ValidationError:
                assert read(data, SIZE) is None


@pytest.mark.parametrize(
    ("document", "read"),
    [
        ({"request": {"prompt": {"text": "hello"}}}, False),
        ({"request": {"prompt": {"blocks": {"hashes": ["1"]}}}}, False),
        ({"request": {"prompt": {"tokens": {"ids": []}}}}, False),
        ({"request": {"prompt": {"tokens": {"ids": ["1"]}}}}, False),
        ({"request": {"prompt": {"tokens": {"ids": [1]}, "text": "two"}}}, False),
        ({"request": {"prompt": {"tokens": {"ids": [1]}}, "cache_namespace": "a"}}, False),
        ({"request": {"prompt": {"tokens": {"ids": [1]}}, "lora": None}}, False),
        ({"request": {"lora": '"ids":[7]', "prompt": {"tokens": {"ids": [1]}}}}, True),
        ({"request": {"session": '"ids": [', "prompt": {"tokens": {"ids": [1]}}}}, True),
        ({"request": {"prompt": {"tokens": {"ids": [1]}}}}, True),
    ],
)
def test_which_are_read(document: dict[str, Any], read: bool) -> None:
    data = json.dumps(document).encode()
    SelectRequest.model_validate_json(data) if read else None
    assert (quick.read_select(data, SIZE) is not None) is read


@pytest.mark.parametrize(
    ("lease", "seconds"), [(None, None), ("5s", 5.0), ("1.5s", 1.5), ("5", 0), (5, 0), ("", 0)]
)
def test_leases(lease: Any, seconds: float | None) -> None:
    document = {"request": asking([1] * 20, {}), **({} if lease is None else {"lease": lease})}
    found = quick.read_select_and_reserve(json.dumps(document).encode(), SIZE)
    if seconds == 0:
        assert found is None
    else:
        assert found is not None
        assert (found[2] and found[2].total_seconds) == seconds


def test_nothing_of_the_schema_is_missing() -> None:
    """A field that is new in the schema is to be read here, too."""
    values: dict[int, Any] = {5: 1, 9: "a", 13: 1, 8: True}
    more = {
        field.json_name: [values[field.type]] if field.is_repeated else values[field.type]
        for field in RoutingRequest.__pb__.DESCRIPTOR.fields
        if field.name != "prompt"
    }
    data = json.dumps({"request": asking([1], more), "lease": "5s"}).encode()
    assert SelectAndReserveRequest.model_validate_json(data).request is not None
    assert quick.read_select_and_reserve(data, SIZE) is not None
    assert {field.encode_name for field in fields(quick.Asked)} == {*more, "prompt"}


class Patient:
    """A context without a deadline."""

    def time_remaining_s(self) -> None:
        """There is none."""


CTX: Any = Patient()


async def component(**options: Any) -> KvRouter:
    made = KvRouter(Router(block_size=SIZE, random=Random(7), **options))
    for name in ("a", "b", 'quoted "ü"'):
        worker = Worker(id=name, block_size=SIZE, dp_size=2, endpoint=f"http://{name}")
        await made.register_worker(RegisterWorkerRequest(worker=worker), CTX)
    return made


@pytest.mark.parametrize("more", [{}, {"omitScores": True}, {"policy": "random"}, {"session": "s"}])
async def test_answers_are_those_of_the_handlers(more: dict[str, Any]) -> None:
    ordinary, at_once = await component(), await component()
    answers = at_once.json_answers()
    for number in range(30):
        data = json.dumps({"request": asking([number] * 50, {**more, "requestId": f"{number}"})})
        message = SelectRequest.model_validate_json(data)
        assert answers["Select"](data.encode(), CTX) == (
            (await ordinary.select(message, CTX)).model_dump_json().encode()
        )
        told = answers["SelectAndReserve"](data.encode(), CTX)
        assert told is not None
        mine = SelectAndReserveResponse.model_validate_json(told)
        theirs = await ordinary.select_and_reserve(
            SelectAndReserveRequest.model_validate_json(data), CTX
        )
        assert mine.selection == theirs.selection
        assert mine.selection is not None
        assert bool(mine.selection.scores) is not bool(more.get("omitScores"))
        assert mine.reservation_id == theirs.reservation_id
        assert mine.expires_at is not None
        assert mine.queued is not None


async def test_who_would_wait_is_left_to_wait() -> None:
    made = await component(admission=Admission(max_active_requests=1))
    data = json.dumps({"request": asking([1] * 50, {}), "lease": "60s"}).encode()
    reserve = made.json_answers()["SelectAndReserve"]
    names = [
        SelectAndReserveResponse.model_validate_json(reserve(data, CTX) or b"{}").reservation_id
        for _ in range(6)
    ]
    assert len(set(names)) == 6
    assert "" not in names
    assert reserve(data, CTX) is None
    assert len(made.router.loads) == 6


async def test_faults_of_a_choice_are_told() -> None:
    made = await component()
    answers = made.json_answers()
    for name, more, code in (
        ("Select", {"pinnedWorkers": ["nobody"]}, Code.UNAVAILABLE),
        ("Select", {"policy": "unheard"}, Code.INVALID_ARGUMENT),
        ("SelectAndReserve", {"pinnedWorkers": ["nobody"]}, Code.UNAVAILABLE),
    ):
        data = json.dumps({"request": asking([1] * 50, more)}).encode()
        with pytest.raises(PlaneError) as failure:
            answers[name](data, CTX)
        assert failure.value.code is code
    wrong = json.dumps({"request": asking([1] * 50, {}), "lease": "0s"}).encode()
    with pytest.raises(PlaneError, match="greater than 0"):
        answers["SelectAndReserve"](wrong, CTX)
    assert len(made.router.loads) == 0


def test_shards_are_waited_for() -> None:
    assert KvRouter(shards=2).json_answers() == {}
