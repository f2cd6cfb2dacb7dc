"""protovalidate rules that other type systems can say too.

A field whose rules are all of this kind is checked in Rust and shows them in JSON Schema; any other
rule leaves the message to the library. Source: buf/validate/validate.proto.
"""

from __future__ import annotations

from typing import Any

from protoplane_codegen.api import Constraints, ElementType, Presence, Scalar

_EXTENSION = "buf.validate.field"
_NUMERIC = frozenset(
    [
        *("int32", "sint32", "sfixed32", "uint32", "fixed32"),
        *("int64", "sint64", "sfixed64", "uint64", "fixed64"),
        *("float", "double"),
    ]
)
_NUMBER = {"gt": "gt", "gte": "ge", "lt": "lt", "lte": "le"}
_STRING = {"min_len": "min_length", "max_len": "max_length", "pattern": "pattern"}
_BYTES = {"min_len": "min_length", "max_len": "max_length"}
_LIST = {"min_items": "min_length", "max_items": "max_length"}
_MAP = {"min_pairs": "min_length", "max_pairs": "max_length"}


def read_constraints(
    rules: Any, type_: ElementType, presence: Presence
) -> tuple[Constraints, Constraints, bool]:
    """Split the rules of a field.

    Args:
        rules: A ``buf.validate.FieldRules``, or ``None``.
        type_: Type of the field or of its elements.
        presence: Presence of the field.

    Returns:
        Constraints on the field, constraints on each element, and whether these two say
        everything that the rules say.
    """
    if rules is None:
        return Constraints(), Constraints(), True
    own, complete = _read(rules, type_, presence)
    element = Constraints()
    if presence == "repeated" and rules.WhichOneof("type") == "repeated":
        items = rules.repeated
        if items.HasField("items"):
            element, items_complete = _read(items.items, type_, "explicit")
            complete = complete and items_complete
    return own, element, complete


def _read(rules: Any, type_: ElementType, presence: Presence) -> tuple[Constraints, bool]:
    kind = rules.WhichOneof("type")
    said = {field.name for field, _ in rules.ListFields()}
    names = _names(kind, type_, presence) if kind is not None else None
    if kind is None or names is None or said != {kind}:
        # Beside the rules of a type stand ``required``, ``cel``, and ``ignore``, which changes
        # when they hold.
        return Constraints(), not said
    complete = True
    found: dict[str, Any] = {}
    for field, value in getattr(rules, kind).ListFields():
        if field.name == "items" and kind == "repeated":
            continue
        if field.name == "len" and kind in ("string", "bytes"):
            found["min_length"] = found["max_length"] = value
        elif field.name in names:
            found[names[field.name]] = value
        else:
            complete = False
    if _inverted(found):
        # With its bounds inverted a range means "outside of".
        return Constraints(), False
    return Constraints(**found), complete


def _names(kind: str, type_: ElementType, presence: Presence) -> dict[str, str] | None:
    if presence == "repeated":
        return _LIST if kind == "repeated" else None
    if presence == "map":
        return _MAP if kind == "map" else None
    if not isinstance(type_, Scalar):
        return None
    if kind in _NUMERIC:
        return _NUMBER
    return {"string": _STRING, "bytes": _BYTES}.get(kind)


def _inverted(found: dict[str, Any]) -> bool:
    low = found.get("gt", found.get("ge"))
    high = found.get("lt", found.get("le"))
    return low is not None and high is not None and high < low
