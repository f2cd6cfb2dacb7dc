"""Servers that the tests of backends share."""

from tests.triton_server import triton

__all__ = ["triton"]
