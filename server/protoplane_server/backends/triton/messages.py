"""Tensors in Triton's messages, and in the shared memory that these speak of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import BackendContext, Outputs
from protoplane_server.backends.tensors import Datatype, Tensor
from protoplane_server.backends.triton.model import TritonModel
from protoplane_server.backends.triton.schema import messages
from protoplane_server.backends.triton.shared_memory import Region, aligned

FINAL = "triton_final_response"
"""The parameter of an answer that says whether it is the last."""

TIMEOUT = "timeout"
"""The parameter of a request that says how long it may take, in microseconds."""

_ANY_SIZE = (Datatype.BYTES,)
_DATATYPES = {str(each): each for each in Datatype}


# Not frozen, though nobody changes one: that would make it three times as dear to make.
@dataclass(slots=True, eq=False)
class InferCall:
    """What is asked of a model.

    Attributes:
        model: The model.
        version: Which version of it; empty for any.
        inputs: Its inputs.
        outputs: Names of the outputs that are wanted; all where empty.
        ctx: The request.
        timeout_s: How long it may take, in seconds.
    """

    model: TritonModel
    version: str
    inputs: Sequence[Tensor]
    outputs: Sequence[str]
    ctx: BackendContext
    timeout_s: float

    @property
    def timeout_us(self) -> int:
        """How long it may take, as Triton is told."""
        return max(1, int(self.timeout_s * 1_000_000))

    def shared_bytes(self, min_bytes: int) -> int:
        """Room that its large tensors want in shared memory; 0 where it has none."""
        total = 0
        for tensor in self.inputs:
            size = tensor.size_bytes or 0
            if size >= min_bytes:
                total += aligned(size)
        if not self.model.decoupled and self.model.sized:
            total += sum(
                aligned(size) for size in self._output_sizes().values() if size >= min_bytes
            )
        return total

    def message(self, region: Region | None = None, min_bytes: int = 0) -> Any:
        """The ``ModelInferRequest``.

        Args:
            region: Where tensors of ``min_bytes`` and more go; none does where absent.
            min_bytes: See there.

        Raises:
            PlaneError: INVALID_ARGUMENT; the id of its sequence is not as the model wants it.
        """
        ctx, model = self.ctx, self.model
        request = messages.ModelInferRequest(
            model_name=model.metadata.name, model_version=self.version, id=ctx.request_id
        )
        parameters = request.parameters
        parameters[TIMEOUT].int64_param = self.timeout_us
        if ctx.priority and (level := model.level(ctx.priority)):
            parameters["priority"].uint64_param = level
        if ctx.sequence is not None:
            name = model.sequence_id(ctx.sequence)
            if isinstance(name, int):
                parameters["sequence_id"].int64_param = name
            else:
                parameters["sequence_id"].string_param = name
            parameters["sequence_start"].bool_param = ctx.sequence.start
            parameters["sequence_end"].bool_param = ctx.sequence.end
        if model.decoupled:
            parameters["triton_enable_empty_final_response"].bool_param = True
        raw = request.raw_input_contents
        for tensor in self.inputs:
            added = request.inputs.add(
                name=tensor.name, datatype=tensor.datatype.value, shape=tensor.shape
            )
            size = 0 if region is None else tensor.size_bytes or 0
            if region is not None and size >= min_bytes:
                offset = region.room(size)
                region.write(tensor, offset)
                _point(added, region, offset, size)
            else:
                raw.append(tensor.pack())
        sizes = {} if region is None or model.decoupled else self._output_sizes()
        shared = {name: size for name, size in sizes.items() if size >= min_bytes}
        if self.outputs or shared:
            for name in self.outputs or [spec.name for spec in model.metadata.outputs]:
                wanted = request.outputs.add(name=name)
                if region is not None and name in shared:
                    _point(wanted, region, region.room(shared[name]), shared[name])
        return request

    def _output_sizes(self) -> dict[str, int]:
        """Bytes of the outputs whose shape is known beforehand."""
        metadata = self.model.metadata
        sizes: dict[str, int] = {}
        for spec in metadata.outputs:
            shape = list(spec.shape)
            if metadata.max_batch_size and self.inputs and self.inputs[0].shape:
                shape[0] = self.inputs[0].shape[0]
            wanted = not self.outputs or spec.name in self.outputs
            if wanted and spec.datatype not in _ANY_SIZE and all(length > 0 for length in shape):
                sizes[spec.name] = int(np.prod(shape)) * _width(spec.datatype)
        return sizes


def read_tensors(
    response: Any, call: InferCall, request: Any = None, region: Region | None = None
) -> Outputs:
    """The outputs of a ``ModelInferResponse``, in the order in which they are wanted.

    Args:
        response: The message.
        call: What was asked.
        request: The message that asked for it, where outputs are to be in a region.
        region: The region.

    Raises:
        PlaneError: INTERNAL; Triton sent what is none.
    """
    # Triton does not repeat where an output is, and sends an empty one in its place.
    places = {} if region is None else _places(request)
    raw = iter(response.raw_output_contents)
    found: dict[str, Tensor] = {}
    for output in response.outputs:
        name: str = output.name
        try:
            contents: bytes | memoryview = next(raw)
            if region is not None and name in places:
                contents = region.read(places[name])
            datatype = _DATATYPES[output.datatype]
            found[name] = Tensor.unpack(name, datatype, output.shape, contents)
        except (KeyError, StopIteration, PlaneError) as error:
            raise PlaneError(
                Code.INTERNAL, f"Triton sent an output {name!r} that cannot be read: {error}"
            ) from error
    version: str = response.model_version
    if len(found) == 1:
        return Outputs([*found.values()], version)
    names = call.outputs or [spec.name for spec in call.model.metadata.outputs]
    return Outputs([found[name] for name in names if name in found], version)


def _places(request: Any) -> dict[str, slice]:
    return {
        output.name: slice(
            offset := output.parameters["shared_memory_offset"].int64_param,
            offset + output.parameters["shared_memory_byte_size"].int64_param,
        )
        for output in request.outputs
        if "shared_memory_region" in output.parameters
    }


def _width(datatype: Datatype) -> int:
    return 2 if datatype is Datatype.BF16 else datatype.dtype.itemsize


def _point(tensor: Any, region: Region, offset: int, size: int) -> None:
    tensor.parameters["shared_memory_region"].string_param = region.name
    tensor.parameters["shared_memory_offset"].int64_param = offset
    tensor.parameters["shared_memory_byte_size"].int64_param = size
