"""What the console's forms are made from: the services of an instance, and their schemas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from protoplane_base import MethodSpec, __version__
from protoplane_base.services import ServiceSpec
from protoplane_server.console.descriptor_schemas import add_schemas
from protoplane_server.http.documents import load_document
from protoplane_server.http.parameters import descriptor_of


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The instance whose console it is.

    Attributes:
        name: Its path.
        namespace: Where others find it.
        watches: Whether it knows who else is there: whether it has an engine.
        stats: Key that it and others publish their numbers under, as events; empty where it does
            not.
    """

    name: str
    namespace: str
    watches: bool
    stats: str


def describe(about: About, services: Sequence[ServiceSpec], *, guarded: bool) -> dict[str, Any]:
    """All that the page asks once.

    Args:
        about: The instance.
        services: What it serves.
        guarded: Whether callers need a token.

    Returns:
        A document with ``instance``, ``services`` and ``schemas``; the last are those of OpenAPI
        by the full names of messages, and where there is none one made of the descriptor.
    """
    document = load_document(services, "openapi.json") or {}
    schemas = document.get("components", {}).get("schemas", {})
    for service in services:
        for method in service.methods.values():
            add_schemas(schemas, descriptor_of(method.request))
    return {
        "instance": {**asdict(about), "version": __version__, "guarded": guarded},
        "services": [_service(service) for service in services],
        "schemas": schemas,
    }


def _service(service: ServiceSpec) -> dict[str, Any]:
    return {
        "name": service.full_name,
        "component": service.component,
        "doc": service.doc,
        "methods": [_method(method) for method in service.methods.values()],
        "events": list(_events(service)),
    }


def _method(method: MethodSpec[Any, Any]) -> dict[str, Any]:
    return {
        "name": method.name,
        "path": method.path,
        "kind": method.kind.value,
        "doc": method.doc,
        "idempotency": method.idempotency.value,
        "deprecated": method.deprecated,
        "request": descriptor_of(method.request).full_name,
        "response": descriptor_of(method.response).full_name,
        "routes": [{"verb": route.verb, "path": route.path} for route in method.routes],
    }


def _events(service: ServiceSpec) -> Iterable[dict[str, str]]:
    for event in service.events:
        spec = event.__event__
        if spec is not None:
            yield {"type": event.__pb__.DESCRIPTOR.full_name, "key": spec.key.text}
