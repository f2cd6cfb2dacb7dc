"""Fields of a generated model: presence, names, and the containers.

How absence works follows the proto field's presence
(https://protobuf.dev/programming-guides/field_presence/):

* implicit: the default is a value; the field is left out of JSON while it has that value;
* explicit: the default is ``None``, which means absent and is left out of JSON;
* lists and maps: absent means empty.

In JSON ``null`` reads as absent for every kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import copysign
from operator import is_, not_
from typing import Annotated, Any, TypeAlias, TypeVar, cast

from pydantic import AliasChoices, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticUndefined, PydanticUseDefault
from pydantic_core import core_schema as cs

from protoplane_base.enums import ELEMENT
from protoplane_base.scalars import DECIMAL

_T = TypeVar("_T")
_K = TypeVar("_K")

_is_none: Callable[[Any], bool] = partial(is_, None)


def field(
    *,
    default: Any = PydanticUndefined,
    default_factory: Callable[[], Any] | None = None,
    json_name: str,
    proto_name: str | None = None,
    description: str | None = None,
    deprecated: bool = False,
    checked: bool = False,
) -> Any:
    """Declare a field of a message.

    Args:
        default: Value while the field is absent: ``None`` where presence is explicit. A field with
            neither default nor factory is ``required`` (proto2).
        default_factory: Makes that value, for containers and for values that are not known yet.
        json_name: Name in JSON.
        proto_name: Name in the schema, which JSON may use too; ``None`` where it is ``json_name``
            or the Python name.
        description: The field's comment in the schema.
        deprecated: Whether the schema deprecates it.
        checked: Whether the default itself must satisfy the field's rules.
    """
    options: dict[str, Any] = {}
    implicit = default is not None and default is not PydanticUndefined
    if default_factory is not None:
        options["default_factory"] = default_factory
    elif default is not PydanticUndefined:
        options["default"] = default
    if implicit or default_factory is not None:
        options["exclude_if"] = _is_positive_zero if isinstance(default, float) else not_
    else:
        options["exclude_if"] = _is_none
    if checked:
        options["validate_default"] = True
    return Field(
        validation_alias=json_name if proto_name is None else AliasChoices(json_name, proto_name),
        serialization_alias=json_name,
        description=description,
        json_schema_extra={"deprecated": True} if deprecated else None,
        **options,
    )


def _is_positive_zero(value: float) -> bool:
    # Minus zero has bits set, so it is no default.
    return value == 0.0 and copysign(1.0, value) > 0


@dataclass(frozen=True, slots=True)
class _NullIsDefault:
    """Reads ``null`` as the field's default."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler(source)
        nullable = _or_null(schema)
        if nullable is not None:
            return nullable
        return cs.no_info_before_validator_function(_default_for_none, schema)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        if schema["type"] == "function-before":
            return handler(schema["schema"])
        return handler(schema)


def _or_null(schema: CoreSchema) -> CoreSchema | None:
    """A union of ours with null as one more choice, so that no Python runs for other values."""
    if schema["type"] == "union" and "custom_error_message" in schema:
        return cast(CoreSchema, {**schema, "choices": [*schema["choices"], _NULL]})
    if schema["type"] == "json-or-python":
        from_json, from_python = _or_null(schema["json_schema"]), _or_null(schema["python_schema"])
        if from_json is not None and from_python is not None:
            both = {"json_schema": from_json, "python_schema": from_python}
            return cast(CoreSchema, {**schema, **both})
    return None


def _default_for_none(value: Any) -> Any:
    if value is None:
        raise PydanticUseDefault
    return value


_NULL_IS_DEFAULT = _NullIsDefault()
_NULL = cs.chain_schema([cs.none_schema(), cs.no_info_plain_validator_function(_default_for_none)])


def _key(schema: CoreSchema) -> CoreSchema:
    """Schema of a map's key, which is a string in JSON.

    There pydantic-core would read a number with blanks or a plus sign, and ``"1"`` as a bool.
    """
    match schema["type"]:
        case "bool":
            text = cs.chain_schema([cs.literal_schema(["true", "false"]), cs.bool_schema()])
        case "union":
            text = cs.chain_schema([cs.str_schema(strict=True, pattern=DECIMAL), schema])
        case _:
            return schema
    return cs.json_or_python_schema(
        json_schema=text,
        python_schema=cs.union_schema([schema, text], mode="left_to_right"),
    )


@dataclass(frozen=True, slots=True)
class _Container:
    """A list or a map whose unknown enum names can be left out."""

    part: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = cast("dict[str, Any]", handler(source))
        element = schema[self.part]
        for_element = element.get("metadata", {}).get(ELEMENT)
        if for_element is not None:
            schema[self.part] = for_element()
        if "keys_schema" in schema:
            schema["keys_schema"] = _key(schema["keys_schema"])
        return cast(CoreSchema, schema)


Implicit: TypeAlias = Annotated[_T, _NULL_IS_DEFAULT]
"""A field of implicit presence: it always has a value, and absence is its default."""
Repeated: TypeAlias = Annotated[list[_T], _Container("items_schema"), _NULL_IS_DEFAULT]
"""A ``repeated`` field."""
Map: TypeAlias = Annotated[dict[_K, _T], _Container("values_schema"), _NULL_IS_DEFAULT]
"""A ``map`` field; keys are strings in JSON, whatever their type."""
