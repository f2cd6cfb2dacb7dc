"""A component as it is handed to a server: instances, classes, or the name of one in a module."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from protoplane_base import Service

Component = Service | Callable[[], Service | Sequence[Service]]
"""A service, or what makes one: its class, or a function without arguments. A function may make a
tuple or a list of them, which then share what it made them with."""


class NoComponentError(Exception):
    """What was asked to be served is not a component; the message is for a person."""


def load(name: str) -> Component:
    """Find a component by ``module:Name``, looking in the current folder too.

    The name can be left out where the module has one component, and no other, or beside others a
    function that has the module's own name and makes what is to be served. What it has is listed
    in its ``__all__``; without that it is all that it defines, but for names with an underscore.

    Raises:
        NoComponentError: There is no such module or name, or it is no component. An error inside
            the module itself passes through.
    """
    module_name, colon, attribute = name.partition(":")
    if not module_name or (colon and not attribute):
        raise NoComponentError(f"{name!r} names no component; one looks like captioner:Captioner")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        hint = "" if colon else "; one looks like captioner:Captioner"
        raise NoComponentError(f"there is no module {module_name!r} here{hint}") from error
    if not colon:
        return _only(found, name)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise NoComponentError(f"module {module_name!r} has no {attribute!r}") from error
    if isinstance(found, Service) or callable(found):
        return cast("Component", found)
    raise NoComponentError(f"{name} is {type(found).__name__}, not a component")


def _only(module: Any, name: str) -> Component:
    """The one component of a module."""
    names = _names(module)
    own = module.__name__.rpartition(".")[2]
    made = getattr(module, own, None) if own in names else None
    if inspect.isfunction(made):
        return cast("Component", made)
    listed = [getattr(module, each, None) for each in names]
    found = [
        each
        for each in listed
        if isinstance(each, Service) or (isinstance(each, type) and issubclass(each, Service))
    ]
    if len(found) != 1:
        raise NoComponentError(
            f"{name!r} names no component, and that module has {len(found)} of them; one looks "
            "like captioner:Captioner"
        )
    return found[0]


def _names(module: Any) -> Sequence[str]:
    """What a module has to offer."""
    listed: Sequence[str] | None = getattr(module, "__all__", None)
    if listed is not None:
        return listed
    defined = cast("dict[str, Any]", module.__dict__)
    return [
        name
        for name, value in defined.items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def instances(components: Iterable[Component]) -> list[Service]:
    """The services of components; classes and functions are called.

    Raises:
        NoComponentError: One of them gives no service, or a service without a schema.
    """
    services: list[Service] = []
    for component in components:
        made: object = component if isinstance(component, Service) else component()
        several = made and isinstance(made, tuple | list)
        for service in cast("Sequence[object]", made) if several else (made,):
            if not isinstance(service, Service) or not hasattr(service, "spec"):
                name = (
                    component.__name__ if inspect.isroutine(component) else type(service).__name__
                )
                raise NoComponentError(
                    f"{name} is no component: derive it from a generated service such as "
                    "CaptionerService"
                )
            services.append(service)
    return services
