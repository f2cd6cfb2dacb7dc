"""Generated message classes by their proto name, as `Any` and reflection need them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from protoplane_base.errors import UnknownTypeError

if TYPE_CHECKING:
    from protoplane_base.codec import Codec

_types: dict[str, Codec[object]] = {}
# Modules of imported packages that have not been needed yet, by proto package.
_pending: dict[str, list[str]] = {}


def register(full_name: str, codec: Any) -> None:
    """Make a message class findable; the one that is imported last stands."""
    _types[full_name] = codec


def register_modules(proto_package: str, modules: Iterable[str]) -> None:
    """Name the modules that declare a proto package's messages, to be imported when asked for."""
    _pending.setdefault(proto_package, []).extend(modules)


def message_type(full_name: str) -> Codec[object]:
    """The class that stands for a proto message.

    Args:
        full_name: For example ``forge.captioner.v1.CaptionRequest``.

    Raises:
        UnknownTypeError: No imported package declares it.
    """
    if full_name not in _types:
        package = full_name
        while package:
            package = package.rpartition(".")[0]
            for module in _pending.pop(package, ()):
                import_module(module)
    try:
        return _types[full_name]
    except KeyError:
        raise UnknownTypeError(
            f"{full_name} is not declared by any imported package; "
            "import the generated package that declares it first"
        ) from None
