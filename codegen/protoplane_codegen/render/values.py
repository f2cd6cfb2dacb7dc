"""JSON Schemas of scalar values, and what constraints add to them.

Only words that mean the same in JSON Schema 2020-12, in OpenAPI 3.1 and in AsyncAPI's superset of
draft 7 are used. Source of the forms: https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from math import inf, isfinite, isnan
from typing import Any, TypeAlias

from protoplane_codegen.api import Constraints, Default, Scalar, ScalarName

JsonSchema: TypeAlias = dict[str, Any]

_RANGES: dict[ScalarName, tuple[int, int]] = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
_BOUNDS = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
}
_BASE64 = "^(?:[A-Za-z0-9+/_-]{4})*(?:[A-Za-z0-9+/_-]{2}(?:==)?|[A-Za-z0-9+/_-]{3}=?)?$"
# What RE2 has and ECMA-262, whose expressions JSON Schema takes, has not or has in another sense.
_RE2_ONLY = re.compile(r"\\(?:[AzCQEpPa]|x\{)|(?<!\\)\(\?(?!:)|\[\[:")
_ANYTHING = Constraints()


def scalar_schema(name: ScalarName, constraints: Constraints = _ANYTHING) -> JsonSchema:
    """Schema of a scalar.

    Args:
        name: The type.
        constraints: Rules on the value. Bounds on a 64-bit integer hold for its form as a number
            only; of its form as a string they can say no more than that it has no sign.
    """
    if name == "bool":
        return {"type": "boolean"}
    if name == "string":
        return {"type": "string", **_string_rules(constraints)}
    if name == "bytes":
        return {
            "type": "string",
            "contentEncoding": "base64",
            "pattern": _BASE64,
            **_base64_lengths(constraints),
        }
    if name in ("double", "float"):
        return _float_schema(name, constraints)
    return _integer_schema(name, constraints)


def key_schema(name: ScalarName) -> JsonSchema | None:
    """Schema of the member names that a map's keys become, or ``None`` where any string will do."""
    if name == "string":
        return None
    if name == "bool":
        return {"enum": ["true", "false"]}
    return {"pattern": _digits(*_RANGES[name])}


def size_rules(constraints: Constraints, of: str) -> JsonSchema:
    """Bounds on how many ``Items`` or ``Properties`` there are."""
    sizes = {f"min{of}": constraints.min_length, f"max{of}": constraints.max_length}
    return {word: size for word, size in sizes.items() if size is not None}


def default_json(type_: object, default: Default) -> str | int | float | bool:
    """The JSON form of a field's default, which is not ``None``."""
    if isinstance(default, bytes):
        return b64encode(default).decode()
    if isinstance(default, float) and not isfinite(default):
        return "NaN" if isnan(default) else "Infinity" if default > 0 else "-Infinity"
    if isinstance(type_, Scalar) and type_.name in ("int64", "uint64"):
        return str(default)
    assert default is not None
    return default


def _integer_schema(name: ScalarName, constraints: Constraints) -> JsonSchema:
    low, high = _RANGES[name]
    rules: dict[str, Any] = dict(_number_rules(constraints))
    if not rules.keys() & {"minimum", "exclusiveMinimum"}:
        rules["minimum"] = low
    if not rules.keys() & {"maximum", "exclusiveMaximum"}:
        rules["maximum"] = high
    if not name.endswith("64"):
        return {"type": "integer", "format": name, **rules}
    least = rules.get("minimum", rules.get("exclusiveMinimum", -1) + 1)
    # Each word but `type` speaks of strings or of numbers alone, so one schema says both forms.
    return {
        "type": ["string", "integer"],
        "format": name,
        "pattern": _digits(least, high),
        **rules,
    }


def _float_schema(name: ScalarName, constraints: Constraints) -> JsonSchema:
    rules = dict(_number_rules(constraints))
    has_low = rules.keys() & {"minimum", "exclusiveMinimum"}
    has_high = rules.keys() & {"maximum", "exclusiveMaximum"}
    # NaN lies within no bounds.
    names = {"NaN": has_low or has_high, "Infinity": has_high, "-Infinity": has_low}
    named = [text for text, excluded in names.items() if not excluded]
    number: JsonSchema = {"type": "number", "format": name, **rules}
    return {"anyOf": [number, {"type": "string", "enum": named}]} if named else number


def _number_rules(constraints: Constraints) -> Iterator[tuple[str, int | float]]:
    for rule, word in _BOUNDS.items():
        bound: int | float | None = getattr(constraints, rule)
        # JSON has no infinite number, and no number lies beyond one.
        if bound is not None and -inf < bound < inf:
            yield word, bound


def _string_rules(constraints: Constraints) -> JsonSchema:
    rules = size_rules(constraints, "Length")
    if constraints.pattern is not None and not _RE2_ONLY.search(constraints.pattern):
        rules["pattern"] = constraints.pattern
    return rules


def _base64_lengths(constraints: Constraints) -> JsonSchema:
    rules: JsonSchema = {}
    if constraints.min_length:
        rules["minLength"] = -(-constraints.min_length * 4 // 3)  # without padding
    if constraints.max_length is not None:
        rules["maxLength"] = -(-constraints.max_length // 3) * 4  # with padding
    return rules


def _digits(low: int, high: int) -> str:
    sign = "-?" if low < 0 else ""
    return f"^{sign}(?:0|[1-9][0-9]{{0,{len(str(high)) - 1}}})$"
