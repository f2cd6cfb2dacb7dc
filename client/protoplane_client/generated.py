"""Finding a method in the generated code that is installed, for doors that have no reflection."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from protoplane_base import Code, MethodSpec, PlaneError, Service


def generated_method(name: str) -> MethodSpec[Any, Any]:
    """The method of a name, from the generated package of its service.

    The package is one that is installed, or one in the current folder or in its folder
    ``generated``.

    Args:
        name: ``package.Service/Method``.

    Raises:
        PlaneError: INVALID_ARGUMENT for another form, NOT_FOUND where there is no such package,
            service or method.
    """
    service, _, method = name.removeprefix("/").rpartition("/")
    package, _, class_name = service.rpartition(".")
    if not (package and class_name and method):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{name!r}: a link does not tell what there is; give the full name, "
            "package.Service/Method, or a gRPC or HTTP target",
        )
    for folder in (Path.cwd(), Path.cwd() / "generated"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    try:
        module = import_module(package)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{package}.".startswith(f"{error.name}."):
            raise
        raise PlaneError(
            Code.NOT_FOUND,
            f"a link needs the generated package {package}, which is not here; run 'protoplane "
            "generate', or call a gRPC or HTTP target",
        ) from None
    found: Any = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Service)):
        raise PlaneError(Code.NOT_FOUND, f"{package} has no service {class_name}")
    spec = found.spec.methods.get(method)
    if spec is None:
        there = ", ".join(found.spec.methods)
        raise PlaneError(Code.NOT_FOUND, f"{service} has no method {method}; it has {there}")
    return spec
