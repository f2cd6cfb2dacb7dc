"""OpenAPI 3.1 for the services and events of a proto package.

A method is found where its ``google.api.http`` bindings put it, and without them at
``POST /package.Service/Method``, where the Connect protocol looks for it. Methods that stream only
replies answer with server-sent events; those that stream requests speak Connect's streaming
protocol alone. Query parameters have JSON names.
Sources: https://spec.openapis.org/oas/v3.1.1, https://connectrpc.com/docs/protocol,
the comments of google/api/http.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from protoplane_codegen.api import (
    Api,
    Field,
    HttpRule,
    Message,
    MessageRef,
    Method,
    Service,
)
from protoplane_codegen.errors import SchemaError
from protoplane_codegen.render.document import declared, info, prose
from protoplane_codegen.render.jsonschema import Definitions
from protoplane_codegen.render.responses import (
    CONNECT_STREAM,
    connect_stream,
    error_response,
    error_schema,
    event_stream,
    published_events,
)
from protoplane_codegen.render.transcoding import (
    PathParameter,
    PathTemplate,
    find_field,
    parse_path,
    query_fields,
)
from protoplane_codegen.render.values import JsonSchema, default_json

_SCHEMAS = "#/components/schemas/"
_VERBS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_NO_PLAIN_JSON = (
    "This method streams its requests, so it cannot be called with plain JSON: use gRPC, or "
    "Connect's streaming protocol as described here."
)


def render_openapi(api: Api, package: str) -> dict[str, Any] | None:
    """Render the document of a package.

    Args:
        api: The API.
        package: A package that it generates code for.

    Returns:
        The document, or ``None`` where the package declares neither methods nor events.

    Raises:
        SchemaError: A binding of ``google.api.http`` does not fit its method, or two are the same.
    """
    document = _Document(api, package)
    return document.render() if document.has_operations else None


class _Document:
    def __init__(self, api: Api, package: str) -> None:
        self._api = api
        self._package = package
        self._files = api.packages()[package]
        self._services = [service for file in self._files for service in file.services]
        self._events = [
            message
            for file in self._files
            for message in file.all_messages()
            if message.event is not None
        ]
        self._definitions = Definitions(api, package, at=_SCHEMAS)
        self._schemas = self._definitions.collect([*declared(self._files), *self._signatures()])
        # A hyphen is in no name of a schema.
        error = "Connect-Error" if "Error" in self._schemas else "Error"
        self._schemas[error] = error_schema()
        self._error = {"$ref": _SCHEMAS + error}
        self._paths: dict[str, dict[str, Any]] = {}
        self._path_names: dict[str, tuple[str, ...]] = {}
        self._operation_ids: set[str] = set()

    @property
    def has_operations(self) -> bool:
        return bool(self._events) or any(service.methods for service in self._services)

    def render(self) -> dict[str, Any]:
        tags = [_tag(service) for service in self._services]
        streams: dict[str, Any] = {}
        if self._events:
            path, operation = published_events(self._events, self._definitions, self._error)
            streams[path] = {"get": operation}
            tags.append({"name": "events", "description": "What the component publishes."})
            # A method on this path would collide, so it is taken before theirs, and shown last.
            self._paths.update(streams)
            self._path_names[parse_path(path).shape] = ("key",)
        for service in self._services:
            for method in service.methods:
                self._add_method(service, method)
        return {
            "openapi": "3.1.1",
            "info": info(self._package, self._files),
            "tags": tags,
            "paths": {p: item for p, item in self._paths.items() if p not in streams} | streams,
            "components": {
                "schemas": self._schemas,
                "responses": {"Error": error_response(self._error)},
            },
        }

    def _signatures(self) -> Iterator[str]:
        for service in self._services:
            for method in service.methods:
                yield method.request.full_name
                yield method.response.full_name

    def _add_method(self, service: Service, method: Method) -> None:
        rules = [rule for rule in method.http if rule.path and not method.client_streaming]
        if not rules:
            path = PathTemplate(f"/{service.full_name}/{method.name}", (), ())
            self._add(path, "post", method, self._connect_operation(service, method))
        for rule in rules:
            path = self._path(method, rule)
            verb = rule.verb.lower()
            operation = self._http_operation(service, method, rule, path)
            if verb == "*":
                verb = "post" if rule.body else "get"
                operation["description"] = "\n\n".join(
                    filter(None, [operation.get("description"), "Any HTTP method will do."])
                )
            self._add(path, verb if verb in _VERBS else f"x-{verb}", method, operation)

    def _add(
        self, path: PathTemplate, verb: str, method: Method, operation: dict[str, Any]
    ) -> None:
        names = tuple(parameter.name for parameter in path.parameters)
        item = self._paths.setdefault(
            path.renamed(self._path_names.setdefault(path.shape, names)), {}
        )
        if verb in item:
            raise SchemaError(
                method.location,
                f"{verb.upper()} {path.path} is bound to {item[verb]['operationId']} already",
                "give one of them another path",
            )
        item[verb] = operation

    def _operation(self, service: Service, method: Method, more: str = "") -> dict[str, Any]:
        base = name = f"{service.name}_{method.name}"
        count = 1
        while name in self._operation_ids:
            count += 1
            name = f"{base}_{count}"
        self._operation_ids.add(name)
        operation: dict[str, Any] = {
            "tags": [service.name],
            "operationId": name,
            **prose(method.doc, more),
        }
        if method.deprecated or service.deprecated:
            operation["deprecated"] = True
        if method.idempotency != "unknown":
            operation["x-protoplane-idempotency"] = method.idempotency
        return operation

    def _connect_operation(self, service: Service, method: Method) -> dict[str, Any]:
        request = self._definitions.reference(method.request.full_name)
        reply = self._definitions.reference(method.response.full_name)
        streams = method.client_streaming or method.server_streaming
        content = {
            **({} if method.client_streaming else {"application/json": {"schema": request}}),
            **({CONNECT_STREAM: connect_stream(request)} if streams else {}),
        }
        return {
            **self._operation(service, method, _NO_PLAIN_JSON if method.client_streaming else ""),
            "requestBody": {"required": True, "content": content},
            "responses": self._responses(method, reply, connect=True),
        }

    def _http_operation(
        self, service: Service, method: Method, rule: HttpRule, path: PathTemplate
    ) -> dict[str, Any]:
        request = self._message(method.request)
        operation = self._operation(service, method)
        parameters = [
            *self._path_parameters(request, path),
            *self._query_parameters(request, rule, path),
        ]
        if parameters:
            operation["parameters"] = parameters
        if rule.body:
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": self._body(method, rule, path)}},
            }
        reply = self._definitions.reference(method.response.full_name)
        if rule.response_body:
            field = self._named(method, self._message(method.response), rule.response_body)
            reply = self._definitions.field(field, described=False)
        operation["responses"] = self._responses(method, reply, connect=False)
        return operation

    def _path(self, method: Method, rule: HttpRule) -> PathTemplate:
        try:
            path = parse_path(rule.path)
        except ValueError as error:
            raise SchemaError(
                method.location,
                f"the path {rule.path!r} of {method.name}: {error}",
                "write it as in /v1/models/{model_id} or /v1/{name=models/*}",
            ) from error
        for name in path.fields:
            field = self._named(method, self._message(method.request), name)
            if isinstance(field.type, MessageRef) or field.presence in ("repeated", "map"):
                raise SchemaError(
                    method.location,
                    f"the path {rule.path!r} of {method.name}: {name} is no single scalar or enum",
                    "name a field that is one",
                )
        return path

    def _path_parameters(self, request: Message, path: PathTemplate) -> Iterator[dict[str, Any]]:
        names = tuple(parameter.name for parameter in path.parameters)
        names = self._path_names.setdefault(path.shape, names)
        for name, parameter in zip(names, path.parameters, strict=True):
            yield self._path_parameter(request, name, parameter)

    def _path_parameter(
        self, request: Message, name: str, parameter: PathParameter
    ) -> dict[str, Any]:
        schema: JsonSchema = {"type": "string"}
        notes: list[str] = []
        if parameter.field:
            field = find_field(self._api, request, parameter.field)
            assert field is not None
            notes.append(field.doc)
            if parameter.whole == f"{{{parameter.name}}}":
                schema = self._definitions.field(field, described=False)
                if name != parameter.field:
                    notes.append(f"The field `{parameter.field}`.")
            else:
                notes.append(f"A part of `{parameter.field}`, which is `{parameter.whole}`.")
        if parameter.spans:
            notes.append("May span several segments; its slashes are not escaped.")
        described = "\n\n".join(filter(None, notes))
        return {
            "name": name,
            "in": "path",
            "required": True,
            **({"description": described} if described else {}),
            "schema": schema,
        }

    def _query_parameters(
        self, request: Message, rule: HttpRule, path: PathTemplate
    ) -> Iterator[dict[str, Any]]:
        if rule.body == "*":
            return
        for name, field in query_fields(self._api, request, {*path.fields, rule.body}):
            yield {
                "name": name,
                "in": "query",
                **({"description": field.doc} if field.doc else {}),
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

    def _body(self, method: Method, rule: HttpRule, path: PathTemplate) -> JsonSchema:
        request = self._message(method.request)
        if rule.body != "*":
            return self._definitions.field(self._named(method, request, rule.body), described=False)
        bound = {name for name in path.fields if "." not in name}
        if bound:
            return self._definitions.object(request, without=bound)
        return self._definitions.reference(request.full_name)

    def _responses(self, method: Method, reply: JsonSchema, *, connect: bool) -> dict[str, Any]:
        message = self._message(method.response)
        content: dict[str, Any] = {}
        if not method.client_streaming and method.server_streaming:
            content["text/event-stream"] = event_stream(reply, self._error)
        if connect and (method.client_streaming or method.server_streaming):
            content[CONNECT_STREAM] = connect_stream(reply)
        return {
            "200": {
                "description": prose(message.doc).get("summary", message.name),
                "content": content or {"application/json": {"schema": reply}},
            },
            "default": {"$ref": "#/components/responses/Error"},
        }

    def _message(self, reference: MessageRef) -> Message:
        return self._api.messages[reference.full_name][1]

    def _named(self, method: Method, message: Message, path: str) -> Field:
        field = find_field(self._api, message, path)
        if field is None:
            known = ", ".join(field.name for field in message.fields) or "none"
            raise SchemaError(
                method.location,
                f"the HTTP binding of {method.name}: {path} names no field of {message.full_name}",
                f"its fields are: {known}",
            )
        return field


def _tag(service: Service) -> dict[str, Any]:
    tag: dict[str, Any] = {"name": service.name}
    if service.doc:
        tag["description"] = service.doc
    if service.component:
        tag["x-protoplane-component"] = service.component
    return tag
