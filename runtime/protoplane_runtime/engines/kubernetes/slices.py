"""What an EndpointSlice says of the instances behind a Service.

Only what is used is read; see
https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from protoplane_base import PlaneError
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Instance
from protoplane_runtime.engines.kubernetes.settings import ALL_NAMESPACES, KubernetesSettings
from protoplane_runtime.engines.roster import Place, place_of

_log = logging.getLogger("protoplane.discovery")

SCHEMES: Mapping[str, str] = {
    "link": "link+tcp",
    "link-tls": "link+tls",
    "grpc": "grpc",
    "grpcs": "grpcs",
    "http": "http",
    "https": "https",
}
"""The scheme of the address of a port of that name; the best first."""

_SERVICE = "kubernetes.io/service-name"
_NAMESPACE = "protoplane.dev/namespace"
_T = TypeVar("_T")


def _absent_is_empty(value: Any) -> Any:
    # Go writes a list or a map without anything in it as null.
    return () if value is None else value


_Many = Annotated[tuple[_T, ...], BeforeValidator(_absent_is_empty)]


class _Read(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)


class Metadata(_Read):
    """Whose it is."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Conditions(_Read):
    """How an endpoint is; absent is unknown."""

    ready: bool | None = None


class Target(_Read):
    """What an endpoint is: a pod, as a rule."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class Endpoint(_Read):
    """Somewhere behind the Service."""

    addresses: _Many[str] = ()
    conditions: Conditions | None = None
    target_ref: Target | None = None
    node_name: str | None = None
    zone: str | None = None

    @property
    def ready(self) -> bool:
        """Whether it takes calls; an unknown is meant as a yes."""
        return self.conditions is None or self.conditions.ready is not False


class Port(_Read):
    """A port of all endpoints of a slice."""

    name: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)


class EndpointSlice(_Read):
    """Some of the endpoints of a Service."""

    metadata: Metadata
    address_type: str = ""
    endpoints: _Many[Endpoint] = ()
    ports: _Many[Port] = ()


class ListMetadata(_Read):
    """How current a list is, and where it goes on."""

    resource_version: str = ""
    continue_: str | None = Field(default=None, alias="continue")


class SliceList(_Read):
    """A page of slices."""

    metadata: ListMetadata
    items: _Many[EndpointSlice] = ()


class Status(_Read):
    """What went wrong, as Kubernetes says it."""

    code: int = 0
    reason: str = ""
    message: str = ""


class Event(_Read):
    """A line of a watch: what became of an object, or that the watch failed."""

    type: str
    object: dict[str, Any]


def instances(
    slices: Iterable[EndpointSlice], settings: KubernetesSettings
) -> tuple[Instance, ...]:
    """The instances that are ready; one that several slices list has the addresses of all.

    A slice that names no component, or nothing that can be one, has none.
    """
    found: dict[Place, Instance] = {}
    for each in sorted(slices, key=_order):
        try:
            for instance in _of(each, settings):
                place = place_of(instance)
                known = found.get(place)
                found[place] = instance if known is None else _joined(known, instance)
        except PlaneError as error:
            _log.warning(
                "the EndpointSlice %s/%s lists no instances: %s",
                each.metadata.namespace,
                each.metadata.name,
                error.message,
            )
    return tuple(found.values())


def _order(each: EndpointSlice) -> tuple[str, str, str]:
    # The same whatever came first; IPv4 before IPv6.
    return each.address_type, each.metadata.namespace, each.metadata.name


def _of(each: EndpointSlice, settings: KubernetesSettings) -> Iterator[Instance]:
    metadata = each.metadata
    labels, annotations = metadata.labels or {}, metadata.annotations or {}
    service = labels.get(_SERVICE, "")
    # A label cannot hold "/", and Kubernetes copies a Service's labels to its slices only.
    component = annotations.get(settings.label) or labels.get(settings.label, "").replace(".", "/")
    component = component or service
    namespace = annotations.get(_NAMESPACE) or labels.get(_NAMESPACE)
    if not namespace:
        namespace = (
            metadata.namespace if settings.namespace == ALL_NAMESPACES else DEFAULT_NAMESPACE
        )
    ports = [
        (scheme, port.port)
        for name, scheme in SCHEMES.items()
        for port in each.ports
        if port.name == name and port.port is not None
    ]
    for endpoint in each.endpoints if ports else ():
        if endpoint.ready and endpoint.addresses:
            yield _instance(endpoint, component, namespace, service, ports)


def _instance(
    endpoint: Endpoint,
    component: str,
    namespace: str,
    service: str,
    ports: list[tuple[str, int]],
) -> Instance:
    # All addresses of an endpoint are the same one, says Kubernetes; the first is enough.
    address = endpoint.addresses[0]
    target = endpoint.target_ref or Target()
    about = {
        "service": service,
        "pod": target.name if target.kind == "Pod" else "",
        "uid": target.uid,
        "node": endpoint.node_name or "",
        "zone": endpoint.zone or "",
    }
    name = about["pod"] or blake2b(address.encode(), digest_size=4).hexdigest()
    host = f"[{address}]" if _is_ipv6(address) else address
    return Instance(
        f"{component}/{name}",
        tuple(f"{scheme}://{host}:{port}" for scheme, port in ports),
        metadata={key: value for key, value in about.items() if value},
        namespace=namespace,
        started_s=0.0,
        host=about["node"],
        pid=0,
    )


def _joined(one: Instance, other: Instance) -> Instance:
    endpoints = dict.fromkeys((*one.endpoints, *other.endpoints))
    order = list(SCHEMES.values())
    best_first = sorted(endpoints, key=lambda each: order.index(each.partition("://")[0]))
    return Instance(
        one.name,
        tuple(best_first),
        metadata=one.metadata,
        namespace=one.namespace,
        started_s=0.0,
        host=one.host,
        pid=0,
    )


def _is_ipv6(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).version == 6
    except ValueError:
        return False
