"""The protocol's messages, in a descriptor pool of their own.

`tritonclient`, `kserve` and `mlserver` each declare ``package inference`` in the process's common
pool, which takes each name once. What is declared here nobody else sees.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError as PbDecodeError

from protoplane_base import DecodeError, MethodKind, MethodSpec
from protoplane_base.services import ServiceSpec

SERVICE = "inference.GRPCInferenceService"
"""Full name of the service."""

PROTOCOL = "kserve.v2"
"""What discovery calls it."""

UNANSWERED = "unanswered"
"""Python name of the handler of all rpcs that are declared, and not answered."""


def _read_pool() -> DescriptorPool:
    folder = resources.files(__package__ or "").joinpath("schemas")
    files = descriptor_pb2.FileDescriptorSet.FromString(
        folder.joinpath("kserve.binpb").read_bytes()
    )
    pool: Any = DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    found: DescriptorPool = pool
    return found


POOL = _read_pool()
"""The pool."""


class _Messages:
    """The message classes, as attributes: ``messages.ModelInferRequest``."""

    def __getattr__(self, name: str) -> Any:
        pool: Any = POOL
        try:
            descriptor = pool.FindMessageTypeByName(f"inference.{name}")
        except KeyError:
            raise AttributeError(name) from None
        found = message_factory.GetMessageClass(descriptor)
        setattr(self, name, found)
        return found


messages: Any = _Messages()
"""The message classes, whose fields protobuf alone knows."""


class PbCodec:
    """Carries protobuf objects as they are; see `protoplane_base.codec.Codec`.

    Args:
        type_: Class of the objects.
    """

    def __init__(self, type_: Any) -> None:
        self._type = type_
        # As generated messages have it, for what asks a codec for its descriptor.
        self.__pb__ = type_

    def from_pb(self, pb: Any, /) -> Any:
        """The object itself."""
        return pb

    def to_pb(self, value: Any, /) -> Any:
        """The object itself."""
        return value

    def from_bytes(self, data: bytes, /) -> Any:
        """Decode the wire format.

        Raises:
            DecodeError: The bytes are no such message.
        """
        try:
            return self._type.FromString(data)
        except PbDecodeError as error:
            raise DecodeError(f"no {self._type.DESCRIPTOR.full_name}: {error}") from None

    def to_bytes(self, value: Any, /) -> bytes:
        """Encode in the wire format."""
        data: bytes = value.SerializeToString()
        return data

    def model_validate_json(
        self, json_data: str | bytes | bytearray, /, *, extra: Any = None
    ) -> Any:
        """Read ProtoJSON.

        Raises:
            DecodeError: The text is no such message.
        """
        text = (
            json_data if isinstance(json_data, str) else bytes(json_data).decode("utf-8", "replace")
        )
        try:
            return json_format.Parse(
                text, self._type(), ignore_unknown_fields=extra == "ignore", descriptor_pool=POOL
            )
        except json_format.ParseError as error:
            raise DecodeError(str(error)) from None

    def model_dump_json(self, value: Any, /) -> str:
        """Write ProtoJSON."""
        return json_format.MessageToJson(value, indent=None, descriptor_pool=POOL)


def _spec() -> ServiceSpec:
    pool: Any = POOL
    service = pool.FindServiceByName(SERVICE)
    methods = {each.name: _method(each) for each in service.methods}
    return ServiceSpec(SERVICE, component="", file=service.file.name, methods=methods)


def _method(method: Any) -> MethodSpec[Any, Any]:
    request = method.input_type.name
    streams = method.client_streaming
    return MethodSpec(
        service=SERVICE,
        name=method.name,
        python_name=UNANSWERED if request == "Unanswered" else _snake(method.name),
        kind=MethodKind.BIDI_STREAM if streams else MethodKind.UNARY,
        request=PbCodec(getattr(messages, request)),
        response=PbCodec(getattr(messages, method.output_type.name)),
    )


def _snake(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name).lstrip("_")


SPEC = _spec()
"""The service; its messages are protobuf objects."""
