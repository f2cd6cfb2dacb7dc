"""What tests do with JSON documents: check instances, and follow references."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker

# Its stubs leave too much unsaid for a strict type checker.
_DRAFT_7 = cast("Any", Draft7Validator)
_DRAFT_2020_12 = cast("Any", Draft202012Validator)


class Schema:
    """A schema, itself checked against its meta-schema.

    Args:
        schema: The schema.
        draft: ``7`` or ``2020``.
    """

    def __init__(self, schema: dict[str, Any], draft: int = 2020) -> None:
        kind = {7: _DRAFT_7, 2020: _DRAFT_2020_12}[draft]
        kind.check_schema(schema)
        self._validator = kind(schema, format_checker=FormatChecker(["date-time"]))

    def validate(self, instance: Any) -> None:
        self._validator.validate(instance)

    def is_valid(self, instance: Any) -> bool:
        return bool(self._validator.is_valid(instance))


def objects(node: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in a document."""
    inner: list[Any] = []
    if isinstance(node, dict):
        found = cast("dict[str, Any]", node)
        yield found
        inner = list(found.values())
    elif isinstance(node, list):
        inner = cast("Any", node)
    for each in inner:
        yield from objects(each)


def references(document: Any) -> list[str]:
    """Every ``$ref`` of a document."""
    found = (each.get("$ref") for each in objects(document))
    return [reference for reference in found if isinstance(reference, str)]


def resolve(document: dict[str, Any], reference: str) -> Any:
    """What a reference leads to.

    Raises:
        KeyError: Nowhere.
    """
    found: Any = document
    for part in filter(None, reference.removeprefix("#/").split("/")):
        found = found[part]
    return found
