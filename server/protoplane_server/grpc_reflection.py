"""Server reflection, ``grpc.reflection.v1`` and ``v1alpha``.

The two differ in their names alone. The library knows the older one; the newer is the same service
and the same schema under its other name.
Source: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

SERVICE = "grpc.reflection.v1.ServerReflection"
SERVICE_ALPHA = "grpc.reflection.v1alpha.ServerReflection"


@runtime_checkable
class DeclaresItself(Protocol):
    """A service whose schema is not in the process's common pool."""

    @property
    def descriptor_pool(self) -> DescriptorPool:
        """Where it is declared."""
        ...


def reflection_handlers(
    services: Iterable[str], pools: Sequence[DescriptorPool] = ()
) -> tuple[grpc.GenericRpcHandler, ...]:
    """Both versions of the service for a gRPC server.

    Args:
        services: Full names of what it serves.
        pools: Where those are declared that are not in the process's common pool.
    """
    _declare_v1()
    servicer: Any = aio.ReflectionServicer(
        (*services, SERVICE, SERVICE_ALPHA), pool=_Pools(pools) if pools else None
    )
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return tuple(
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        for name in (SERVICE, SERVICE_ALPHA)
    )


class _Pools:
    """Several pools as one: files are looked for in each, extensions in the common one alone."""

    def __init__(self, pools: Sequence[DescriptorPool]) -> None:
        self._common: Any = descriptor_pool.Default()
        self._pools: tuple[Any, ...] = (*pools, self._common)

    # The names are those of protobuf's own pool.
    def FindFileByName(self, name: str) -> Any:  # noqa: N802
        return self._first(lambda pool: pool.FindFileByName(name))

    def FindFileContainingSymbol(self, name: str) -> Any:  # noqa: N802
        return self._first(lambda pool: pool.FindFileContainingSymbol(name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._common, name)

    def _first(self, ask: Callable[[Any], Any]) -> Any:
        for pool in self._pools[:-1]:
            with suppress(KeyError):
                return ask(pool)
        return ask(self._common)


def _declare_v1() -> None:
    """Make the schema of v1 known, so that reflection can describe itself too."""
    pool: Any = descriptor_pool.Default()
    try:
        pool.FindFileContainingSymbol(SERVICE)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        file.name = "grpc/reflection/v1/reflection.proto"
        file.package = "grpc.reflection.v1"
        file.ClearField("options")
        for message in file.message_type:
            for field in message.field:
                if field.type_name:
                    field.type_name = _renamed(field.type_name)
        for service in file.service:
            for method in service.method:
                method.input_type = _renamed(method.input_type)
                method.output_type = _renamed(method.output_type)
        pool.AddSerializedFile(file.SerializeToString())


def _renamed(name: str) -> str:
    return name.replace(".grpc.reflection.v1alpha.", ".grpc.reflection.v1.")
