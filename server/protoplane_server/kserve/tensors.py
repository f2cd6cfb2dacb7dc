"""Between the protocol's messages and the values of backends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import Capability, ModelMetadata
from protoplane_server.backends.tensors import Datatype, Tensor, TensorSpec
from protoplane_server.kserve.schema import messages

_CONTENTS = {
    Datatype.BOOL: "bool_contents",
    Datatype.UINT8: "uint_contents",
    Datatype.UINT16: "uint_contents",
    Datatype.UINT32: "uint_contents",
    Datatype.UINT64: "uint64_contents",
    Datatype.INT8: "int_contents",
    Datatype.INT16: "int_contents",
    Datatype.INT32: "int_contents",
    Datatype.INT64: "int64_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
    Datatype.BYTES: "bytes_contents",
}

_DATATYPES = {str(each): each for each in Datatype}

# What a tensor or an output may be asked to be, and is not here.
_UNKNOWN_SETTINGS = {
    "shared_memory_region": "there is no shared memory here; send its contents",
    "classification": "classes are not counted here; take the tensor",
}


def datatype_of(name: str, text: str) -> Datatype:
    """The datatype of a tensor, by its name in the protocol.

    Raises:
        PlaneError: INVALID_ARGUMENT; there is none of that name.
    """
    found = _DATATYPES.get(text)
    if found is None:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"tensor {name!r} has the datatype {text!r}; expected one of {', '.join(Datatype)}",
        )
    return found


def tensors_in(request: Any) -> list[Tensor]:
    """Tensors of a ``ModelInferRequest``.

    Raises:
        PlaneError: INVALID_ARGUMENT with the tensor, what was expected of it and what it is;
            UNIMPLEMENTED for one that lies in shared memory.
    """
    inputs: Sequence[Any] = list(request.inputs)
    raw: Sequence[bytes] = list(request.raw_input_contents)
    if raw and len(raw) != len(inputs):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"raw_input_contents: expected {len(inputs)}, one for each input, got {len(raw)}",
        )
    found: list[Tensor] = []
    for index, each in enumerate(inputs):
        check_settings(each)
        name: str = each.name
        datatype = datatype_of(name, each.datatype)
        if not raw:
            found.append(_typed(each, datatype))
        elif each.HasField("contents"):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"input {name!r} has contents, and there are raw_input_contents; send either",
            )
        else:
            found.append(Tensor.unpack(name, datatype, each.shape, raw[index]))
    return found


def check_settings(tensor: Any) -> None:
    """Make sure that nothing is asked of an input or an output that is not to be had here.

    Raises:
        PlaneError: UNIMPLEMENTED.
    """
    parameters = tensor.parameters
    if not parameters:
        return
    for setting, why in _UNKNOWN_SETTINGS.items():
        if setting in parameters:
            raise PlaneError(Code.UNIMPLEMENTED, f"tensor {tensor.name!r} has {setting}: {why}")


def add_outputs(response: Any, tensors: Sequence[Tensor]) -> None:
    """Put tensors into a ``ModelInferResponse``."""
    add, contents = response.outputs.add, response.raw_output_contents
    for tensor in tensors:
        add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        contents.append(tensor.pack())


def metadata_of(model: ModelMetadata) -> Any:
    """A model as ``ModelMetadataResponse``."""

    def tensor(spec: TensorSpec) -> Any:
        return messages.ModelMetadataResponse.TensorMetadata(
            name=spec.name, datatype=spec.datatype, shape=spec.shape
        )

    return messages.ModelMetadataResponse(
        name=model.name,
        versions=[model.version] if model.version else [],
        platform=model.platform,
        inputs=[tensor(spec) for spec in model.inputs],
        outputs=[tensor(spec) for spec in model.outputs],
    )


def config_of(model: ModelMetadata, backend: str) -> Any:
    """A model as ``ModelConfig``, whose shapes leave the batch out."""
    batched = model.max_batch_size > 0
    # One that also answers once is not decoupled, as clients take that to mean streams alone.
    streams_alone = (
        Capability.INFER_STREAM in model.capabilities and Capability.INFER not in model.capabilities
    )

    def fields(spec: TensorSpec) -> dict[str, Any]:
        name = "STRING" if spec.datatype is Datatype.BYTES else spec.datatype.value
        dims = spec.shape[1:] if batched else spec.shape
        return {"name": spec.name, "data_type": f"TYPE_{name}", "dims": dims}

    return messages.ModelConfig(
        name=model.name,
        platform=model.platform,
        backend=backend,
        max_batch_size=model.max_batch_size,
        input=[
            messages.ModelInput(**fields(spec), optional=spec.optional) for spec in model.inputs
        ],
        output=[messages.ModelOutput(**fields(spec)) for spec in model.outputs],
        model_transaction_policy={"decoupled": streams_alone},
    )


def _typed(tensor: Any, datatype: Datatype) -> Tensor:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"input {tensor.name!r}: contents have no field for {datatype}; send "
            "raw_input_contents",
        )
    values = getattr(tensor.contents, field)
    return shaped(tensor.name, datatype, tensor.shape, values)


def shaped(name: str, datatype: Datatype, shape: Sequence[int], values: Sequence[object]) -> Tensor:
    """A tensor of elements one after the other.

    Raises:
        PlaneError: INVALID_ARGUMENT; there are too few or too many of them, or one does not fit.
    """
    expected = math.prod(shape)
    if any(length < 0 for length in shape) or len(values) != expected:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"tensor {name!r}: expected {expected} elements for the shape {list(shape)}, "
            f"got {len(values)}",
        )
    try:
        if datatype is Datatype.BYTES:
            flat = np.empty(len(values), np.object_)
            flat[:] = values
        else:
            flat = np.array(values, datatype.dtype)
        # There are shapes without elements that numpy does not take.
        array = flat.reshape(tuple(shape))
    except (OverflowError, TypeError, ValueError) as error:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"tensor {name!r} cannot be {datatype}: {error}"
        ) from error
    return Tensor.of(name, array, datatype)
