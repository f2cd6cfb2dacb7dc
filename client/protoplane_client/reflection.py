"""Finding out what a gRPC server offers, by server reflection v1, else v1alpha.

Source: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md. The two versions have the
same messages, so one set of classes reads both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2

from protoplane_base import CallOptions, Channel, Code, MethodKind, MethodSpec, PlaneError
from protoplane_client.dynamic import PbCodec

_T = TypeVar("_T")

_PB: Any = reflection_pb2
# Services of the infrastructure, which a short name never means.
_BESIDE = ("grpc.reflection.", "grpc.health.", "grpc.channelz.", "protoplane.v1.Metrics")


class Reflection:
    """What one server says of itself; asks each question once.

    Args:
        channel: Way to the server.
        options: How to ask: a timeout, metadata.
    """

    def __init__(self, channel: Channel, options: CallOptions) -> None:
        self._channel = channel
        self._options = options
        self._version = ""
        self._pool = DescriptorPool()
        self._files: dict[str, FileDescriptorProto] = {}
        self._added: set[str] = set()

    async def services(self) -> list[str]:
        """Full names of all services.

        Raises:
            PlaneError: UNIMPLEMENTED where the server has no reflection.
        """
        (answer,) = await self._ask([_PB.ServerReflectionRequest(list_services="*")])
        return [service.name for service in answer.list_services_response.service]

    async def service(self, full_name: str) -> ServiceDescriptor:
        """What a service looks like.

        Raises:
            PlaneError: NOT_FOUND where the server does not know it.
        """
        (answer,) = await self._ask([_PB.ServerReflectionRequest(file_containing_symbol=full_name)])
        await self._load(self._take([answer]))
        return self._pool.FindServiceByName(full_name)

    async def method(self, name: str) -> MethodSpec[Any, Any]:
        """Find a method by its name.

        Args:
            name: ``Method``, ``Service/Method`` or ``package.Service/Method``.

        Raises:
            PlaneError: NOT_FOUND where there is none, INVALID_ARGUMENT where there are several.
        """
        wanted_service, wanted = split_method(name)
        known = [s for s in await self.services() if s == wanted_service] or [
            s
            for s in await self.services()
            if (not wanted_service or s.endswith(f".{wanted_service}"))
            and not s.startswith(_BESIDE)
        ]
        offered: list[str] = []
        found: list[MethodSpec[Any, Any]] = []
        for full_name in known:
            service = await self.service(full_name)
            for method in service.methods:
                offered.append(f"{full_name}/{method.name}")
                if method.name == wanted:
                    found.append(self._spec(service, method))
        by_name = {spec.path.removeprefix("/"): spec for spec in found}
        return choose(name, by_name, offered)

    def _spec(self, service: ServiceDescriptor, method: Any) -> MethodSpec[Any, Any]:
        return MethodSpec(
            service=service.full_name,
            name=method.name,
            python_name=method.name,
            kind=_KINDS[method.client_streaming, method.server_streaming],
            request=PbCodec(GetMessageClass(method.input_type), self._pool),
            response=PbCodec(GetMessageClass(method.output_type), self._pool),
        )

    async def _load(self, names: Iterable[str]) -> None:
        """Fetch what the files import, then add them all, imports first."""
        wanted = list(names)
        missing = {d for n in wanted for d in self._files[n].dependency} - self._files.keys()
        while missing:
            answers = await self._ask(
                [_PB.ServerReflectionRequest(file_by_filename=name) for name in sorted(missing)]
            )
            fresh = self._take(answers)
            missing = {d for n in fresh for d in self._files[n].dependency} - self._files.keys()
        for name in wanted:
            self._add(name)

    def _add(self, name: str) -> None:
        if name in self._added:
            return
        self._added.add(name)
        file = self._files[name]
        for dependency in file.dependency:
            self._add(dependency)
        self._pool.Add(file)  # type: ignore[no-untyped-call, unused-ignore]

    def _take(self, answers: Iterable[Any]) -> list[str]:
        names: list[str] = []
        for answer in answers:
            for data in answer.file_descriptor_response.file_descriptor_proto:
                file = FileDescriptorProto.FromString(data)
                self._files.setdefault(file.name, file)
                names.append(file.name)
        return names

    async def _ask(self, questions: Sequence[Any]) -> list[Any]:
        versions = (self._version,) if self._version else ("v1", "v1alpha")
        for version in versions:
            try:
                answers = await self._ask_version(version, questions)
            except PlaneError as error:
                if error.code is Code.UNIMPLEMENTED:
                    continue
                raise
            self._version = version
            for answer in answers:
                if answer.HasField("error_response"):
                    refused = answer.error_response
                    raise PlaneError(Code(refused.error_code), refused.error_message)
            return answers
        raise PlaneError(
            Code.UNIMPLEMENTED,
            "the server has no reflection, so its methods are not known; switch reflection on, "
            "or call its HTTP door",
        )

    async def _ask_version(self, version: str, questions: Sequence[Any]) -> list[Any]:
        async def outgoing() -> AsyncIterator[Any]:
            for question in questions:
                yield question

        method: MethodSpec[Any, Any] = MethodSpec(
            service=f"grpc.reflection.{version}.ServerReflection",
            name="ServerReflectionInfo",
            python_name="server_reflection_info",
            kind=MethodKind.BIDI_STREAM,
            request=PbCodec(_PB.ServerReflectionRequest),
            response=PbCodec(_PB.ServerReflectionResponse),
        )
        answers = self._channel.bidi_stream(method, outgoing(), self._options)
        return [answer async for answer in answers]


_KINDS = {
    (False, False): MethodKind.UNARY,
    (False, True): MethodKind.SERVER_STREAM,
    (True, False): MethodKind.CLIENT_STREAM,
    (True, True): MethodKind.BIDI_STREAM,
}


def split_method(name: str) -> tuple[str, str]:
    """Service and method of ``Method``, ``Service/Method`` or ``package.Service.Method``."""
    text = name.removeprefix("/")
    separator = "/" if "/" in text else "."
    service, _, method = text.rpartition(separator)
    return service, method


def choose(name: str, found: Mapping[str, _T], offered: Iterable[str]) -> _T:
    """The one method that was found.

    Raises:
        PlaneError: NOT_FOUND with what there is, or INVALID_ARGUMENT with what it may mean.
    """
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{name} is ambiguous; say {' or '.join(sorted(found))}"
        )
    names = ", ".join(sorted(offered))
    raise PlaneError(
        Code.NOT_FOUND,
        f"there is no method {name}" + (f"; there are {names}" if names else " there"),
    )
