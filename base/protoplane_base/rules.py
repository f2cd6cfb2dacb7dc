"""Rules of buf's protovalidate, enforced on the models.

Simple rules are Pydantic constraints in the generated annotations (`Bounds`), so that they run in
Rust and show in JSON Schema. A message with any other rule is checked whole by the library
`protovalidate` after its fields are known to be well typed. Source: https://protovalidate.com.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError
from pydantic_core import core_schema as cs

from protoplane_base.errors import MissingExtraError, Violation

if TYPE_CHECKING:
    from protoplane_base.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Constraints on a value, checked by pydantic-core after the value's type.

    Attributes:
        gt: Least value, itself excluded.
        ge: Least value.
        lt: Greatest value, itself excluded.
        le: Greatest value.
        min_length: Least number of characters, bytes, items or entries.
        max_length: Greatest number of them.
        pattern: Regular expression that must match somewhere in a string.
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler(source)
        python_type = getattr(source, "__origin__", source)
        limit = cast(CoreSchema, {"type": _SCHEMA_TYPE[python_type], **self._set()})
        return cs.chain_schema(
            [schema, limit],
            serialization=cast(Any, schema.get("serialization")),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        steps: list[CoreSchema] = cast("dict[str, Any]", schema)["steps"]
        result = dict(handler(steps[0]))
        names = _LENGTH_NAMES.get(steps[1]["type"], _JSON_SCHEMA_NAMES)
        result.update({names[name]: value for name, value in self._set().items()})
        return result

    def _set(self) -> dict[str, Any]:
        pairs = ((name, getattr(self, name)) for name in self.__slots__)
        return {name: value for name, value in pairs if value is not None}


_SCHEMA_TYPE: dict[Any, str] = {
    int: "int",
    float: "float",
    str: "str",
    bytes: "bytes",
    list: "list",
    dict: "dict",
}
_JSON_SCHEMA_NAMES = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
}
_LENGTH_NAMES = {
    "list": {"min_length": "minItems", "max_length": "maxItems"},
    "dict": {"min_length": "minProperties", "max_length": "maxProperties"},
}


def violations(message: Message) -> list[Violation]:
    """Every rule of its schema that a message breaks; none, at once, where it has no rules.

    A model that was made from Python or JSON keeps its rules already. One that came over the wire
    was not asked: this asks it.

    Raises:
        MissingExtraError: ``protovalidate`` is not installed.
    """
    if not message.__ruled__:
        return []
    validator = _validator()
    from protovalidate import Violation as Found

    def path(found: Found) -> tuple[str | int, ...]:
        parts: list[str | int] = []
        elements = found.proto.field.elements if found.proto.field is not None else ()
        for element in elements:
            parts.append(element.field_name)
            subscript = element.subscript
            if subscript is not None:
                parts.append(subscript.value)
        return tuple(parts)

    return [
        Violation(path(found), found.proto.rule_id, found.proto.message)
        for found in validator.collect_violations(message.to_pb())
    ]


class RuleCheck:
    """Validator of a model that raises one error for each broken rule."""

    def __call__(self, message: Message) -> Message:
        """Return the message, or raise a ``ValidationError`` with the paths of its faults."""
        broken = violations(message)
        if broken:
            raise ValidationError.from_exception_data(
                type(message).__name__,
                [
                    InitErrorDetails(
                        type=PydanticCustomError(
                            "rule", "{message} [{rule}]", {"message": v.message, "rule": v.rule}
                        ),
                        loc=v.path,
                        input=message,
                    )
                    for v in broken
                ],
            )
        return message


@cache
def _validator() -> Any:
    try:
        from protovalidate import Validator
    except ModuleNotFoundError as error:
        raise MissingExtraError("validate", "checking rules of a schema") from error
    return Validator()
