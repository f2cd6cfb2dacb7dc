"""Options of a schema, read through the extensions that the schema itself imports.

A request carries the descriptors of every option it uses, so none of them needs to be installed
here: the option messages are made from the request's own pool.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message as PbMessage

from protoplane_codegen.api import Event, HttpRule

_VERBS = ("get", "put", "post", "delete", "patch")


class Options:
    """Reader of custom options.

    Args:
        pool: Pool with the files of the request.
    """

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def extension(self, options: PbMessage, name: str) -> Any:
        """Value of the extension ``name`` in ``options``, or ``None`` where it is not set."""
        try:
            extension = self._pool.FindExtensionByName(name)
            descriptor = self._pool.FindMessageTypeByName(options.DESCRIPTOR.full_name)
        except KeyError:
            return None
        known = message_factory.GetMessageClass(descriptor)()
        known.ParseFromString(options.SerializeToString())
        # The typed interface of extensions is for generated descriptors only.
        untyped: Any = known
        return untyped.Extensions[extension] if untyped.HasExtension(extension) else None

    def event(self, options: PbMessage) -> Event | None:
        """``(protoplane.v1.event)`` of a message."""
        found = self.extension(options, "protoplane.v1.event")
        if found is None:
            return None
        durable = found.DESCRIPTOR.file.enum_types_by_name["Retention"].values_by_name[
            "RETENTION_DURABLE"
        ]
        return Event(key=found.key, durable=found.retention == durable.number)

    def component(self, options: PbMessage) -> str:
        """``(protoplane.v1.component)`` of a service: its default name."""
        found = self.extension(options, "protoplane.v1.component")
        return "" if found is None else str(found.name)

    def http(self, options: PbMessage) -> tuple[HttpRule, ...]:
        """``(google.api.http)`` of a method, the additional bindings after the first."""
        found = self.extension(options, "google.api.http")
        if found is None:
            return ()
        return tuple(_http_rule(rule) for rule in (found, *found.additional_bindings))


def _http_rule(rule: Any) -> HttpRule:
    kind = rule.WhichOneof("pattern")
    if kind == "custom":
        verb, path = rule.custom.kind, rule.custom.path
    else:
        verb, path = (kind or "").upper(), getattr(rule, kind) if kind in _VERBS else ""
    return HttpRule(verb=verb, path=path, body=rule.body, response_body=rule.response_body)
