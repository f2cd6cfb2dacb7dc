"""Python code: models, services and the package that exports them."""

from protoplane_codegen.render.python.render import render_python

__all__ = ["render_python"]
