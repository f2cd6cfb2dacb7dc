"""OpenAPI 3.1 for the services and events of a proto package.

A method is found where its ``google.api.http`` bindings put it, and without them at
``POST /package.Service/Method``, where the Connect protocol looks for it. Methods that stream only
replies answer with server-sent events; those that stream requests speak Connect's streaming
protocol alone. Query parameters have JSON names. Schemas have the full names of their types, so
that the documents of several packages can be merged.
Sources: https://spec.openapis.org/oas/v3.1.1, https://connectrpc.com/docs/protocol,
the comments of google/api/http.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from protoplane_codegen.api import Api, HttpRule, Method, Service
from protoplane_codegen.errors import SchemaError
from protoplane_codegen.render.bindings import Binding
from protoplane_codegen.render.document import declared, info, prose
from protoplane_codegen.render.jsonschema import Definitions
from protoplane_codegen.render.responses import (
    CONNECT_STREAM,
    EVENTS_PATH,
    connect_stream,
    error_response,
    error_schema,
    event_stream,
    published_events,
)
from protoplane_codegen.render.transcoding import PathTemplate

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
        self._definitions = Definitions(api, None, at=_SCHEMAS)
        self._schemas = self._definitions.collect([*declared(self._files), *self._signatures()])
        # A message without a package may be called so; a hyphen is in the name of none.
        error = "Connect-Error" if "Error" in self._schemas else "Error"
        self._schemas[error] = error_schema()
        self._error = {"$ref": _SCHEMAS + error}
        self._paths = _Paths()
        self._operation_ids: set[str] = set()

    @property
    def has_operations(self) -> bool:
        return bool(self._events) or any(service.methods for service in self._services)

    def render(self) -> dict[str, Any]:
        tags = [_tag(service) for service in self._services]
        for service in self._services:
            for method in service.methods:
                self._add_method(service, method)
        paths = self._paths.items
        if self._events:
            tags.append({"name": "events", "description": "What the component publishes."})
            paths[EVENTS_PATH] = {"get": published_events(self._events, self._definitions)}
        return {
            "openapi": "3.1.1",
            "info": info(self._package, self._files),
            "tags": tags,
            "paths": paths,
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
        # A request that is a stream has no place in a body of plain JSON, nor in a path.
        rules = [rule for rule in method.http if rule.path and not method.client_streaming]
        if not rules:
            path = PathTemplate(f"/{service.full_name}/{method.name}", (), ())
            self._paths.add(path, "post", method, self._connect_operation(service, method))
        for rule in rules:
            self._add_binding(service, method, rule)

    def _add_binding(self, service: Service, method: Method, rule: HttpRule) -> None:
        binding = Binding(self._api, self._definitions, method, rule)
        verb = rule.verb.lower()
        note = ""
        if verb == "*":
            verb, note = "post" if rule.body else "get", "Any HTTP method will do."
        operation = self._operation(service, method, note)
        if parameters := binding.parameters(self._paths.names(binding.path)):
            operation["parameters"] = parameters
        if body := binding.body():
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": body}},
            }
        content = {"application/json": {"schema": binding.reply()}}
        if method.server_streaming:
            content = {"text/event-stream": event_stream(binding.reply(), self._error)}
        operation["responses"] = self._responses(method, content)
        # An HTTP method that OpenAPI does not know has its place among the extensions.
        self._paths.add(binding.path, verb if verb in _VERBS else f"x-{verb}", method, operation)

    def _connect_operation(self, service: Service, method: Method) -> dict[str, Any]:
        request = self._definitions.reference(method.request.full_name)
        reply = self._definitions.reference(method.response.full_name)
        operation = self._operation(
            service, method, _NO_PLAIN_JSON if method.client_streaming else ""
        )
        body: dict[str, Any] = {}
        content: dict[str, Any] = {}
        if not method.client_streaming:
            body["application/json"] = {"schema": request}
            if method.server_streaming:
                content["text/event-stream"] = event_stream(reply, self._error)
            else:
                content["application/json"] = {"schema": reply}
        if method.client_streaming or method.server_streaming:
            body[CONNECT_STREAM] = connect_stream(request)
            content[CONNECT_STREAM] = connect_stream(reply)
        operation["requestBody"] = {"required": True, "content": body}
        operation["responses"] = self._responses(method, content)
        return operation

    def _operation(self, service: Service, method: Method, note: str) -> dict[str, Any]:
        base = name = f"{service.name}_{method.name}"
        count = 1
        while name in self._operation_ids:
            count += 1
            name = f"{base}_{count}"
        self._operation_ids.add(name)
        operation: dict[str, Any] = {
            "tags": [service.name],
            "operationId": name,
            **prose(method.doc, note),
        }
        if method.deprecated or service.deprecated:
            operation["deprecated"] = True
        if method.idempotency != "unknown":
            operation["x-protoplane-idempotency"] = method.idempotency
        return operation

    def _responses(self, method: Method, content: dict[str, Any]) -> dict[str, Any]:
        message = self._api.messages[method.response.full_name][1]
        return {
            "200": {
                "description": prose(message.doc).get("summary", message.name),
                "content": content,
            },
            "default": {"$ref": "#/components/responses/Error"},
        }


class _Paths:
    """Path items, one for each shape of a path."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self._names: dict[str, tuple[str, ...]] = {}

    def names(self, path: PathTemplate) -> tuple[str, ...]:
        """Names of a path's parameters: those of the first path of its shape."""
        names = tuple(parameter.name for parameter in path.parameters)
        if path.shape not in self._names and path.renamed(names) in self.items:
            # The two differ in what may span segments, which OpenAPI cannot say.
            names = tuple(f"{p.name}.{'all' if p.spans else '1'}" for p in path.parameters)
        return self._names.setdefault(path.shape, names)

    def add(self, path: PathTemplate, verb: str, method: Method, operation: dict[str, Any]) -> None:
        """Add an operation.

        A unary rpc and one that streams its answer may share a path, where they take the same:
        ``accept`` chooses. They are one operation, that of the first, with both contents.

        Raises:
            SchemaError: There is one already.
        """
        item = self.items.setdefault(path.renamed(self.names(path)), {})
        if verb in item and _twins(item[verb], operation):
            item[verb]["responses"]["200"]["content"].update(
                operation["responses"]["200"]["content"]
            )
            return
        if verb in item:
            raise SchemaError(
                method.location,
                f"{verb.upper()} {path.path} is bound to {item[verb]['operationId']} already",
                "give one of them another path",
            )
        item[verb] = operation


def _twins(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two operations take the same and answer in different media types."""
    same = all(one.get(part) == other.get(part) for part in ("parameters", "requestBody"))
    contents = [each["responses"]["200"]["content"].keys() for each in (one, other)]
    return same and contents[0].isdisjoint(contents[1])


def _tag(service: Service) -> dict[str, Any]:
    tag: dict[str, Any] = {"name": service.name}
    if service.doc:
        tag["description"] = service.doc
    if service.component:
        tag["x-protoplane-component"] = service.component
    return tag
