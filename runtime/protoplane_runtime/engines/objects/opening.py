"""From a URL to an object store."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_runtime.engines.folders import default_folder
from protoplane_runtime.engines.objects.interface import ObjectStore
from protoplane_runtime.engines.objects.memory import MemoryObjects
from protoplane_runtime.engines.retention import split

DEFAULT_URL = "local:"
"""The store where none is named."""

_CLOUDS = frozenset({"s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss"})
_FORMS = "memory:, local:[folder], file:///folder, s3://bucket, gs://bucket, az://container"


async def open_object_store(url: str = DEFAULT_URL) -> ObjectStore:
    """Open an object store; there is nothing to close.

    Args:
        url: One of these.

            - ``memory:``: lives in this process and is gone with it.
            - ``local:[folder]``: the folder ``objects`` in a folder of the engine ``local:``, or in
              its default one.
            - ``file:///folder``: that folder.
            - ``s3://bucket[/prefix]``, ``gs://bucket[/prefix]``, ``az://container[/prefix]``: in a
              cloud, by the extra ``objects``. Credentials and settings come from the environment,
              as for the cloud's own tools (``AWS_ACCESS_KEY_ID``,
              ``GOOGLE_APPLICATION_CREDENTIALS``, ``AZURE_STORAGE_ACCOUNT_NAME``, …). Settings may
              also be given as a query, for example
              ``?endpoint=http://127.0.0.1:9000&region=eu-central-1``; a secret does not belong
              there.

    Raises:
        PlaneError: INVALID_ARGUMENT for a URL of another kind or a setting that the store has not,
            UNIMPLEMENTED for a folder on Windows; and what opening a folder raises.
        MissingExtraError: The extra ``objects`` is not installed.
    """
    scheme, colon, rest = url.partition(":")
    if colon and scheme == "memory":
        # An engine's URL does as well, and its rules are for events.
        if split(rest)[0]:
            raise PlaneError(Code.INVALID_ARGUMENT, f"memory: takes nothing more, not {rest!r}")
        return MemoryObjects()
    if colon and scheme == "local":
        return await _open_folder(_folder(split(rest)[0]))
    if colon and scheme == "file":
        parts = urlsplit(url)
        path = Path(unquote(parts.path))
        if parts.netloc not in ("", "localhost") or not path.is_absolute():
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"{url!r} is no folder of this machine: write file:///folder"
            )
        return await _open_folder(path)
    if colon and scheme in _CLOUDS:
        try:
            from protoplane_runtime.engines.objects.cloud import CloudObjects
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "obstore":
                raise
            raise MissingExtraError("objects", f"an object store at {scheme}:") from error
        return CloudObjects.open(url)
    raise PlaneError(Code.INVALID_ARGUMENT, f"{url!r} is no object store; the stores are {_FORMS}")


async def _open_folder(folder: Path) -> ObjectStore:
    if sys.platform == "win32":
        raise PlaneError(
            Code.UNIMPLEMENTED,
            "a folder of objects needs file locks and renames that Windows has not; use memory: "
            "or a cloud",
        )
    from protoplane_runtime.engines.objects.folder import FolderObjects

    return await FolderObjects.open(folder)


def _folder(path: str) -> Path:
    return (Path(path).expanduser() if path else default_folder()).absolute() / "objects"
