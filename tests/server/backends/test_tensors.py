"""Tensors and their raw bytes."""

from __future__ import annotations

import math
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_server.backends.tensors import (
    Datatype,
    Tensor,
    TensorSpec,
    check_inputs,
    chosen_outputs,
)

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
numeric = [each for each in Datatype if each not in (Datatype.BYTES, Datatype.BF16)]


@settings(deadline=None)
@given(st.data(), shapes, st.sampled_from(numeric))
def test_numbers_come_back(data: st.DataObject, shape: tuple[int, ...], datatype: Datatype) -> None:
    size = math.prod(shape) * datatype.dtype.itemsize
    contents = data.draw(st.binary(min_size=size, max_size=size))
    if datatype is Datatype.BOOL:
        contents = bytes(byte & 1 for byte in contents)
    tensor = Tensor.unpack("x", datatype, shape, contents)
    assert tensor.shape == shape
    assert tensor.data.dtype == datatype.dtype
    assert tensor.pack() == contents
    if datatype is not Datatype.BOOL:
        assert Datatype.of(tensor.data) is datatype


@settings(deadline=None)
@given(shapes, st.data())
def test_byte_strings_come_back(shape: tuple[int, ...], data: st.DataObject) -> None:
    count = math.prod(shape)
    values = data.draw(st.lists(st.binary(max_size=9), min_size=count, max_size=count))
    packed = b"".join(struct.pack("<I", len(value)) + value for value in values)
    tensor = Tensor.unpack("x", Datatype.BYTES, shape, packed)
    assert tensor.shape == shape
    assert tensor.data.reshape(-1).tolist() == values
    assert tensor.pack() == packed


@settings(deadline=None)
@given(st.lists(st.floats(width=32), max_size=9))
def test_bf16_is_the_nearest_upper_half_of_a_float(values: list[float]) -> None:
    tensor = Tensor.of("x", np.array(values, np.float32), Datatype.BF16)
    back = Tensor.unpack("x", Datatype.BF16, (len(values),), tensor.pack())
    for value, read in zip(values, back.data.tolist(), strict=True):
        if math.isnan(value):
            assert math.isnan(read)
        elif math.isfinite(value) and abs(value) < 3e38:
            assert abs(read - value) <= max(abs(value) * 2.0**-8, 1e-40)
    # What has been rounded once stays as it is.
    again = Tensor.of("x", back.data, Datatype.BF16)
    assert np.array_equal(
        Tensor.unpack("x", Datatype.BF16, back.shape, again.pack()).data, back.data, equal_nan=True
    )


@pytest.mark.parametrize(
    ("value", "packed"),
    [(1.0, "803f"), (-2.0, "00c0"), (1.00390625, "803f"), (1.01171875, "823f"), (math.inf, "807f")],
)
def test_bf16_bits(value: float, packed: str) -> None:
    assert Tensor.of("x", [value], Datatype.BF16).pack().hex() == packed


@pytest.mark.parametrize(
    ("datatype", "shape", "contents", "told"),
    [
        (Datatype.FP32, (2,), bytes(7), "expected 8 bytes for FP32 [2], got 7"),
        (Datatype.FP32, (-1,), b"", "[-1]"),
        (Datatype.FP32, (1 << 62, 4), b"", "'x'"),
        (Datatype.FP32, (0, 1 << 62, 1 << 62), b"", "'x'"),
        (Datatype.BYTES, (1,), b"\x05\0\0\0abcd", "expected 1 byte strings"),
        (Datatype.BYTES, (1,), b"\x01\0\0", "expected 1 byte strings"),
        (Datatype.BYTES, (1,), b"\x01\0\0\0ab", "expected 1 byte strings"),
        (Datatype.BYTES, (1 << 40,), b"", "byte strings"),
        (Datatype.BF16, (1,), bytes(4), "expected 2 bytes"),
    ],
)
def test_contents_that_are_not_what_they_say(
    datatype: Datatype, shape: tuple[int, ...], contents: bytes, told: str
) -> None:
    with pytest.raises(PlaneError) as caught:
        Tensor.unpack("x", datatype, shape, contents)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert told in caught.value.message


@settings(deadline=None)
@given(
    st.sampled_from(list(Datatype)),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    st.binary(max_size=64),
)
def test_nothing_else_than_an_error_comes_of_nonsense(
    datatype: Datatype, shape: list[int], contents: bytes
) -> None:
    # Any other error than this one fails the test.
    with suppress(PlaneError):
        assert Tensor.unpack("x", datatype, shape, contents).shape == tuple(shape)


def test_of_takes_what_numpy_takes() -> None:
    assert Tensor.of("x", [1.5, 2.5]).datatype is Datatype.FP64
    assert Tensor.of("x", [1, 2], Datatype.INT8).pack() == b"\x01\x02"
    text = Tensor.of("x", [["a", "é"]])
    assert (text.datatype, text.shape) == (Datatype.BYTES, (1, 2))
    assert text.data[0, 1] == "é".encode()
    with pytest.raises(PlaneError, match="complex128 is no tensor"):
        Tensor.of("x", [1j])
    mixed: Any = np.array([b"a", 3], np.object_)
    with pytest.raises(PlaneError, match="expected bytes or text, got int"):
        Tensor.of("x", mixed)
    with pytest.raises(PlaneError, match="'x' cannot be FP32"):
        Tensor.of("x", ["a"], Datatype.FP32)


def test_inputs_are_checked_by_their_specs() -> None:
    specs = [
        TensorSpec("A", Datatype.FP32, (-1, 2)),
        TensorSpec("B", Datatype.INT32, (), optional=True),
    ]
    a = Tensor.of("A", [[1, 2]], Datatype.FP32)
    assert set(check_inputs("m", specs, [a])) == {"A"}
    assert set(check_inputs("m", specs, [Tensor.of("B", 3, Datatype.INT32), a])) == {"A", "B"}
    with pytest.raises(PlaneError) as caught:
        check_inputs("m", specs, [Tensor.of("A", [[1, 2, 3]], Datatype.FP32)])
    assert caught.value.message == "input 'A' of m: expected the shape [-1, 2], got [1, 3]"


def test_outputs_are_given_in_the_order_asked_for() -> None:
    a, b = Tensor.of("A", [1]), Tensor.of("B", [2])
    assert chosen_outputs("m", [a, b], []) == [a, b]
    assert chosen_outputs("m", [a, b], ["B", "A"]) == [b, a]


@pytest.mark.parametrize("datatype", list(Datatype))
def test_what_is_passed_on_stays_as_it_came(datatype: Datatype) -> None:
    contents = b"\x02\0\0\0ab" if datatype is Datatype.BYTES else bytes(range(1, 17))
    width = {Datatype.BYTES: len(contents), Datatype.BF16: 2}.get(datatype, datatype.dtype.itemsize)
    shape = (len(contents) // width,)
    tensor = Tensor.unpack("x", datatype, shape, contents)
    assert tensor.pack() is contents
    assert tensor.data.shape == tensor.shape == shape
    assert tensor.size_bytes == (None if datatype is Datatype.BYTES else 16)
    # Of a view too, which may be of memory that lives on.
    assert Tensor.unpack("x", datatype, shape, memoryview(contents)).pack() == contents
