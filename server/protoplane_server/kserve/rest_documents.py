"""The JSON that the protocol's REST paths take and give, with tensors in binary where asked.

Pure: bytes to messages and back. Source: the Open Inference Protocol's REST page, and Triton's
binary tensor data extension.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from pydantic import (
    BaseModel,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from protoplane_base import Code, PlaneError
from protoplane_server.backends.tensors import Datatype, Tensor
from protoplane_server.errors import from_validation_error
from protoplane_server.kserve.schema import messages
from protoplane_server.kserve.tensors import datatype_of, shaped

_Parameters = dict[str, StrictBool | StrictInt | StrictFloat | StrictStr]
_BINARY_SIZE = "binary_data_size"
_BINARY_OUTPUTS = "binary_data_output"
_BINARY = "binary_data"
_INTEGERS = "iu"


class _Input(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    parameters: _Parameters = Field(default_factory=dict[str, bool | int | float | str])
    data: list[Any] | None = None


class _Output(BaseModel):
    name: str
    parameters: _Parameters = Field(default_factory=dict[str, bool | int | float | str])


class _Infer(BaseModel):
    id: str = ""
    parameters: _Parameters = Field(default_factory=dict[str, bool | int | float | str])
    inputs: list[_Input]
    outputs: list[_Output] = Field(default_factory=list[_Output])


class _Index(BaseModel):
    ready: bool = False


class _Change(BaseModel):
    parameters: _Parameters = Field(default_factory=dict[str, bool | int | float | str])


class InferDocument:
    """The body of an inference request.

    Args:
        body: The body.
        header_bytes: How much of it is JSON; the rest are tensors. ``None`` for all.

    Raises:
        PlaneError: INVALID_ARGUMENT with the field or the tensor, what was expected and what came.
    """

    def __init__(self, body: bytes, header_bytes: int | None) -> None:
        if header_bytes is not None and header_bytes > len(body):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"inference-header-content-length is {header_bytes}, and the body has "
                f"{len(body)} bytes",
            )
        text, binary = (body, b"") if header_bytes is None else _split(body, header_bytes)
        self._document = _read(_Infer, text)
        self._binary = binary

    def request(self, model: str, version: str) -> Any:
        """The request as a ``ModelInferRequest``."""
        document = self._document
        request = messages.ModelInferRequest(
            model_name=model, model_version=version, id=document.id
        )
        _set(request.parameters, document.parameters, {_BINARY_OUTPUTS})
        at = 0
        for each in document.inputs:
            added = request.inputs.add(name=each.name, datatype=each.datatype)
            _set(added.parameters, each.parameters, {_BINARY_SIZE})
            try:
                added.shape.extend(each.shape)
            except ValueError as error:
                raise PlaneError(Code.INVALID_ARGUMENT, f"tensor {each.name!r}: {error}") from None
            size = each.parameters.get(_BINARY_SIZE)
            if size is None:
                request.raw_input_contents.append(_packed(each))
                continue
            if not isinstance(size, int) or size < 0 or each.data is not None:
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"tensor {each.name!r} has {_BINARY_SIZE} {size!r}; expected a number of "
                    "bytes, and no data beside them",
                )
            request.raw_input_contents.append(self._binary[at : at + size])
            at += size
        if at != len(self._binary):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{len(self._binary)} bytes stand after the JSON; the inputs have {at}",
            )
        for output in document.outputs:
            added = request.outputs.add(name=output.name)
            _set(added.parameters, output.parameters, {_BINARY})
        return request

    def answer(self, response: Any) -> tuple[bytes, int | None]:
        """The body of an answer, and how much of it is JSON; ``None`` for all.

        Raises:
            PlaneError: INVALID_ARGUMENT; an output is not text, and was not asked for in binary.
        """
        document = self._document
        default = document.parameters.get(_BINARY_OUTPUTS) is True
        asked = {
            output.name: output.parameters.get(_BINARY, default) is True
            for output in document.outputs
        }
        outputs: list[dict[str, Any]] = []
        binary: list[bytes] = []
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
            shown: dict[str, Any] = {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
            }
            if asked.get(tensor.name, default):
                shown["parameters"] = {_BINARY_SIZE: len(raw)}
                binary.append(raw)
            else:
                shown["data"] = _data(tensor, raw)
            outputs.append(shown)
        answer: dict[str, Any] = {"model_name": response.model_name, "outputs": outputs}
        if response.model_version:
            answer["model_version"] = response.model_version
        if response.id:
            answer["id"] = response.id
        head = encode(answer)
        return b"".join((head, *binary)), len(head) if binary else None


def read_index(body: bytes) -> Any:
    """The body of a request for the index, which may be empty."""
    return messages.RepositoryIndexRequest(ready=_read(_Index, body or b"{}").ready)


def read_change(type_: Any, model: str, body: bytes) -> Any:
    """The body of a load or an unload, which may be empty."""
    request = type_(model_name=model)
    _set(request.parameters, _read(_Change, body or b"{}").parameters, ())
    return request


def document_of(message: Any) -> dict[str, Any]:
    """A message as the protocol's JSON has it: all fields by their names, numbers as numbers."""
    return {
        field.name: _shown(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def encode(document: object) -> bytes:
    """A document as JSON."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _shown(field: FieldDescriptor, value: Any) -> Any:
    if field.is_repeated:
        return [_one(field, each) for each in value]
    return _one(field, value)


def _one(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return document_of(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value


def _read(type_: type[Any], text: bytes) -> Any:
    try:
        return type_.model_validate_json(text)
    except ValidationError as error:
        raise from_validation_error(error) from None


def _split(body: bytes, header_bytes: int) -> tuple[bytes, bytes]:
    return body[:header_bytes], body[header_bytes:]


def _set(target: Any, parameters: dict[str, Any], apart: Iterable[str]) -> None:
    for name, value in parameters.items():
        if name in apart:
            continue
        match value:
            case bool():
                target[name].bool_param = value
            case int():
                if not -(1 << 63) <= value < 1 << 63:
                    raise PlaneError(
                        Code.INVALID_ARGUMENT, f"parameter {name!r} is {value}; it takes 64 bits"
                    )
                target[name].int64_param = value
            case float():
                target[name].double_param = value
            case _:
                target[name].string_param = value


def _packed(tensor: _Input) -> bytes:
    datatype = datatype_of(tensor.name, tensor.datatype)
    if tensor.data is None:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"tensor {tensor.name!r} has no data, and no {_BINARY_SIZE}; send one of them",
        )
    values = list(_flat(tensor.data))
    for value in values:
        if not isinstance(value, _allowed(datatype)) or (
            isinstance(value, bool) and datatype is not Datatype.BOOL
        ):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"tensor {tensor.name!r}: expected {datatype}, got {value!r}",
            )
    return shaped(tensor.name, datatype, tensor.shape, values).pack()


def _allowed(datatype: Datatype) -> tuple[type, ...]:
    if datatype is Datatype.BYTES:
        return (str,)
    if datatype is Datatype.BOOL:
        return (bool,)
    return (int,) if datatype.dtype.kind in _INTEGERS else (int, float)


def _flat(data: list[Any]) -> Iterator[Any]:
    waiting: list[Iterator[Any]] = [iter(data)]
    while waiting:
        for each in waiting[-1]:
            if isinstance(each, list):
                waiting.append(iter(each))  # pyright: ignore[reportUnknownArgumentType]
                break
            yield each
        else:
            waiting.pop()


def _data(output: Any, raw: bytes) -> list[Any]:
    datatype = Datatype(output.datatype)
    values: list[Any] = (
        Tensor.unpack(output.name, datatype, output.shape, raw).data.reshape(-1).tolist()
    )
    if datatype is not Datatype.BYTES:
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"output {output.name!r} is not UTF-8, which JSON needs; ask for it with "
            f'"parameters": {{"{_BINARY}": true}}',
        ) from None
