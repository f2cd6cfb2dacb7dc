"""Triton's messages, from `tritonclient`, which ships no types for them."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import model_config_pb2, service_pb2

messages: Any = service_pb2
"""``grpc_service.proto``."""

config_messages: Any = model_config_pb2
"""``model_config.proto``."""

SERVICE = "/inference.GRPCInferenceService"
"""Path of the service."""
