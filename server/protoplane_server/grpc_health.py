"""The standard gRPC health service, ``grpc.health.v1.Health``.

Written here because the library's own loses the other watchers of a service when one leaves.
Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

SERVICE = "grpc.health.v1.Health"

_Status = health_pb2.HealthCheckResponse


class HealthService:
    """Says of each service, and of the server as a whole (``""``), whether it serves.

    Args:
        services: Full names of the services.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self._serving = True
        self._changed = asyncio.Event()
        self._closed = False

    def stop_serving(self) -> None:
        """Turn every service to NOT_SERVING; there is no way back."""
        if self._serving:
            self._serving = False
            self._changed.set()

    def close(self) -> None:
        """End all that watch."""
        self._serving = False
        self._closed = True
        self._changed.set()

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service for a gRPC server."""
        decode: Any = health_pb2.HealthCheckRequest.FromString
        encode: Any = _Status.SerializeToString
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(
                    self._check, request_deserializer=decode, response_serializer=encode
                ),
                "Watch": grpc.unary_stream_rpc_method_handler(
                    self._watch, request_deserializer=decode, response_serializer=encode
                ),
            },
        )

    def _status(self) -> health_pb2.HealthCheckResponse:
        return _Status(status=_Status.SERVING if self._serving else _Status.NOT_SERVING)

    async def _check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"{request.service[:200]} is not served here"
            )
        return self._status()

    async def _watch(self, request: Any, context: Any) -> None:
        if request.service not in self._services:
            await context.write(_Status(status=_Status.SERVICE_UNKNOWN))
        else:
            serving = self._serving
            await context.write(self._status())
            await self._changed.wait()
            if serving:
                await context.write(self._status())
        while not self._closed:
            self._changed.clear()
            await self._changed.wait()
