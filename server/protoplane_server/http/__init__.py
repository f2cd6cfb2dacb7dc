"""The HTTP door: Connect, gRPC-Web, `google.api.http` routes, event streams, Mercure and pages."""

from protoplane_server.http.door import HttpDoor

__all__ = ["HttpDoor"]
