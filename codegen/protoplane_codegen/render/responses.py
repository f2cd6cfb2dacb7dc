"""OpenAPI objects for what the HTTP door answers beside plain JSON: streams, events and errors.

OpenAPI 3.1 has no words for the parts of a stream, so they stand under ``x-protoplane-events``: the
``data`` of each kind of server-sent event, by the event's type.
Sources: https://html.spec.whatwg.org/multipage/server-sent-events.html,
https://connectrpc.com/docs/protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from protoplane_base import Code
from protoplane_codegen.api import Message
from protoplane_codegen.render.document import prose
from protoplane_codegen.render.jsonschema import Definitions
from protoplane_codegen.render.values import JsonSchema

CONNECT_STREAM = "application/connect+json"
"""Media type of Connect's streaming protocol with messages in JSON."""

EVENTS_PATH = "/events/{key}"
"""Path of the stream of published events; whatever else is under it cannot be reached."""

_ENVELOPES = (
    "Envelopes of Connect's streaming protocol: a byte of flags, the length in four bytes (the "
    "most significant first), and the JSON of one message. The last one of a reply has flag 2 and "
    "holds, where the call failed, its error."
)
_EVENT_ID: JsonSchema = {"type": "string", "pattern": "^[0-9]+-[0-9]+$"}
_END: JsonSchema = {
    "type": "object",
    "properties": {
        "metadata": {
            "description": "Trailing metadata, where there is any.",
            "type": "object",
            "additionalProperties": {"type": "string"},
        }
    },
}
_GAP: JsonSchema = {
    "type": "object",
    "properties": {
        "asked": {**_EVENT_ID, "description": "The event to read on from."},
        "oldest": {
            "description": "The oldest event that is still kept.",
            "anyOf": [_EVENT_ID, {"type": "null"}],
        },
        "next": {**_EVENT_ID, "description": "The next event that will be read."},
    },
    "required": ["asked", "oldest", "next"],
}


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
            "end": {"description": "The reply is complete.", "data": _END},
            "error": {"description": "The call failed; nothing follows.", "data": error},
        },
    )


def published_events(messages: Sequence[Message], definitions: Definitions) -> dict[str, Any]:
    """Operation of the stream of a component's published events, which is at `EVENTS_PATH`.

    Args:
        messages: The events.
        definitions: Where their schemas are.
    """
    events = {
        message.full_name: {
            **prose(message.doc),
            "key": message.event.key,
            "data": definitions.reference(message.full_name),
        }
        for message in messages
        if message.event is not None
    }
    gap = {"description": "Events that the reader wanted are no longer kept.", "data": _GAP}
    stream = _event_stream(
        "Server-sent events. Each published event has its place in the log as `id`, its message "
        "type as `event`, and its key as `key`, a field of our own.",
        {**events, "gap": gap},
    )
    return {
        "tags": ["events"],
        "operationId": "events",
        "summary": "Subscribe to events",
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
                "name": "after",
                "in": "query",
                "description": "Where to begin: after the event of this `id`, at the first one "
                "that was accepted at a time or later, at the `earliest` one that is kept, or "
                "`now`. A time is written as RFC 3339 has it, or in seconds since 1970.",
                "schema": {
                    "anyOf": [
                        {"enum": ["earliest", "now"]},
                        _EVENT_ID,
                        {"type": "string", "format": "date-time"},
                        {"type": "number", "minimum": 0},
                    ],
                    "default": "now",
                },
            },
            {
                "name": "also",
                "in": "query",
                "description": "Further key expressions to follow in the same stream.",
                "schema": {"type": "array", "items": {"type": "string"}, "maxItems": 63},
                "style": "form",
                "explode": True,
            },
            {
                "name": "latest",
                "in": "query",
                "description": "Whether events are left out that a newer one of the same key has "
                "replaced by the time they are sent.",
                "schema": {"type": "boolean", "default": False},
            },
            {
                "name": "envelope",
                "in": "query",
                "description": "What `data` is: the event's message, or a CloudEvent that holds it "
                "and bears no `event` field.",
                "schema": {"enum": ["none", "cloudevents"], "default": "none"},
            },
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The `id` of the last event received, which goes before `after`.",
                "schema": _EVENT_ID,
            },
        ],
        "responses": {
            "200": {"description": "The events.", "content": {"text/event-stream": stream}},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }


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
    detail: JsonSchema = {
        "type": "object",
        "properties": {
            "type": {
                "description": "Full name of a message, such as google.rpc.BadRequest.",
                "type": "string",
            },
            "value": {
                "description": "That message in protobuf's wire format, in base64 without padding.",
                "type": "string",
                "contentEncoding": "base64",
            },
            "debug": {"description": "The message's JSON, where it is known."},
        },
        "required": ["type", "value"],
    }
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
                "items": detail,
            },
        },
        "required": ["code"],
    }


def _event_stream(description: str, events: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema": {"type": "string", "description": description},
        "x-protoplane-events": dict(events),
    }
