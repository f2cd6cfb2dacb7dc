"""Requests that a service reads from JSON itself, because it knows a faster way for large ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from protoplane_base import Message, MethodSpec, Service
from protoplane_server.http.messages import decode

JsonReader: TypeAlias = Callable[[bytes], Message | None]
"""Reads a request from ProtoJSON; ``None`` leaves it to the ordinary way, faults too."""


@runtime_checkable
class BringsReaders(Protocol):
    """A service that reads requests of some of its rpcs itself."""

    def json_readers(self) -> Mapping[str, JsonReader]:
        """Readers by the names that the schema gives to the rpcs."""
        ...


class Reading:
    """Reads requests with one message, each in the way that its service has for it.

    Args:
        services: The services behind a door.
    """

    def __init__(self, services: Iterable[Service] = ()) -> None:
        self._readers = {
            service.spec.methods[name].path: reader
            for service in services
            if isinstance(service, BringsReaders)
            for name, reader in service.json_readers().items()
        }

    def read(self, method: MethodSpec[Any, Any], data: bytes) -> Any:
        """Read a request from ProtoJSON.

        Raises:
            PlaneError: INVALID_ARGUMENT, with a violation for each field that is at fault.
        """
        reader = self._readers.get(method.path)
        if reader is not None:
            request = reader(data)
            if request is not None:
                return request
        return decode(method, data, json=True)
