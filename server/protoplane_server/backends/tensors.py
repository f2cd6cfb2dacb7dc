"""Tensors: named numpy arrays with a datatype of KServe's v2 protocol, and their raw bytes.

Two datatypes have no counterpart in numpy. BYTES are arrays of ``object`` that hold ``bytes``, and
BF16 are arrays of float32 whose values are rounded to bfloat16 when they are packed. Source: the
binary tensor data extension of Triton, which KServe's ``raw_input_contents`` follow.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from protoplane_base import Code, PlaneError

Array = NDArray[Any]
"""A numpy array of any type."""


class Datatype(StrEnum):
    """The type of a tensor's elements, by its name in KServe's v2 protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"
    BF16 = "BF16"

    @property
    def dtype(self) -> np.dtype[Any]:
        """What an array of it has, little-endian."""
        return _DTYPES[self]

    @classmethod
    def of(cls, array: Array) -> Datatype:
        """The datatype of an array.

        Raises:
            PlaneError: INVALID_ARGUMENT; there is none, as for complex numbers.
        """
        if array.dtype.kind in "OSU":
            return cls.BYTES
        found = _BY_DTYPE.get(array.dtype.newbyteorder("<"))
        if found is None:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"an array of {array.dtype} is no tensor; the datatypes are {', '.join(cls)}",
            )
        return found


_DTYPES: dict[Datatype, np.dtype[Any]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype("u1"),
    Datatype.UINT16: np.dtype("<u2"),
    Datatype.UINT32: np.dtype("<u4"),
    Datatype.UINT64: np.dtype("<u8"),
    Datatype.INT8: np.dtype("i1"),
    Datatype.INT16: np.dtype("<i2"),
    Datatype.INT32: np.dtype("<i4"),
    Datatype.INT64: np.dtype("<i8"),
    Datatype.FP16: np.dtype("<f2"),
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
    Datatype.BYTES: np.dtype(np.object_),
    Datatype.BF16: np.dtype("<f4"),
}
_BY_DTYPE = {
    dtype: datatype for datatype, dtype in _DTYPES.items() if datatype is not Datatype.BF16
}


class Tensor:
    """A named array; nobody changes its data.

    One that was read from raw contents keeps these, and is an array once somebody asks for it: what
    is only passed on is neither converted nor copied.

    Args:
        name: What the model calls it.
        datatype: Type of its elements.
        data: They, with the dtype of the datatype and any shape.

    Attributes:
        name: What the model calls it.
        datatype: Type of its elements.
        shape: Length of each axis.
    """

    __slots__ = ("_contents", "_data", "datatype", "name", "shape")

    def __init__(self, name: str, datatype: Datatype, data: Array) -> None:
        self.name = name
        self.datatype = datatype
        self.shape: tuple[int, ...] = data.shape
        self._data: Array | None = data
        self._contents: bytes | memoryview | None = None

    @classmethod
    def of(cls, name: str, values: object, datatype: Datatype | None = None) -> Self:
        """A tensor of an array, or of what numpy makes one of.

        Args:
            name: Its name.
            values: Numbers, ``bytes`` or ``str`` (as UTF-8), nested as the shape is.
            datatype: Type of its elements; that of the array where absent.

        Raises:
            PlaneError: INVALID_ARGUMENT; the values are no tensor.
        """
        array: Array = np.asarray(values)
        chosen = datatype or Datatype.of(array)
        if chosen is Datatype.BYTES:
            return cls(name, chosen, _as_bytes(name, array))
        try:
            return cls(name, chosen, array.astype(chosen.dtype, copy=False))
        except (TypeError, ValueError) as error:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"tensor {name!r} cannot be {chosen}: {error}"
            ) from error

    @property
    def data(self) -> Array:
        """Its elements."""
        if self._data is None:
            assert self._contents is not None
            self._data = _array(self.datatype, self.shape, self._contents)
        return self._data

    @property
    def size_bytes(self) -> int | None:
        """Length of what `pack` gives; ``None`` for BYTES, of which it is not known before."""
        width = WIDTHS.get(self.datatype)
        return None if width is None else math.prod(self.shape) * width

    def pack(self) -> bytes:
        """Its elements in row-major order, little-endian, without padding.

        Each of BYTES stands after its length, a little-endian uint32.
        """
        if self._contents is not None:
            return bytes(self._contents)
        data = self.data
        if self.datatype is Datatype.BYTES:
            flat: list[bytes] = data.reshape(-1).tolist()
            return b"".join(struct.pack("<I", len(each)) + each for each in flat)
        if self.datatype is Datatype.BF16:
            return _to_bf16(data).tobytes()
        return data.astype(self.datatype.dtype, copy=False).tobytes()

    @classmethod
    def unpack(
        cls, name: str, datatype: Datatype, shape: Sequence[int], contents: bytes | memoryview
    ) -> Self:
        """Read what `pack` writes; the data may share the memory of ``contents``.

        Raises:
            PlaneError: INVALID_ARGUMENT; the contents do not have as many elements as the shape
                says, or the shape is none.
        """
        lengths = tuple(shape)
        if lengths and min(lengths) < 0:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"tensor {name!r} has the shape {_text(shape)}; no axis is "
                "shorter than 0",
            )  # fmt: skip
        count = math.prod(lengths)
        tensor = cls.__new__(cls)
        tensor.name = name
        tensor.datatype = datatype
        tensor.shape = lengths
        tensor._contents = contents
        tensor._data = None
        width = WIDTHS.get(datatype)
        if width is not None and len(contents) != count * width:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"tensor {name!r}: expected {count * width} bytes for {datatype} "
                f"{_text(shape)}, got {len(contents)}",
            )
        if width is None or not count or len(lengths) > _PLAIN_AXES:
            # Byte strings are where they say or not, and numpy may not take such a shape: now is
            # the time to know.
            flat = _split(name, count, bytes(contents)) if width is None else None
            try:
                tensor._data = (
                    _array(datatype, lengths, contents) if flat is None else flat.reshape(lengths)
                )
            except ValueError as error:
                raise PlaneError(
                    Code.INVALID_ARGUMENT, f"tensor {name!r} has the shape {_text(shape)}: {error}"
                ) from error
        return tensor


_PLAIN_AXES = 8
"""Up to so many, none of length 0, there is an array of every shape that contents are long for."""

WIDTHS: dict[Datatype, int] = {
    datatype: 2 if datatype is Datatype.BF16 else dtype.itemsize
    for datatype, dtype in _DTYPES.items()
    if datatype is not Datatype.BYTES
}
"""Bytes of an element in raw contents."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model expects of an input, or promises of an output.

    Attributes:
        name: What the model calls it.
        datatype: Type of its elements.
        shape: Length of each axis, -1 for any; with the batch, where there is one.
        optional: Whether it may be left out.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    optional: bool = False

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor may have this shape."""
        if len(shape) != len(self.shape):
            return False
        # No generator: this is asked of every tensor of every request.
        for wanted, got in zip(self.shape, shape, strict=True):  # noqa: SIM110
            if wanted not in (-1, got):
                return False
        return True


def check_inputs(
    model: str, specs: Sequence[TensorSpec], inputs: Sequence[Tensor]
) -> dict[str, Array]:
    """Make sure that tensors are what a model takes; gives their data by name.

    Raises:
        PlaneError: INVALID_ARGUMENT with the tensor, what was expected of it and what it is.
    """
    return {name: tensor.data for name, tensor in match_inputs(model, specs, inputs).items()}


def match_inputs(
    model: str, specs: Sequence[TensorSpec], inputs: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Make sure that tensors are what a model takes, as `check_inputs`; makes no arrays of them.

    Raises:
        PlaneError: See `check_inputs`.
    """
    wanted = {spec.name: spec for spec in specs}
    found: dict[str, Tensor] = {}
    for tensor in inputs:
        spec = wanted.get(tensor.name)
        if spec is None:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{model} has no input {tensor.name!r}; expected {', '.join(wanted) or 'none'}",
            )
        if tensor.name in found:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"input {tensor.name!r} of {model}: expected one, got two"
            )
        if tensor.datatype is not spec.datatype:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"input {tensor.name!r} of {model}: expected {spec.datatype}, "
                f"got {tensor.datatype}",
            )
        if not spec.fits(tensor.shape):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"input {tensor.name!r} of {model}: expected the shape {_text(spec.shape)}, "
                f"got {_text(tensor.shape)}",
            )
        found[tensor.name] = tensor
    missing = [spec.name for spec in specs if not spec.optional and spec.name not in found]
    if missing:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"input {missing[0]!r} of {model} is missing; expected {', '.join(wanted)}, "
            f"got {', '.join(found) or 'none'}",
        )
    return found


def chosen_outputs(model: str, outputs: Sequence[Tensor], names: Sequence[str]) -> Sequence[Tensor]:
    """The outputs of these names, in their order; all of them where there are no names.

    Raises:
        PlaneError: INVALID_ARGUMENT; the model has no output of a name.
    """
    if not names:
        return outputs
    by_name = {tensor.name: tensor for tensor in outputs}
    for name in names:
        if name not in by_name:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{model} has no output {name!r}; expected {', '.join(by_name)}",
            )
    return [by_name[name] for name in names]


def _array(datatype: Datatype, shape: tuple[int, ...], contents: bytes | memoryview) -> Array:
    if datatype is Datatype.BF16:
        halves = np.frombuffer(contents, "<u2")
        return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(shape)
    found: Array = np.frombuffer(contents, datatype.dtype).reshape(shape)
    return found


def _text(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _as_bytes(name: str, array: Array) -> Array:
    data: Array = np.empty(array.shape, np.object_)
    for index, each in enumerate(array.reshape(-1).tolist()):
        if isinstance(each, str):
            data.flat[index] = each.encode()
        elif isinstance(each, bytes):
            data.flat[index] = each
        else:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"tensor {name!r}: expected bytes or text, got {type(each).__name__}",
            )
    return data


def _split(name: str, count: int, contents: bytes) -> Array:
    # A count that the contents cannot hold is refused before memory is spent on it.
    whole = len(contents) >= 4 * count
    data: Array = np.empty(count if whole else 0, np.object_)
    at = 0
    for index in range(len(data)):
        end = at + 4
        if end <= len(contents):
            end += int.from_bytes(contents[at:end], "little")
        if end > len(contents):
            whole = False
            break
        data[index] = contents[at + 4 : end]
        at = end
    if not whole or at != len(contents):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"tensor {name!r}: expected {count} byte strings, each after its length in 4 bytes; "
            f"its {len(contents)} bytes are not that",
        )
    return data


def _to_bf16(values: Array) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    # To the nearest, halves to the even one; a NaN must not become an infinity.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype("<u2")
