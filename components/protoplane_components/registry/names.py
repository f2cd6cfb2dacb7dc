"""Names of models, versions, aliases, tags and uploads, and how one says which version is meant."""

from __future__ import annotations

import re
from collections.abc import Mapping

from protoplane.registry.v1 import VersionSpec
from protoplane_base import Code, PlaneError

MAX_MODEL_CHARS = 128
"""Most characters of the name of a model."""

MAX_NAME_CHARS = 64
"""Most characters of the name of a version, an alias or a tag."""

MAX_TEXT_CHARS = 4096
"""Most characters of a description, or of the value of a tag or a setting."""

MAX_PAIRS = 100
"""Most tags, settings or aliases of a version."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_UPLOAD = re.compile(r"[A-Za-z0-9._-]{8,128}")


def check_name(name: str, what: str, most: int = MAX_NAME_CHARS) -> str:
    """Make sure that a text is a name; it.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    if len(name) > most or not _NAME.fullmatch(name):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{name[:80]!r} is no name of {what}; use 1 to {most} of A-Z a-z 0-9 . _ -, and start "
            "with none of . and -",
        )
    return name


def check_model(name: str) -> str:
    """Make sure that a text is the name of a model; it.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    return check_name(name, "a model", MAX_MODEL_CHARS)


def check_upload(name: str) -> str:
    """Make sure that a text is the name of an upload; it.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    if not _UPLOAD.fullmatch(name):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{name[:80]!r} is no name of an upload; use 8 to 128 of A-Z a-z 0-9 . _ -, a random "
            "UUID for example",
        )
    return name


def check_pairs(pairs: Mapping[str, str], what: str) -> None:
    """Make sure that tags or settings can be kept.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    if len(pairs) > MAX_PAIRS:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{len(pairs)} of {what} are too many; {MAX_PAIRS} are the most"
        )
    for name, value in pairs.items():
        check_name(name, what)
        check_text(value, f"{what} {name}")


def check_text(text: str, what: str) -> None:
    """Make sure that a text is not too long.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    if len(text) > MAX_TEXT_CHARS or "\0" in text:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{what} has {len(text)} characters; it may have {MAX_TEXT_CHARS}, and none is NUL",
        )


def check_spec(spec: VersionSpec | None) -> VersionSpec:
    """Make sure that a version can be added as it is said; it.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    if spec is None:
        raise PlaneError(Code.INVALID_ARGUMENT, "spec is missing; it says which model it is")
    check_model(spec.model)
    if spec.version:
        check_name(spec.version, "a version")
    for value, what in ((spec.format, "a format"), (spec.backend, "a backend")):
        if value:
            check_name(value, what)
    check_pairs(spec.settings, "a setting")
    check_pairs(spec.tags, "a tag")
    check_text(spec.description, "description")
    if len(spec.aliases) > MAX_PAIRS:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{len(spec.aliases)} aliases are too many; {MAX_PAIRS} at most"
        )
    for alias in spec.aliases:
        check_name(alias, "an alias")
    return spec


def parse_reference(text: str) -> tuple[str, str]:
    """Read ``model``, ``model:version`` or ``model@alias``.

    Returns:
        The model, and what the version of a request is to be.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    for mark, kept in ((":", ""), ("@", "@")):
        model, found, version = text.partition(mark)
        if found:
            check_name(version, "a version" if mark == ":" else "an alias")
            return check_model(model), kept + version
    return check_model(text), ""
