"""Python code: models, services and the package that exports them."""

from protoplane_codegen.render.python.render import package_folder, render_python

__all__ = ["package_folder", "render_python"]
