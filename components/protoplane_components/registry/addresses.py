"""From a URL to a database."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.folders import default_folder

VARIABLE = "PROTOPLANE_REGISTRY"
"""The environment variable that names the database."""

MEMORY = "sqlite::memory:"
"""A database that is gone with the process."""

_FORMS = "sqlite:/a/file, sqlite::memory:, postgresql://user@host/name"
_SQLITE = "sqlite+aiosqlite"
_POSTGRESQL = "postgresql+asyncpg"


def beside(engine_url: str) -> str:
    """URL of the database that goes with an engine, where none is named.

    In memory for engines that live in one process; in the same folder for ``local:``; else in the
    default one of this machine.
    """
    scheme, _, rest = engine_url.partition(":")
    if scheme in ("", "memory", "static"):
        return MEMORY
    folder = rest.partition("?")[0] if scheme == "local" else ""
    root = Path(folder).expanduser() if folder else default_folder()
    return f"sqlite:{root.absolute() / 'registry.sqlite'}"


def database_url(text: str) -> URL:
    """Read the URL of a database.

    Raises:
        PlaneError: INVALID_ARGUMENT; it is none, or of another kind.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "sqlite":
        path = rest.removeprefix("//") if rest.startswith("///") else rest
        if path == ":memory:":
            return URL.create(_SQLITE, database=path)
        if path and not path.startswith("//"):
            return URL.create(_SQLITE, database=str(Path(path).expanduser().absolute()))
    elif scheme in ("postgres", "postgresql"):
        try:
            return make_url(text).set(drivername=_POSTGRESQL)
        except (ArgumentError, ValueError):
            pass
    # Not the URL itself: it may have a password.
    raise PlaneError(
        Code.INVALID_ARGUMENT,
        f"the registry's database is named by a URL, and this one ({scheme}:…) is none that it "
        f"knows; the forms are {_FORMS}",
    )
