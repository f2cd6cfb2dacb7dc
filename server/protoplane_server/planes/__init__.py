"""The event, discovery, state, object and metrics planes as services, for any language."""

from protoplane_server.planes.ground import Ground
from protoplane_server.planes.services import ENDLESS, plane_services

__all__ = ["ENDLESS", "Ground", "plane_services"]
