"""The HTTP door: Connect, gRPC-Web, `google.api.http` routes, server-sent events and pages."""

from protoplane_server.http.door import HttpDoor

__all__ = ["HttpDoor"]
