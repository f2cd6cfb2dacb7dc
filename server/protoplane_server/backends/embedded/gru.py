"""A gated recurrent unit over characters, one step of many texts at a time.

A text must come out the same whatever else is in its batch, but a matrix product adds in another
order for another number of rows, and floats then differ. So both sides of each product are rounded
to whole numbers so small that every sum is exact in float32 (below 2**24): any order gives the same
bits. Source of the unit: Cho et al. 2014, with the reset gate after the product, as cuDNN has it.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from protoplane_base import Code, PlaneError
from protoplane_server.backends.embedded.vocabulary import SIZE

Floats = NDArray[np.float32]
Indexes = NDArray[np.intp]

_WEIGHT_STEPS = 127
_STATE_STEPS = 511
MAX_HIDDEN = (1 << 24) // (_WEIGHT_STEPS * _STATE_STEPS)
"""Most hidden units for which the sums are exact."""

# What numpy raises for bytes that are none of its files, or broken ones.
_UNREADABLE = (
    AttributeError,
    EOFError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)

_NAMES = ("input", "recurrent", "candidate_bias", "output", "output_bias")


class _Product(NamedTuple):
    """A matrix of whole numbers, and what each column of a product is to be multiplied by."""

    whole: Floats
    scale: Floats

    @classmethod
    def of(cls, weights: Floats) -> Self:
        step = np.maximum(np.abs(weights).max(axis=0), np.float32(1e-12)) / _WEIGHT_STEPS
        return cls(np.ascontiguousarray(np.rint(weights / step)), step / np.float32(_STATE_STEPS))

    def of_states(self, rounded: Floats) -> Floats:
        product: Floats = rounded @ self.whole
        return np.multiply(product, self.scale, out=product)


class CharGru:
    """The network; calls of it may be made in any thread, and hold nothing.

    Args:
        weights: Arrays of these names, with ``h`` hidden units: ``input`` ``[SIZE, 3 h]`` (what
            each token adds to the reset gate, the update gate and the candidate), ``recurrent``
            ``[h, 3 h]``, ``candidate_bias`` ``[h]``, ``output`` ``[h, SIZE]`` and ``output_bias``
            ``[SIZE]``.

    Raises:
        PlaneError: INVALID_ARGUMENT; an array is missing, or has another shape.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.floating]]) -> None:
        missing = [name for name in _NAMES if name not in weights]
        if missing:
            raise _no_model(f"it has no array {missing[0]!r}; expected {', '.join(_NAMES)}")
        whole = {name: weights[name].astype(np.float32) for name in _NAMES}
        self.hidden = hidden = whole["candidate_bias"].size
        if not 0 < hidden <= MAX_HIDDEN:
            raise _no_model(f"it has {hidden} hidden units; 1 to {MAX_HIDDEN} are possible")
        shapes = ((SIZE, 3 * hidden), (hidden, 3 * hidden), (hidden,), (hidden, SIZE), (SIZE,))
        for name, shape in zip(_NAMES, shapes, strict=True):
            if whole[name].shape != shape:
                raise _no_model(f"{name}: expected the shape {shape}, got {whole[name].shape}")
            if not np.isfinite(whole[name]).all():
                raise _no_model(f"{name} holds numbers that are not finite")
        self.parameters = sum(each.size for each in whole.values())
        self._input = whole["input"]
        self._recurrent = _Product.of(whole["recurrent"])
        self._candidate_bias = whole["candidate_bias"]
        self._output = _Product.of(whole["output"])
        self._output_bias = whole["output_bias"]

    @classmethod
    def load(cls, file: Path | IO[bytes]) -> Self:
        """Read the weights from an npz file; it blocks.

        Raises:
            PlaneError: INVALID_ARGUMENT where it is no such file; NOT_FOUND; FAILED_PRECONDITION
                where it may not be read.
        """
        if isinstance(file, Path):
            try:
                with file.open("rb") as opened:
                    return cls.load(opened)
            except OSError as error:
                code = Code.NOT_FOUND if not file.exists() else Code.FAILED_PRECONDITION
                raise PlaneError(
                    code, f"the model file {file.name!r} cannot be read: {error.strerror}"
                ) from error
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return cls({name: arrays[name] for name in _NAMES if name in arrays})
        except _UNREADABLE as error:
            raise _no_model("it is no npz file of numbers") from error

    def start(self, texts: int) -> Floats:
        """States of texts that have not begun, ``[texts, hidden]``."""
        return np.zeros((texts, self.hidden), np.float32)

    def step(self, states: Floats, tokens: Indexes) -> Floats:
        """States after one more token of each text, ``[texts, hidden]``."""
        hidden = self.hidden
        read = self._input[tokens]
        pushed = self._recurrent.of_states(_rounded(states))
        gates = read[:, : 2 * hidden] + pushed[:, : 2 * hidden]
        gates *= np.float32(0.5)
        np.tanh(gates, out=gates)
        gates += np.float32(1)
        gates *= np.float32(0.5)
        candidate = pushed[:, 2 * hidden :] + self._candidate_bias
        candidate *= gates[:, :hidden]
        candidate += read[:, 2 * hidden :]
        np.tanh(candidate, out=candidate)
        # The state is kept to as much of itself as the update gate says.
        return cast("Floats", candidate + gates[:, hidden:] * (states - candidate))

    def scores(self, states: Floats) -> Floats:
        """How likely each next token is, as logits, ``[texts, SIZE]``."""
        return self._output.of_states(_rounded(states)) + self._output_bias


def _rounded(states: Floats) -> Floats:
    scaled = np.multiply(states, np.float32(_STATE_STEPS))
    return np.rint(scaled, out=scaled)


def _no_model(what: str) -> PlaneError:
    return PlaneError(
        Code.INVALID_ARGUMENT,
        f"the file holds no character model: {what}; tools/train_embedded.py makes one",
    )
