"""Servers that the tests of backends share."""

from tests.server.backends.openai_server import openai_app
from tests.triton_server import triton

__all__ = ["openai_app", "triton"]
