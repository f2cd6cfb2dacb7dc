"""Requests that are handed on as they came, of both services, to a backend that is scripted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from protoplane.inference.v1.inference_pb2 import InferRequest, InferResponse
from protoplane.inference.v1.tensors_pb2 import DATA_TYPE_INT8, DATA_TYPE_UINT8
from protoplane_base import Code, Context, PlaneError
from protoplane_components.inference.relaying import UNREAD_SPEC, InferWording
from protoplane_server.backends.relay import AnswerHead
from protoplane_server.kserve.relaying import KserveWording, Relaying
from protoplane_server.kserve.schema import SPEC, messages
from protoplane_server.kserve.unread import UnreadCodec, unread

pytestmark = pytest.mark.anyio

CTX = cast(Context, None)


class Twice:
    """Takes what has one input or more, and gives each back twice, once more where it says so.

    Attributes:
        taken: The requests whose kinds were asked for.
        models: The models that there are.
        recurs: Whether answers come again.
    """

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.models = {"one": object(), "two": object()}
        self.recurs = True

    def kind(self, request: Any) -> TwiceKind | None:
        if request.model_name not in self.models or not request.inputs:
            return None
        copy = messages.ModelInferRequest()
        copy.CopyFrom(request)
        self.taken.append(copy)
        # A relay may leave others in their place.
        request.raw_input_contents[:] = [bytes(len(each)) for each in request.raw_input_contents]
        return TwiceKind(self, copy)


class TwiceKind:
    def __init__(self, relay: Twice, request: Any) -> None:
        self._relay = relay
        self._model = request.model_name
        self._is = relay.models[self._model]
        self._heads: dict[int, AnswerHead] = {}

    @property
    def current(self) -> bool:
        return self._relay.models.get(self._model) is self._is

    async def ask(self, contents: Sequence[bytes], ctx: Context) -> tuple[AnswerHead, list[bytes]]:
        # The length of an answer is not always that of the answers before.
        times = 3 if contents[0].startswith(b"!") else 2
        head = self._heads.get(times) if self._relay.recurs else None
        if head is None:
            message = messages.ModelInferResponse(model_name=self._model, model_version="4")
            for index, each in enumerate(contents):
                message.outputs.add(name=f"Y{index}", datatype="INT8", shape=[times * len(each)])
            head = self._heads[times] = AnswerHead(message, self._relay.recurs)
        return head, [each * times for each in contents]


def kserve(model: str, *contents: bytes, **more: Any) -> Any:
    request = messages.ModelInferRequest(model_name=model, raw_input_contents=contents, **more)
    for index, each in enumerate(contents):
        request.inputs.add(name=f"X{index}", datatype="UINT8", shape=[len(each)])
    return request


def ours(model: str, *contents: bytes, **more: Any) -> Any:
    request = InferRequest(model=model, **more)
    for index, each in enumerate(contents):
        request.inputs.add(
            name=f"X{index}", datatype=DATA_TYPE_UINT8, shape=[len(each)], contents=each
        )
    return request


def kserve_answer(model: str, *contents: bytes) -> Any:
    answer = messages.ModelInferResponse(
        model_name=model, model_version="4", raw_output_contents=contents
    )
    for index, each in enumerate(contents):
        answer.outputs.add(name=f"Y{index}", datatype="INT8", shape=[len(each)])
    return answer


def our_answer(model: str, *contents: bytes) -> Any:
    answer = InferResponse(model=model, version="4")
    for index, each in enumerate(contents):
        answer.outputs.add(
            name=f"Y{index}", datatype=DATA_TYPE_INT8, shape=[len(each)], contents=each
        )
    return answer


SERVICES = [
    pytest.param(KserveWording(), kserve, kserve_answer, id="kserve"),
    pytest.param(InferWording(), ours, our_answer, id="ours"),
]


@pytest.mark.parametrize(("wording", "request_of", "answer_of"), SERVICES)
@pytest.mark.parametrize("recurs", [True, False])
async def test_requests_of_a_kind(
    wording: Any, request_of: Any, answer_of: Any, recurs: bool
) -> None:
    relay = Twice()
    relay.recurs = recurs
    relaying = Relaying(relay, wording)
    # Two models with names of one length, so that their messages are as long.
    asks = [(model, (a, b)) for a, b in [(b"a", b"bc"), (b"!", b"\0\0")] for model in relay.models]
    for _ in range(3):
        for model, contents in asks:
            answering = relaying.take(request_of(model, *contents).SerializeToString(), CTX)
            assert answering is not None
            times = 3 if contents[0] == b"!" else 2
            expected = answer_of(model, *(each * times for each in contents))
            assert await answering == expected.SerializeToString()
    assert [each.model_name for each in relay.taken] == ["one", "two"]
    assert relay.taken[0] == kserve("one", b"a", b"bc")
    # A model that is another now is looked at again, and so is what is none any more.
    data = request_of("one", b"a", b"bc").SerializeToString()
    relay.models["one"] = object()
    for _ in range(2):
        answering = relaying.take(data, CTX)
        assert answering is not None
        await answering
    assert len(relay.taken) == 3
    del relay.models["one"]
    assert relaying.take(data, CTX) is None


@pytest.mark.parametrize(("wording", "request_of", "answer_of"), SERVICES)
async def test_what_is_not_taken(wording: Any, request_of: Any, answer_of: Any) -> None:
    relay = Twice()
    relaying = Relaying(relay, wording)
    known = request_of("one", b"abc").SerializeToString()
    for data in (
        b"",
        b"\xff",
        known[:-1],
        request_of("nobody", b"abc").SerializeToString(),
        request_of("one", bytes(1 << 19)).SerializeToString(),
        # The name twice; the last one stands, and nobody encodes it so.
        request_of("six").SerializeToString() + known,
    ):
        assert relaying.take(data, CTX) is None
    # Many of one length, and of many: those before are forgotten, not mistaken.
    for size in range(1, 400):
        for name in ("X", "Z"):
            request = request_of("one", b"x" * size)
            request.inputs[0].name = name
            answering = relaying.take(request.SerializeToString(), CTX)
            assert answering is not None
            expected = answer_of("one", b"x" * 2 * size)
            assert await answering == expected.SerializeToString()


async def test_large_ones_are_learnt_when_one_as_long_comes_again() -> None:
    relay = Twice()
    relaying = Relaying(relay, KserveWording())
    for size in (5000, 6000):
        data = kserve("one", bytes(size)).SerializeToString()
        assert relaying.take(data, CTX) is None
    assert not relay.taken
    for size in (5000, 6000):
        answering = relaying.take(kserve("one", b"x" * size).SerializeToString(), CTX)
        assert answering is not None
        assert await answering == kserve_answer("one", b"x" * 2 * size).SerializeToString()
    # Of that many lengths the first are forgotten.
    for size in range(10_000, 12_000):
        assert relaying.take(kserve("one", bytes(size)).SerializeToString(), CTX) is None
    assert len(relay.taken) == 2


async def test_fields_that_nobody_knows_go_no_further() -> None:
    unknown = b"\xfa\x3f\x03abc"  # Number 1023.
    relay = Twice()
    request = kserve("one", b"abc")
    data = request.SerializeToString() + unknown
    assert relay.kind(messages.ModelInferRequest.FromString(data)) is not None
    relaying = Relaying(relay, KserveWording())
    assert relaying.take(data, CTX) is None
    nested = messages.ModelInferRequest.FromString(request.SerializeToString())
    nested.inputs[0].MergeFromString(unknown)
    assert relaying.take(nested.SerializeToString(), CTX) is None
    relaying = Relaying(relay, InferWording())
    answering = relaying.take(ours("one", b"abc").SerializeToString() + unknown, CTX)
    assert answering is not None
    assert await answering == our_answer("one", b"abcabc").SerializeToString()
    assert relay.taken[-1] == request


async def test_an_infer_that_kserve_cannot_say() -> None:
    relay = Twice()
    relaying = Relaying(relay, InferWording())
    for request in (ours("one", b"abc", priority=1), ours("one", b"abc", sequence={"id": "1"})):
        assert relaying.take(request.SerializeToString(), CTX) is None
    request = ours("one", b"abc", version="3", outputs=["Y0"])
    request.inputs[0].datatype = 77
    answering = relaying.take(request.SerializeToString(), CTX)
    assert answering is not None
    assert await answering == our_answer("one", b"abcabc").SerializeToString()
    [asked] = relay.taken
    assert (asked.model_version, [each.name for each in asked.outputs]) == ("3", ["Y0"])
    assert not asked.inputs[0].datatype


def test_messages_that_are_left_unread() -> None:
    for method in (SPEC.methods["ModelInfer"], UNREAD_SPEC.methods["Infer"]):
        infer = unread(method, "handler")
        assert (infer.python_name, infer.path) == ("handler", method.path)
        assert infer.request.from_bytes(b"\xff") == b"\xff"
        assert infer.response.to_bytes(b"\xff") == b"\xff"
    codec = UnreadCodec(SPEC.methods["ModelInfer"].request)
    request = kserve("one", b"abc")
    data = request.SerializeToString()
    assert codec.read(data) == codec.read(request) == codec.from_pb(request) == request
    assert codec.to_bytes(request) == codec.to_bytes(data) == data
    assert codec.to_pb(data) == request
    text = codec.model_dump_json(data)
    assert codec.model_validate_json(text) == request
    for read in (codec.read, codec.to_pb, codec.model_dump_json):
        with pytest.raises(PlaneError, match="cannot be decoded") as caught:
            read(b"\xff")
        assert caught.value.code is Code.INVALID_ARGUMENT
