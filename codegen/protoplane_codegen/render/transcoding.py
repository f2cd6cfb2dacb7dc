"""Bindings of ``google.api.http`` read: path templates, and the fields that travel in the query.

Source: the comments of google/api/http.proto.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from protoplane_codegen.api import Api, EnumRef, Field, Message, Scalar
from protoplane_codegen.render.wellknown import TEXTUAL, WELL_KNOWN, WRAPPERS

_TOKEN = re.compile(r"\{([A-Za-z_][\w.]*)(?:=([^{}]*))?\}|\*\*?", re.ASCII)
_WILDCARD = re.compile(r"\*\*?")
_PARAMETER = re.compile(r"\{[^}]*\}")
_VERB = re.compile(r":[^/{}]*$")
# A query names fields by hand; nobody writes one this deep, and types that lead to each other in
# a circle would otherwise fill pages.
_QUERY_DEPTH = 4


@dataclass(frozen=True, slots=True)
class PathParameter:
    """A part of a path that varies.

    Attributes:
        name: Its name in `PathTemplate.path`.
        field: Path of the request's field that it is, or is a part of; empty for a bare ``*``.
        whole: What the field's value as a whole looks like, for example ``models/{name}``.
        spans: Whether it may hold slashes.
    """

    name: str
    field: str
    whole: str
    spans: bool


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A path template in the form of OpenAPI, whose parameters are one or more segments each.

    Attributes:
        path: For example ``/v1/models/{name}:load`` for ``/v1/{name=models/*}:load``.
        parameters: In order.
        fields: Paths of the request's fields that the template binds, in order.
    """

    path: str
    parameters: tuple[PathParameter, ...]
    fields: tuple[str, ...]

    @property
    def shape(self) -> str:
        """The path without names: paths of one shape are the same path in OpenAPI."""
        spans = iter(self.parameters)
        return _PARAMETER.sub(lambda _: "{**}" if next(spans).spans else "{}", self.path)

    def renamed(self, names: tuple[str, ...]) -> str:
        """The path with other names for its parameters."""
        given = iter(names)
        return _PARAMETER.sub(lambda _: f"{{{next(given)}}}", self.path)


def parse_path(template: str) -> PathTemplate:
    """Read a path template.

    Raises:
        ValueError: It is none; the message says why.
    """
    if not template.startswith("/"):
        raise ValueError("a path starts with '/'")
    rest = _TOKEN.sub("", template)
    if "{" in rest or "}" in rest:
        raise ValueError("its braces do not match, or do not hold a field")
    for segment in re.split(r"[/={}]", _VERB.sub("", template)):
        if "*" in segment and segment not in ("*", "**"):
            raise ValueError(f"{segment!r} is no segment")
    parameters: list[PathParameter] = []
    fields: list[str] = []

    def expand(match: re.Match[str]) -> str:
        field = match[1] or ""
        pattern = (match[2] or "*") if field else match[0]
        wildcards = _WILDCARD.findall(pattern)
        if field:
            fields.append(field)
        bare = sum(not parameter.field for parameter in parameters)
        names = [
            # No field path has a part that is a number, so these are taken by nobody.
            f"{field}.{index}" if len(wildcards) > 1 else field or f"segment.{bare + index}"
            for index in range(1, len(wildcards) + 1)
        ]
        given = iter(names)
        whole = _WILDCARD.sub(lambda _: "{" + next(given) + "}", pattern)
        parameters.extend(
            PathParameter(name=name, field=field, whole=whole, spans=wildcard == "**")
            for name, wildcard in zip(names, wildcards, strict=True)
        )
        return whole

    path = _TOKEN.sub(expand, template)
    if len(set(fields)) < len(fields):
        raise ValueError("it binds a field twice")
    return PathTemplate(path=path, parameters=tuple(parameters), fields=tuple(fields))


def find_field(api: Api, message: Message, path: str) -> Field | None:
    """The field at a dotted path of schema names, or ``None`` where there is none."""
    name, _, rest = path.partition(".")
    field = next((field for field in message.fields if field.name == name), None)
    if field is None or not rest:
        return field
    if isinstance(field.type, Scalar | EnumRef) or field.presence in ("repeated", "map"):
        return None
    return find_field(api, api.messages[field.type.full_name][1], rest)


def query_fields(api: Api, message: Message, bound: Collection[str]) -> Iterator[tuple[str, Field]]:
    """Fields of a request that travel in the query, with their names there.

    A name is a path of JSON names, for example ``page.size``. Fields that a query cannot carry
    are left out: maps, repeated messages, and messages of free form.

    Args:
        api: The API.
        message: The request.
        bound: Paths of schema names that the path and the body carry.
    """
    yield from _query_fields(api, message, bound, (), ())


def _query_fields(
    api: Api,
    message: Message,
    bound: Collection[str],
    parents: tuple[Field, ...],
    around: tuple[str, ...],
) -> Iterator[tuple[str, Field]]:
    around = (*around, message.full_name)
    for field in message.fields:
        fields = (*parents, field)
        if ".".join(each.name for each in fields) in bound or field.presence == "map":
            continue
        name = ".".join(each.json_name for each in fields)
        if isinstance(field.type, Scalar | EnumRef):
            yield name, field
            continue
        full_name = field.type.full_name
        if field.presence == "repeated":
            continue
        if full_name in TEXTUAL or full_name in WRAPPERS:
            yield name, field
        elif full_name not in WELL_KNOWN and full_name not in around and len(fields) < _QUERY_DEPTH:
            yield from _query_fields(api, api.messages[full_name][1], bound, fields, around)
