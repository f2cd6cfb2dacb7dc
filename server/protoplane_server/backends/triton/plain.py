"""Which messages about a model can be passed on as they are: all in them is as it should be.

Only messages that are plain are told apart here; what may be the matter with the others is for the
ordinary way to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from protoplane_server.backends.interface import ModelMetadata
from protoplane_server.backends.tensors import WIDTHS, TensorSpec


class PlainMessages:
    """Tells whether requests to a model, and its answers, are plain.

    Those of byte strings are not, as nobody would have looked where each of them begins.

    Args:
        metadata: The model.
    """

    __slots__ = ("_inputs", "_max_batch", "_outputs", "_required", "_row_bytes")

    def __init__(self, metadata: ModelMetadata) -> None:
        self._inputs = {
            spec.name: (spec, WIDTHS[spec.datatype])
            for spec in metadata.inputs
            if spec.datatype in WIDTHS and spec.shape
        }
        self._required = {spec.name for spec in metadata.inputs if not spec.optional}
        self._outputs = [spec.name for spec in metadata.outputs]
        self._max_batch = metadata.max_batch_size
        first = 1 if self._max_batch else 0
        self._row_bytes = max((_row_bytes(spec, first) for spec in metadata.outputs), default=0)

    def takes(self, request: Any, below_bytes: int) -> bool:
        """Whether a ``ModelInferRequest`` is what the model wants, and asks for nothing else.

        Args:
            request: The message.
            below_bytes: Its tensors are smaller, and those of its answer where that is known.
        """
        lengths = [len(contents) for contents in request.raw_input_contents]
        return not request.parameters and self._fits(request, lengths, below_bytes)

    def answers(self, response: Any, wanted: Sequence[str]) -> bool:
        """Whether a ``ModelInferResponse`` has the outputs that are wanted, whole and in order.

        Args:
            response: The message.
            wanted: Their names; all that the model has where empty.
        """
        outputs: Sequence[Any] = response.outputs
        raw: Sequence[bytes] = response.raw_output_contents
        names = wanted or self._outputs
        if not len(outputs) == len(raw) == len(names):
            return False
        for output, contents, name in zip(outputs, raw, names, strict=True):
            width = _WIDTHS.get(output.datatype)
            if width is None or output.name != name or prod(output.shape) * width != len(contents):
                return False
        return True

    def _fits(self, request: Any, lengths: Sequence[int], below_bytes: int) -> bool:
        found: set[str] = set()
        rows: set[int] = set()
        for tensor, length in zip(request.inputs, lengths, strict=False):
            spec, width = self._inputs.get(tensor.name, (None, 0))
            if spec is None or tensor.name in found or tensor.datatype != spec.datatype:
                return False
            shape: Sequence[int] = tensor.shape
            # What has no elements is not plain: there may be no such array.
            if not spec.fits(shape) or min(shape) < 1 or prod(shape) * width != length:
                return False
            if length >= below_bytes or tensor.parameters or tensor.HasField("contents"):
                return False
            found.add(tensor.name)
            rows.add(shape[0])
        if not len(request.inputs) == len(lengths) == len(found) or not self._required <= found:
            return False
        items = 1
        if self._max_batch:
            items = max(rows, default=0)
            if len(rows) != 1 or items > self._max_batch:
                return False
        if self._row_bytes * items >= below_bytes:
            return False
        return all(
            output.name in self._outputs and not output.parameters for output in request.outputs
        )


_WIDTHS = {datatype.value: width for datatype, width in WIDTHS.items()}


def _row_bytes(spec: TensorSpec, first: int) -> int:
    lengths = spec.shape[first:]
    return prod(lengths) * WIDTHS.get(spec.datatype, 0) if min(lengths, default=1) > 0 else 0
