"""What is plain the ordinary way takes as well, and it takes all that differs in contents alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from protoplane_server.backends.interface import ModelMetadata
from protoplane_server.backends.tensors import WIDTHS, Datatype, TensorSpec, match_inputs
from protoplane_server.backends.triton.plain import PlainMessages
from protoplane_server.kserve.schema import messages
from protoplane_server.kserve.tensors import tensors_in

MODEL = ModelMetadata(
    "m",
    "test",
    frozenset(),
    inputs=(
        TensorSpec("A", Datatype.FP32, (-1, -1)),
        TensorSpec("B", Datatype.INT8, (-1, 2)),
        TensorSpec("C", Datatype.BF16, (-1, 1), optional=True),
    ),
    outputs=(TensorSpec("Y", Datatype.FP32, (-1, 3)), TensorSpec("Z", Datatype.BYTES, (-1, 1))),
    max_batch_size=4,
)
ANY = 1 << 62
Given = tuple[str, Datatype, Sequence[int], int]

fits: st.SearchStrategy[list[Given]] = st.tuples(
    st.integers(1, 4), st.integers(1, 5), st.booleans(), st.randoms()
).map(
    lambda drawn: drawn[3].sample(
        given := [
            ("A", Datatype.FP32, (drawn[0], drawn[1]), 4 * drawn[0] * drawn[1]),
            ("B", Datatype.INT8, (drawn[0], 2), 2 * drawn[0]),
            *([("C", Datatype.BF16, (drawn[0], 1), 2 * drawn[0])] if drawn[2] else []),
        ],
        len(given),
    )
)
anything = st.lists(
    st.tuples(
        st.sampled_from("ABCD"),
        st.sampled_from([Datatype.FP32, Datatype.INT8, Datatype.BF16, Datatype.BYTES]),
        st.lists(st.integers(-1, 6), max_size=3),
        st.integers(0, 24),
    ),
    max_size=4,
)


def asked(tensors: Sequence[Given], fill: bytes = b"\0", outputs: Sequence[str] = ()) -> Any:
    request = messages.ModelInferRequest(model_name="m")
    for name, datatype, shape, size in tensors:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(fill * size)
    for name in outputs:
        request.outputs.add(name=name)
    return request


@given(fits)
def test_what_fits_is_taken_and_again_with_other_contents(tensors: list[Given]) -> None:
    plain = PlainMessages(MODEL)
    for fill in (b"\0", b"\1", b"\0"):
        assert plain.takes(asked(tensors, fill), ANY)
        assert plain.takes(asked(tensors, fill, ["Z", "Y"]), ANY)
        assert not plain.takes(asked(tensors, fill, ["X"]), ANY)


@given(st.lists(fits | anything, min_size=1, max_size=5))
def test_what_is_taken_fits(requests: list[list[Given]]) -> None:
    plain = PlainMessages(MODEL)
    for tensors in requests:
        request = asked(tensors)
        if plain.takes(request, ANY):
            read = tensors_in(request)
            match_inputs("m", MODEL.inputs, read)
            assert 0 < read[0].shape[0] <= MODEL.max_batch_size
            assert len({tensor.shape[0] for tensor in read}) == 1


@given(fits)
def test_large_tensors_are_not_taken(tensors: list[Given]) -> None:
    largest = max(size for *_, size in tensors)
    # Y takes 12 bytes for each row.
    answered = 12 * tensors[0][2][0]
    for below in (largest, answered):
        assert not PlainMessages(MODEL).takes(asked(tensors), below)
    assert PlainMessages(MODEL).takes(asked(tensors), max(largest, answered) + 1)


def answered(*outputs: tuple[str, str, Sequence[int], bytes]) -> Any:
    response = messages.ModelInferResponse()
    for name, datatype, shape, contents in outputs:
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(contents)
    return response


def test_answers() -> None:
    plain = PlainMessages(MODEL)
    y, z = ("Y", "FP32", (1, 3), bytes(12)), ("Z", "BYTES", (1, 1), bytes(4))
    assert plain.answers(answered(y), ["Y"])
    assert plain.answers(answered(("Y", "BF16", (2, 0), b"")), ["Y"])
    for wrong in (
        answered(z),
        answered(y, y),
        answered(("Y", "FP32", (1, 3), bytes(11))),
        answered(("Y", "FP33", (1, 3), bytes(12))),
        answered(("X", "FP32", (1, 3), bytes(12))),
        answered(),
    ):
        assert not plain.answers(wrong, ["Y"])
    # Nobody has looked at the byte strings.
    assert not plain.answers(answered(y, z), [])
    without = answered(y)
    del without.raw_output_contents[:]
    assert not plain.answers(without, ["Y"])


def test_every_datatype_of_one_size() -> None:
    for datatype, width in WIDTHS.items():
        model = ModelMetadata(
            "m", "test", frozenset(), inputs=(TensorSpec("A", datatype, (-1, 2)),)
        )
        shape = (3, 2)
        request = asked([("A", datatype, shape, prod(shape) * width)])
        assert PlainMessages(model).takes(request, ANY)
        assert not PlainMessages(model).takes(
            asked([("A", datatype, shape, prod(shape) * width + 1)]), ANY
        )
