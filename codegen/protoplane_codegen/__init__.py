"""Turns schemas into code: read a plugin request, model the API, render files."""

from protoplane_codegen.errors import CompilerError, GenerateError, SchemaError
from protoplane_codegen.generate import generate, render
from protoplane_codegen.outputs import Outputs

__all__ = ["CompilerError", "GenerateError", "Outputs", "SchemaError", "generate", "render"]
