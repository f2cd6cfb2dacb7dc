"""JSON Schema 2020-12 for a proto package: one document with every type that it declares or uses.

The schemas describe canonical ProtoJSON: what a server writes, and what it reads in the same
spelling. What it reads beside that is left out, so that a schema stays readable and code generated
from it sane: ``null`` for an absent field, field names as in the schema, 32-bit integers as
strings. Two liberties are kept because clients need them: 64-bit integers may be JSON numbers, and
an enum may be a number. A field of a wrapper type is a scalar or null. A ``pattern`` that only RE2
understands is left out.
Source of the mapping: https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from protoplane_codegen.api import (
    Api,
    Constraints,
    ElementType,
    Enum,
    EnumRef,
    Field,
    File,
    Message,
    MessageRef,
    Scalar,
)
from protoplane_codegen.render.document import declared, package_doc, title, urn
from protoplane_codegen.render.values import (
    JsonSchema,
    default_json,
    key_schema,
    scalar_schema,
    size_rules,
)
from protoplane_codegen.render.wellknown import WELL_KNOWN, WRAPPERS

_INT32 = {"minimum": -(2**31), "maximum": 2**31 - 1}


def render_json_schema(api: Api, package: str) -> dict[str, Any]:
    """Render the schemas of a package's messages and enums.

    Args:
        api: The API.
        package: A package that it generates code for.

    Returns:
        A document with one entry of ``$defs`` for each type: see `Definitions`. A schema for one
        message is a reference into it, as ``urn:proto:forge.captioner.v1#/$defs/CaptionRequest``.
    """
    files = api.packages()[package]
    document: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": urn(package),
        "title": title(package),
    }
    if doc := package_doc(files):
        document["description"] = doc
    return {**document, "$defs": Definitions(api, package).collect(declared(files))}


class Definitions:
    """Schemas of types, and references to them, for one document.

    A type of the document's own package is called as it is inside the package, for example
    ``Outer.Inner``; one of another package by its full name; and so is an own one whose short name
    is another type's full name. All of them are legal names of OpenAPI components.

    Args:
        api: The API.
        package: The document's own package; ``None`` calls all types by their full names.
        at: Where in the document the definitions stand, as the start of a reference.
        siblings: Whether words beside ``$ref`` count; before JSON Schema 2019-09 they did not.
    """

    def __init__(
        self, api: Api, package: str | None, *, at: str = "#/$defs/", siblings: bool = True
    ) -> None:
        self._api = api
        self._package = package
        self._at = at
        self._siblings = siblings

    def name(self, full_name: str) -> str:
        """Name of a type's definition."""
        file, declaration = self._find(full_name)
        short = ".".join(declaration.path)
        if file.package != self._package:
            return full_name
        return full_name if short in self._api.messages or short in self._api.enums else short

    def reference(self, full_name: str, **beside: Any) -> JsonSchema:
        """Reference to a type, with other words beside it."""
        reference: JsonSchema = {"$ref": self._at + self.name(full_name)}
        if beside and not self._siblings:
            return {**beside, "allOf": [reference]}
        return {**reference, **beside}

    def collect(self, roots: Iterable[str]) -> dict[str, JsonSchema]:
        """Definitions of the types ``roots``, in their order, and of all that they lead to."""
        found = dict.fromkeys(roots)
        foreign: set[str] = set()
        pending = list(found)
        while pending:
            for used in self._uses(pending.pop()):
                if used not in found and used not in foreign:
                    foreign.add(used)
                    pending.append(used)
        return {self.name(each): self._definition(each) for each in (*found, *sorted(foreign))}

    def field(self, field: Field, *, described: bool = True) -> JsonSchema:
        """Schema of a field's value.

        Args:
            field: The field.
            described: Whether to give its comment, default and deprecation too.
        """
        beside: JsonSchema = {}
        if described and field.doc:
            beside["description"] = field.doc
        if described and field.default is not None:
            beside["default"] = default_json(field.type, field.default)
        if described and field.deprecated:
            beside["deprecated"] = True
        if field.presence == "repeated":
            items = self._element(field.type, field.element_constraints)
            sizes = size_rules(field.constraints, "Items")
            return {"type": "array", "items": items, **sizes, **beside}
        if field.presence == "map":
            return {"type": "object", **self._entries(field), **beside}
        if isinstance(field.type, Scalar):
            return {**scalar_schema(field.type.name, field.constraints), **beside}
        full_name = field.type.full_name
        if full_name in WRAPPERS and not field.oneof:
            # In a oneof, null would have to count as absent, which no schema can say briefly.
            return {"anyOf": [self.reference(full_name), {"type": "null"}], **beside}
        return self.reference(full_name, **beside)

    def object(self, message: Message, without: Collection[str] = ()) -> JsonSchema:
        """Schema of a message that is an object of its fields, less those named ``without``."""
        fields = [field for field in message.fields if field.name not in without]
        schema: JsonSchema = {
            **_about(message),
            "type": "object",
            "properties": {field.json_name: self.field(field) for field in fields},
        }
        required = [field.json_name for field in fields if field.presence == "required"]
        if required:
            schema["required"] = required
        exclusive = [
            _at_most_one(members)
            for oneof in message.oneofs
            if len(members := [f.json_name for f in fields if f.oneof == oneof]) > 1
        ]
        if exclusive:
            schema["allOf"] = exclusive
        schema["additionalProperties"] = False
        return schema

    def _find(self, full_name: str) -> tuple[File, Message | Enum]:
        found = self._api.messages.get(full_name)
        return found if found is not None else self._api.enums[full_name]

    def _uses(self, full_name: str) -> Iterator[str]:
        declaration = self._find(full_name)[1]
        if full_name not in WELL_KNOWN and isinstance(declaration, Message):
            for field in declaration.fields:
                if not isinstance(field.type, Scalar):
                    yield field.type.full_name

    def _definition(self, full_name: str) -> JsonSchema:
        if full_name in WELL_KNOWN:
            return dict(WELL_KNOWN[full_name])
        declaration = self._find(full_name)[1]
        return self.object(declaration) if isinstance(declaration, Message) else _enum(declaration)

    def _element(self, type_: ElementType, constraints: Constraints) -> JsonSchema:
        if isinstance(type_, MessageRef | EnumRef):
            return self.reference(type_.full_name)
        return scalar_schema(type_.name, constraints)

    def _entries(self, field: Field) -> JsonSchema:
        keys = key_schema(field.key.name) if field.key is not None else None
        return {
            "additionalProperties": self._element(field.type, field.element_constraints),
            **({"propertyNames": keys} if keys is not None else {}),
            **size_rules(field.constraints, "Properties"),
        }


def _about(declaration: Message | Enum) -> JsonSchema:
    about: JsonSchema = {"title": declaration.path[-1]}
    if declaration.doc:
        about["description"] = declaration.doc
    if declaration.deprecated:
        about["deprecated"] = True
    return about


def _enum(enum: Enum) -> JsonSchema:
    schema = _about(enum)
    lines = [
        f"- `{value.name}`{' (deprecated)' if value.deprecated else ''}"
        + (f": {' '.join(value.doc.split())}" if value.doc else "")
        for value in enum.values
    ]
    if any(value.doc or value.deprecated for value in enum.values):
        schema["description"] = "\n\n".join(filter(None, [enum.doc, "\n".join(lines)]))
    numbers: Mapping[str, Any] = (
        {"enum": sorted({value.number for value in enum.values})} if enum.closed else _INT32
    )
    schema["anyOf"] = [
        {"type": "string", "enum": [value.name for value in enum.values]},
        {"type": "integer", "format": "int32", **numbers},
    ]
    return schema


def _at_most_one(names: list[str]) -> JsonSchema:
    # Linear in the number of members: exactly one of them, or none.
    present: list[JsonSchema] = [{"required": [name]} for name in names]
    return {"oneOf": [*present, {"not": {"anyOf": present}}]}
