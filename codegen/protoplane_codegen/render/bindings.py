"""OpenAPI objects for one binding of ``google.api.http``: its parameters and its bodies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from protoplane_codegen.api import Api, Field, HttpRule, Message, MessageRef, Method
from protoplane_codegen.errors import SchemaError
from protoplane_codegen.render.jsonschema import Definitions
from protoplane_codegen.render.responses import EVENTS_PATH
from protoplane_codegen.render.transcoding import (
    PathParameter,
    PathTemplate,
    find_field,
    parse_path,
    query_fields,
)
from protoplane_codegen.render.values import JsonSchema, default_json

_EVENTS_PREFIX = EVENTS_PATH.partition("{")[0]


class Binding:
    """One way to call a method over HTTP.

    Args:
        api: The API.
        definitions: Where the schemas of its types are.
        method: The method.
        rule: How the schema binds it.

    Attributes:
        path: Its path.

    Raises:
        SchemaError: The path is none, or does not fit the request.
    """

    def __init__(self, api: Api, definitions: Definitions, method: Method, rule: HttpRule) -> None:
        self._api = api
        self._definitions = definitions
        self._method = method
        self._rule = rule
        self._request = api.messages[method.request.full_name][1]
        self._response = api.messages[method.response.full_name][1]
        self.path = self._parse()

    def parameters(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Parameter objects.

        Args:
            names: Names of the path's parameters in the document.
        """
        given = zip(names, self.path.parameters, strict=True)
        path = [self._path_parameter(name, parameter) for name, parameter in given]
        return [*path, *self._query_parameters()]

    def body(self) -> JsonSchema | None:
        """Schema of the request's body, or ``None`` where it has none.

        Raises:
            SchemaError: The binding names a field that does not exist.
        """
        if not self._rule.body:
            return None
        if self._rule.body != "*":
            field = self._named(self._request, self._rule.body)
            return self._definitions.field(field, described=False)
        bound = {name for name in self.path.fields if "." not in name}
        if bound:
            return self._definitions.object(self._request, without=bound)
        return self._definitions.reference(self._request.full_name)

    def reply(self) -> JsonSchema:
        """Schema of what is answered.

        Raises:
            SchemaError: The binding names a field that does not exist.
        """
        if not self._rule.response_body:
            return self._definitions.reference(self._response.full_name)
        field = self._named(self._response, self._rule.response_body)
        return self._definitions.field(field, described=False)

    def _parse(self) -> PathTemplate:
        try:
            path = parse_path(self._rule.path)
        except ValueError as error:
            raise self._fault(
                str(error), "write it as in /v1/models/{model_id} or /v1/{name=models/*}"
            ) from error
        if self._rule.path.startswith(_EVENTS_PREFIX):
            raise self._fault(
                f"under {_EVENTS_PREFIX} a component publishes its events", "use another path"
            )
        for name in path.fields:
            field = self._named(self._request, name)
            if isinstance(field.type, MessageRef) or field.presence in ("repeated", "map"):
                raise self._fault(f"{name} is no single scalar or enum", "name a field that is one")
        return path

    def _path_parameter(self, name: str, parameter: PathParameter) -> dict[str, Any]:
        schema: JsonSchema = {"type": "string"}
        notes: list[str] = []
        field = find_field(self._api, self._request, parameter.field) if parameter.field else None
        if field is not None:
            notes.append(field.doc)
            if parameter.whole == f"{{{parameter.name}}}":
                schema = self._definitions.field(field, described=False)
                if name != parameter.field:
                    notes.append(f"The field `{parameter.field}`.")
            else:
                notes.append(f"A part of `{parameter.field}`, which is `{parameter.whole}`.")
        if parameter.spans:
            notes.append("May span several segments; its slashes are not escaped.")
        description = "\n\n".join(filter(None, notes))
        return {
            "name": name,
            "in": "path",
            "required": True,
            **({"description": description} if description else {}),
            "schema": schema,
        }

    def _query_parameters(self) -> Iterator[dict[str, Any]]:
        if self._rule.body == "*":
            return
        for name, field in query_fields(
            self._api, self._request, {*self.path.fields, self._rule.body}
        ):
            yield {
                "name": name,
                "in": "query",
                **({"description": field.doc} if field.doc else {}),
                # Inside a message that may be absent, nothing is required of every call.
                **({"required": True} if field.presence == "required" and "." not in name else {}),
                **({"deprecated": True} if field.deprecated else {}),
                "schema": self._query_schema(field),
            }

    def _query_schema(self, field: Field) -> JsonSchema:
        if isinstance(field.type, MessageRef):
            # Without the null that a wrapper may be elsewhere.
            return self._definitions.reference(field.type.full_name)
        schema = self._definitions.field(field, described=False)
        if field.default is not None:
            schema["default"] = default_json(field.type, field.default)
        return schema

    def _named(self, message: Message, path: str) -> Field:
        field = find_field(self._api, message, path)
        if field is None:
            known = ", ".join(field.name for field in message.fields) or "none"
            raise self._fault(
                f"{path} names no field of {message.full_name}", f"its fields are: {known}"
            )
        return field

    def _fault(self, fault: str, remedy: str) -> SchemaError:
        rule, name = self._rule, self._method.name
        return SchemaError(
            self._method.location, f"the binding {rule.verb} {rule.path} of {name}: {fault}", remedy
        )
