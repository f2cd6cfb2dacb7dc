"""Exports of a generated package, resolved when they are first used.

Proto packages may import each other in both directions as long as no two files do. A package that
imported its modules eagerly would meet itself half made; one that waits never does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from protoplane_base.registry import register_modules


def lazy_exports(
    package: str, proto_package: str, modules: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: Name of the package.
        proto_package: Name of the proto package that it stands for.
        modules: Names that each module of the package exports.
    """
    register_modules(proto_package, [f"{package}.{module}" for module in modules])
    homes = {name: module for module, names in modules.items() for name in names}

    def getattr_(name: str) -> Any:
        try:
            home = homes[name]
        except KeyError:
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        value = getattr(import_module(f"{package}.{home}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def dir_() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return getattr_, dir_
