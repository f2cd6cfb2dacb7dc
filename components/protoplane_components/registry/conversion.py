"""From the rows of the tables to the messages of the schema."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from protoplane.registry.v1 import Model, Version
from protoplane_base import Timestamp
from protoplane_components.registry.tables import ModelRow, VersionRow


def now_ns() -> int:
    """Nanoseconds since 1970."""
    return time.time_ns()


def timestamp(ns: int) -> Timestamp:
    """A time of the tables."""
    return Timestamp(*divmod(ns, 1_000_000_000))


def version_of(row: VersionRow) -> Version:
    """A version, all of it."""
    return Version(
        model=row.model.name,
        version=row.name,
        format=row.format,
        size=row.size,
        digest=row.digest,
        artifact=row.artifact,
        backend=row.backend,
        settings=dict(row.settings),
        tags={tag.name: tag.value for tag in sorted(row.tags, key=lambda tag: tag.name)},
        description=row.description,
        aliases=sorted(alias.name for alias in row.aliases),
        created_at=timestamp(row.created_ns),
    )


def model_of(
    row: ModelRow,
    *,
    aliases: Mapping[str, str],
    latest: VersionRow | None,
    count: int,
    versions: Sequence[VersionRow] = (),
) -> Model:
    """A model, with some of its versions."""
    return Model(
        name=row.name,
        aliases=dict(sorted(aliases.items())),
        latest=None if latest is None else version_of(latest),
        version_count=count,
        versions=[version_of(each) for each in versions],
        created_at=timestamp(row.created_ns),
        changed_at=timestamp(row.changed_ns),
    )
