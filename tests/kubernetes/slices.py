"""EndpointSlices as the controller of Kubernetes writes them of the pods of a service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CAPTIONER_PORTS = {"http": 8080, "grpc": 50051, "link": 50052, "metrics": 9100}


def endpoint(
    pod: str, address: str, node: str, zone: str, *, ready: bool = True, ends: bool = False
) -> dict[str, Any]:
    """A pod in a slice."""
    return {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": ready or ends, "terminating": ends},
        "nodeName": node,
        "targetRef": {"kind": "Pod", "name": pod, "namespace": "forge"},
        "zone": zone,
    }


def endpoint_slice(
    name: str,
    component: str | None,
    endpoints: Sequence[dict[str, Any]],
    *,
    ports: dict[str, int] | None = None,
    family: str = "IPv4",
) -> dict[str, Any]:
    """A slice; its service is what its name begins with."""
    service = name.partition("-")[0]
    labels = {
        "app": service,
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        "kubernetes.io/service-name": service,
    }
    if component is not None:
        labels["protoplane.dev/component"] = component
    listed = {"grpc": 50051} if ports is None else ports
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": labels},
        "addressType": family,
        "endpoints": list(endpoints),
        "ports": [{"name": each, "port": port, "protocol": "TCP"} for each, port in listed.items()],
    }
