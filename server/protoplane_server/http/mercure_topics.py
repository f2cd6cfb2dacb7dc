"""Topics of the Mercure protocol: the keys that stand for them, and who selects which.

A topic is any text, most often a URL; a key is a path. Where a topic is a key already it stands for
itself, so subscribers of either see what is published to either. Otherwise what a key may not hold
is percent-encoded, and so is an ``@`` that begins a segment, which no ``*`` in a key expression
matches; an empty segment is written ``%``: ``https://example.com/books/1`` is filed under
``https:/%/example.com/books/1``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from urllib.parse import quote, unquote

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import check_key

MAX_SELECTORS = 64
"""Most topic selectors of one stream."""

_EMPTY = "%"
_RESERVED = frozenset("%#?$*")
_MAX_SELECTOR_LENGTH = 2048
_MAX_CACHED_TOPICS = 4096

_EXPRESSION = re.compile(r"\{([+#./;?&]?)([^{}]*)\}")
_NAME = re.compile(r"(?:\w|%[0-9A-Fa-f]{2}|\.)+(?:\*|:[1-9]\d{0,3})?")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%,=")
_ANY = _UNRESERVED | frozenset(":/?#[]@!$&'()*+,;=")
_ALLOWED = {
    "": _UNRESERVED,
    "+": _ANY,
    "#": _ANY,
    ".": _UNRESERVED,
    "/": _UNRESERVED | {"/"},
    ";": _UNRESERVED | {";"},
    "?": _UNRESERVED | {"&"},
    "&": _UNRESERVED | {"&"},
}


def key_of(topic: str) -> str:
    """The key that stands for a topic.

    Raises:
        PlaneError: INVALID_ARGUMENT; it is empty, too long, or holds control characters.
    """
    if not topic or any(char < " " or "\x7f" <= char < "\xa0" for char in topic):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{topic[:80]!r} is no topic: a topic is not empty and holds no control characters",
        )
    key = "/".join(map(_segment, topic.split("/")))
    check_key(key)
    return key


def topic_of(key: str) -> str:
    """The topic that a key stands for."""
    if "%" not in key:
        return key
    return "/".join("" if each == _EMPTY else unquote(each) for each in key.split("/"))


class Selectors:
    """Topic selectors of a stream; get them from `selectors`.

    A selector is ``*`` for all topics, a topic, or a URI template that a topic is an expansion of.

    Attributes:
        expressions: Key expressions that match the keys of at least all topics that are selected.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._all = "*" in texts
        self._exact = frozenset(texts)
        templates = [text for text in texts if "{" in text]
        self._templates = tuple(map(_template, templates))
        self._found: dict[str, bool] = {}
        self.expressions = ("**",) if self._all else tuple(map(_key_expression, texts))

    def select(self, topic: str) -> bool:
        """Whether any of the selectors selects a topic."""
        if self._all or topic in self._exact:
            return True
        if not self._templates:
            return False
        found = self._found.get(topic)
        if found is None:
            found = any(expands(topic) for expands in self._templates)
            if len(self._found) >= _MAX_CACHED_TOPICS:
                self._found.clear()
            self._found[topic] = found
        return found


def selectors(texts: Sequence[str]) -> Selectors:
    """The selectors of some texts; equal ones get the same object.

    Raises:
        PlaneError: INVALID_ARGUMENT; there is none, there are too many, or one is too long.
    """
    if not texts or len(texts) > MAX_SELECTORS:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"a stream has 1 to {MAX_SELECTORS} topics, not {len(texts)}; say ?topic=…, a topic, a "
            "URI template, or * for all",
        )
    for text in texts:
        if len(text) > _MAX_SELECTOR_LENGTH:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"a topic selector has {len(text)} characters, {_MAX_SELECTOR_LENGTH} are the most",
            )
    return _selectors(tuple(sorted(set(texts))))


@lru_cache(maxsize=256)
def _selectors(texts: tuple[str, ...]) -> Selectors:
    return Selectors(texts)


def _segment(text: str) -> str:
    if not text:
        return _EMPTY
    if text[0] == "@":
        return "%40" + _segment(text[1:]) if text != "@" else "%40"
    if text.isprintable() and _RESERVED.isdisjoint(text):
        return text
    return "".join(
        quote(char, safe="") if char in _RESERVED or not char.isprintable() else char
        for char in text
    )


def _key_expression(selector: str) -> str:
    if "{" not in selector:
        return key_of(selector)
    # All that is sure to come before the first variable, up to a slash.
    sure = selector.partition("{")[0].rpartition("/")[0]
    return f"{key_of(sure)}/**" if sure else "**"


def _template(text: str) -> Callable[[str], bool]:
    """A check whether a topic may be an expansion of a URI template (RFC 6570).

    It follows all ways to read the topic at once, so its time is bounded by the product of the two
    lengths, whatever either holds. What is no expression of RFC 6570 stands for itself.
    """
    parts: list[str | tuple[str, frozenset[str]]] = []
    at = 0
    for match in _EXPRESSION.finditer(text):
        if not all(_NAME.fullmatch(name) for name in match[2].split(",")):
            continue
        parts += [text[at : match.start()], (match[1], _ALLOWED[match[1]])]
        at = match.end()
    parts.append(text[at:])

    def expands(topic: str) -> bool:
        places = {0}
        for part in parts:
            if isinstance(part, str):
                size = len(part)
                places = {place + size for place in places if topic.startswith(part, place)}
            else:
                places = _after_variable(topic, places, *part)
            if not places:
                return False
        return len(topic) in places

    return expands


def _after_variable(
    topic: str, places: set[int], operator: str, allowed: frozenset[str]
) -> set[int]:
    # Variables that are not defined expand to nothing, the operator's own sign included.
    found = set(places)
    reach = -1
    for place in sorted(places):
        if operator not in ("", "+") and not topic.startswith(operator, place):
            continue
        at = max(place, reach)
        while at < len(topic) and (
            topic[at] in allowed
            or not topic[at].isascii()
            or (at == place and topic[at] == operator)
        ):
            at += 1
        found.update(range(max(place, reach), at + 1))
        reach = max(reach, at)
    return found
