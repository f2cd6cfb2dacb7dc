"""Path templates of ``google.api.http``: pure, from template and path to field values.

Source: the grammar in google/api/http.proto::

    Template = "/" Segments [ ":" LITERAL ] ;
    Segment  = "*" | "**" | LITERAL | "{" FieldPath [ "=" Segments ] "}" ;
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

_VARIABLE = re.compile(r"\{([A-Za-z_][\w.]*)(?:=([^{}]*))?\}")
# What a value of several segments keeps as it is: an escaped slash is no separator.
_ESCAPED_SLASH = re.compile("(%2[fF])")


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A template, ready to match.

    Attributes:
        text: As the schema has it.
        pattern: What matches a path that is still percent-encoded.
        fields: Path of the field that each group fills, with whether it may span segments.
        weight: How specific it is: of two that match, the heavier one is meant.
    """

    text: str
    pattern: re.Pattern[str]
    fields: tuple[tuple[str, bool], ...]
    weight: tuple[int, int]

    @property
    def literal(self) -> bool:
        """Whether it matches one path only."""
        return not self.fields and "*" not in self.text

    def match(self, raw_path: str) -> dict[str, str] | None:
        """Values of the fields that a path fills, decoded; ``None`` where it does not match."""
        found = self.pattern.fullmatch(raw_path)
        if found is None:
            return None
        return {
            field: _decoded(value, spans=spans)
            for (field, spans), value in zip(self.fields, found.groups(), strict=True)
        }


def parse_template(text: str) -> PathTemplate:
    """Read a template.

    Raises:
        ValueError: It does not follow the grammar.
    """
    if not text.startswith("/"):
        raise ValueError(f"the path template {text!r} does not start with '/'")
    body, verb = _split_verb(text)
    pattern = ""
    fields: list[tuple[str, bool]] = []
    at = 0
    for variable in _VARIABLE.finditer(body):
        pattern += _segments(body[at : variable.start()], text)
        inner = variable[2] if variable[2] is not None else "*"
        pattern += f"({_segments(inner, text)})"
        fields.append((variable[1], inner != "*"))
        at = variable.end()
    pattern += _segments(body[at:], text)
    if verb:
        pattern += ":" + re.escape(verb)
    plain = _VARIABLE.sub("", body)
    return PathTemplate(
        text=text,
        pattern=re.compile(pattern),
        fields=tuple(fields),
        weight=(int("**" not in body), len(plain.replace("*", "")) + 1000 * bool(verb)),
    )


def _split_verb(text: str) -> tuple[str, str]:
    head, colon, verb = text.rpartition(":")
    return (head, verb) if colon and "/" not in verb and "}" not in verb else (text, "")


def _segments(text: str, template: str) -> str:
    if "{" in text or "}" in text:
        raise ValueError(f"the braces of the path template {template!r} do not match")
    parts: list[str] = []
    for part in text.split("/"):
        if part == "**":
            parts.append(".*")
        elif part == "*":
            parts.append("[^/]+")
        elif "*" in part:
            raise ValueError(f"{part!r} in the path template {template!r} is no segment")
        else:
            parts.append(re.escape(part))
    return "/".join(parts)


def _decoded(value: str, *, spans: bool) -> str:
    if not spans:
        return unquote(value)
    return "".join(
        part if _ESCAPED_SLASH.fullmatch(part) else unquote(part)
        for part in _ESCAPED_SLASH.split(value)
    )
