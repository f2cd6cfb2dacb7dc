"""AsyncAPI 3.0 for the events of a proto package.

A channel is a key template, so its address is a key and its parameters are fields of the event.
Payloads are AsyncAPI's own schemas, a superset of JSON Schema draft 7: every tool must read those,
and nothing that our schemas say is lost in them. Everything has the full names of its types, so
that the documents of several packages can be merged.
Source: https://www.asyncapi.com/docs/reference/specification/v3.0.0.
"""

from __future__ import annotations

from typing import Any

from protoplane_base import KeyTemplate
from protoplane_codegen.api import Api, EnumRef, Message
from protoplane_codegen.render.document import info, prose, urn
from protoplane_codegen.render.jsonschema import Definitions

_HTTP_BINDING = "0.3.0"


def render_asyncapi(api: Api, package: str) -> dict[str, Any] | None:
    """Render the document of a package.

    Args:
        api: The API.
        package: A package that it generates code for.

    Returns:
        The document, or ``None`` where the package declares no event.
    """
    files = api.packages()[package]
    events = [
        message for file in files for message in file.all_messages() if message.event is not None
    ]
    if not events:
        return None
    definitions = Definitions(api, None, at="#/components/schemas/", siblings=False)
    by_key: dict[str, list[Message]] = {}
    for message in events:
        by_key.setdefault(_key(message), []).append(message)
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for key, messages in by_key.items():
        channel = messages[0].full_name
        channels[channel] = {
            "address": key,
            "title": messages[0].name,
            **prose(messages[0].doc),
            "messages": {
                message.full_name: {"$ref": f"#/components/messages/{message.full_name}"}
                for message in messages
            },
        }
        if parameters := _parameters(api, key, messages[0]):
            channels[channel]["parameters"] = parameters
        for message in messages:
            operations.update(_operations(channel, key, message))
    return {
        "asyncapi": "3.0.0",
        "id": urn(package),
        "info": info(package, files),
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {message.full_name: _message(definitions, message) for message in events},
            "schemas": definitions.collect(message.full_name for message in events),
        },
    }


def _key(message: Message) -> str:
    assert message.event is not None
    return message.event.key


def _message(definitions: Definitions, message: Message) -> dict[str, Any]:
    assert message.event is not None
    return {
        "name": message.full_name,
        "title": message.name,
        **prose(message.doc),
        "contentType": "application/json",
        "payload": definitions.reference(message.full_name),
        **({"deprecated": True} if message.deprecated else {}),
        "x-protoplane-retention": "durable" if message.event.durable else "ephemeral",
    }


def _parameters(api: Api, key: str, message: Message) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    fields = {field.name: field for field in message.fields}
    for name in KeyTemplate(key).placeholders:
        field = fields[name]
        parameters[name] = {"location": f"$message.payload#/{field.json_name}"}
        if field.doc:
            parameters[name]["description"] = field.doc
        if isinstance(field.type, EnumRef):
            enum = api.enums[field.type.full_name][1]
            parameters[name]["enum"] = [value.name for value in enum.values]
    return parameters


def _operations(channel: str, key: str, message: Message) -> dict[str, Any]:
    retained = (
        "The publisher is told of success once the event is in the log; readers that come back "
        "find there what they missed."
        if message.event is not None and message.event.durable
        else "Only those who listen when it is published are sure to receive it."
    )
    name = message.full_name
    here: dict[str, Any] = {
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"}],
    }
    return {
        f"send.{name}": {
            "action": "send",
            **here,
            "summary": f"Publish {message.name}",
            "description": f"The component publishes the event. {retained}",
        },
        f"receive.{name}": {
            "action": "receive",
            **here,
            "summary": f"Subscribe to {message.name}",
            "description": f"Over HTTP, `GET /events/{key}` answers with server-sent events of "
            f"type `{name}`: the data is a payload, and the id a place in the log to go on from, "
            "by the header `Last-Event-ID`. In the path `*` stands for any one segment and `**` "
            "for any number of them.",
            "bindings": {"http": {"method": "GET", "bindingVersion": _HTTP_BINDING}},
        },
    }
