"""What can be wrong with schemas, said so that a person can mend it."""

from __future__ import annotations

from protoplane_base import ProtoplaneError
from protoplane_codegen.api import Location


class SchemaError(ProtoplaneError):
    """A schema cannot be turned into code.

    Args:
        location: File and line.
        fault: What is wrong.
        remedy: What to do.
    """

    def __init__(self, location: Location, fault: str, remedy: str) -> None:
        super().__init__(f"{location}: {fault}; {remedy}")
        self.location = location


class CompilerError(ProtoplaneError):
    """protoc refused the schemas; the message holds its lines, each with file and line."""


class GenerateError(ProtoplaneError):
    """Code could not be generated for a reason outside the schemas."""
