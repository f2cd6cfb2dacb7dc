"""OpenAPI objects for what the HTTP door answers beside plain JSON: streams, events and errors.

OpenAPI 3.1 has no words for the parts of a stream, so they stand under ``x-protoplane-events``: the
``data`` of each kind of server-sent event, by the event's name.
Sources: https://html.spec.whatwg.org/multipage/server-sent-events.html,
https://connectrpc.com/docs/protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from protoplane_base import Code

from protoplane_codegen.api import Message
from protoplane_codegen.render.jsonschema import Definitions
from protoplane_codegen.render.values import JsonSchema

CONNECT_STREAM = "application/connect+json"
"""Media type of Connect's streaming protocol with messages in JSON."""

_ENVELOPES = (
    "Envelopes of Connect's streaming protocol: a byte of flags, the length in four bytes (the "
    "most significant first), and the JSON of one message. The last one of a reply has flag 2 and "
    "holds, where the call failed, its error."
)


def connect_stream(message: JsonSchema) -> dict[str, Any]:
    """Media type object of a stream of messages in Connect's envelopes."""
    return {"schema": {"description": _ENVELOPES}, "x-protoplane-message": message}


def event_stream(message: JsonSchema, error: JsonSchema) -> dict[str, Any]:
    """Media type object of a reply stream in server-sent events."""
    return _event_stream(
        "Server-sent events: one for each message, then one of type `end`, or one of type `error` "
        "where the call failed.",
        {
            "message": {"description": "One message of the reply.", "data": message},
            "end": {
                "description": "The reply is complete.",
                "data": {"type": "object"},
            },
            "error": {
                "description": "The call failed; nothing follows.",
                "data": error,
            },
        },
    )


def published_events(
    messages: Sequence[Message], definitions: Definitions, error: JsonSchema
) -> tuple[str, dict[str, Any]]:
    """Path and operation of the stream of a component's published events.

    Args:
        messages: The events; at least one.
        definitions: Where their schemas are.
        error: Schema of an error.
    """
    schemas = [definitions.reference(message.full_name) for message in messages]
    keys = "\n".join(
        f"- `{message.event.key}`: {definitions.name(message.full_name)}"
        for message in messages
        if message.event is not None
    )
    stream = _event_stream(
        "Server-sent events: one for each published event, its `id` the event's position in the "
        "log.",
        {
            "message": {
                "description": "An event whose key matches.",
                "data": schemas[0] if len(schemas) == 1 else {"anyOf": schemas},
            },
            "gap": {
                "description": "Events that the reader asked for are no longer kept; says which.",
                "data": {"type": "object"},
            },
            "error": {
                "description": "The subscription failed; nothing follows.",
                "data": error,
            },
        },
    )
    operation = {
        "tags": ["events"],
        "operationId": "events",
        "summary": "Subscribe to events",
        "description": f"Streams events as they are published. Their keys are:\n\n{keys}",
        "parameters": [
            {
                "name": "key",
                "in": "path",
                "required": True,
                "description": "A key, or a key expression in which `*` stands for one segment and "
                "`**` for any number of them. May span several segments; its slashes are not "
                "escaped.",
                "schema": {"type": "string", "minLength": 1},
            },
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The `id` of the last event received: the stream goes on after it.",
                "schema": {"type": "string"},
            },
        ],
        "responses": {
            "200": {"description": "The events.", "content": {"text/event-stream": stream}},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    return "/events/{key}", operation


def error_response(error: JsonSchema) -> dict[str, Any]:
    """Response object of a failed call."""
    statuses = "\n".join(
        f"- {code.http_status}: `{code.connect_name}`" for code in Code if code is not Code.OK
    )
    return {
        "description": f"The call failed. The HTTP status follows from the code:\n\n{statuses}",
        "content": {"application/json": {"schema": error}},
    }


def error_schema() -> JsonSchema:
    """Schema of an error in the Connect protocol."""
    return {
        "title": "Error",
        "description": "Why a call failed, as the Connect protocol says it.",
        "type": "object",
        "properties": {
            "code": {
                "description": "What kind of failure it is.",
                "type": "string",
                "enum": [code.connect_name for code in Code if code is not Code.OK],
            },
            "message": {"description": "What went wrong, for a person.", "type": "string"},
            "details": {
                "description": "What a program may want to know beside it.",
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "type": {
                            "description": "Full name of a message, such as google.rpc.BadRequest.",
                            "type": "string",
                        },
                        "value": {
                            "description": "That message in the protobuf wire format; base64 "
                            "without padding.",
                            "type": "string",
                            "contentEncoding": "base64",
                        },
                        "debug": {"description": "The message's JSON, where it is known."},
                    },
                    "required": ["type", "value"],
                },
            },
        },
        "required": ["code"],
    }


def _event_stream(description: str, events: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": {"type": "string", "description": description},
        "x-protoplane-events": events,
    }
