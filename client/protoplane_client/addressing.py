"""Whom a call or an event is for: entities as callers give them, and the instances they mean."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from protoplane_base import PlaneError
from protoplane_runtime.entities import Entity, EntityId, check_path

Whom = Entity | EntityId | str
"""An instance or a collection of them: an entity, its id, or its path."""


def means(entity: str, name: str) -> bool:
    """Whether an entity is the instance of a name, or a collection that it is in."""
    return name == entity or (name.startswith(entity) and name[len(entity)] == "/")


def path_of(entity: EntityId, names: Iterable[str]) -> str | None:
    """The path of an entity: one of these names, or a collection that one of them is in.

    Args:
        entity: Whom to find.
        names: Names of instances; one that is no path is of no entity.
    """
    for name in names:
        path = name
        while path:
            if _id_of(path) == entity:
                return path
            path = path.rpartition("/")[0]
    return None


def path_or_id(whom: Whom) -> str | EntityId:
    """The path of an entity, where it is known.

    Raises:
        PlaneError: INVALID_ARGUMENT for a text that is no path.
    """
    if isinstance(whom, Entity):
        return whom.path
    if isinstance(whom, str):
        check_path(whom)
    return whom


@lru_cache(4096)
def _id_of(path: str) -> EntityId | None:
    try:
        return EntityId.of(path)
    except PlaneError:
        return None
