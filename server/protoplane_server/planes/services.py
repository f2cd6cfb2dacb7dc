"""Which services make up the planes."""

from __future__ import annotations

from protoplane.v1 import Discovery, EventPlane, State
from protoplane_base import Service
from protoplane_server.planes.discovery import DiscoveryPlane
from protoplane_server.planes.events import EventsPlane
from protoplane_server.planes.ground import Ground
from protoplane_server.planes.objects import ObjectsPlane
from protoplane_server.planes.state import StatePlane

ENDLESS = frozenset(
    service.spec.methods[name].path
    for service, name in (
        (EventPlane, "PublishStream"),
        (EventPlane, "Subscribe"),
        (Discovery, "Watch"),
        (State, "Watch"),
    )
)
"""Paths of methods whose calls last until somebody ends them: a drain does not wait for them."""


def plane_services(ground: Ground) -> tuple[Service, ...]:
    """The services of the planes, but for metrics, which every component has."""
    return EventsPlane(ground), DiscoveryPlane(ground), StatePlane(ground), ObjectsPlane(ground)
