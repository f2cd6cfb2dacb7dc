"""``protoplane/registry``: models with versions and aliases, their files, and where they run.

    protoplane serve protoplane_components.registry:Registry

`PROTOPLANE_REGISTRY` names its database: ``sqlite:/a/file``, ``sqlite::memory:`` or
``postgresql://user@host/name``; by default a file beside the engine.
"""

from typing import TYPE_CHECKING, Any

from protoplane_base import MissingExtraError

if TYPE_CHECKING:
    from protoplane_components.registry.component import Registry

__all__ = ["Registry"]


def __getattr__(name: str) -> Any:
    # Those who push and pull need none of what the component stands on.
    if name != "Registry":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from protoplane_components.registry.component import Registry
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("alembic", "sqlalchemy"):
            raise
        raise MissingExtraError("registry", "the registry component") from error
    return Registry
