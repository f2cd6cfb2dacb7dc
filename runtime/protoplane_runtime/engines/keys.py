"""Keys and key expressions: their form, and which key an expression matches.

A key is a path such as ``forge/captions/42``. In a key expression a segment may be ``*`` (exactly
one segment, whatever it is) or ``**`` (any number of segments, also none). Neither stands for a
segment that begins with ``@``: such keys, which are mostly internal, are matched only by what names
that segment. The form and the meaning are Zenoh's, without its ``$*``
(https://zenoh.io/docs/manual/abstractions/).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from protoplane_base import Code, PlaneError

MAX_KEY_LENGTH = 1024
"""Most characters of a key or a key expression."""

KNOWN_KEYS: set[str] = set()
"""Keys that were checked before, some of them: for whoever checks keys all the time."""

_MAX_CACHED_KEYS = 4096
_RESERVED = frozenset("#?$")


class KeyMatcher:
    """Tells whether any of some key expressions matches a key; get one from `matcher`.

    What it finds is kept for the keys it saw last, so asking again costs one look-up.
    """

    __slots__ = ("_any", "_every", "_found", "_literal", "_patterns", "_prefixes", "expressions")

    def __init__(self, expressions: tuple[str, ...]) -> None:
        self.expressions = expressions
        self._literal = frozenset(text for text in expressions if "*" not in text)
        # What needs no look at single segments: `a/b/**` is a prefix, and `a/b` itself.
        self._any = "**" in expressions
        prefixes = {text[:-3] for text in expressions if text.endswith("/**")}
        prefixes = {prefix for prefix in prefixes if "*" not in prefix}
        self._prefixes = tuple(f"{prefix}/" for prefix in prefixes)
        self._literal |= prefixes
        self._patterns = tuple(
            tuple(text.split("/")) for text in expressions if "*" in text.removesuffix("/**")
        )
        self._every = tuple(tuple(text.split("/")) for text in expressions)
        self._found: dict[str, bool] = {}

    def matches(self, key: str) -> bool:
        """Whether one of the expressions matches ``key``, which must be a key."""
        if "@" in key and (key[0] == "@" or "/@" in key):
            return self._search(key, self._every)
        if self._any:
            return True
        if key in self._literal or key.startswith(self._prefixes):
            return True
        return bool(self._patterns) and self._search(key, self._patterns)

    def _search(self, key: str, patterns: Sequence[Sequence[str]]) -> bool:
        found = self._found.get(key)
        if found is None:
            segments = key.split("/")
            found = any(_match(pattern, segments) for pattern in patterns)
            if len(self._found) >= _MAX_CACHED_KEYS:
                self._found.clear()
            self._found[key] = found
        return found


def check_key(key: str) -> None:
    """Make sure that a text is a key.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    if key in KNOWN_KEYS:
        return
    fault = _fault(key)
    if fault is None and "*" in key:
        fault = "'*' belongs in a key expression, not in a key"
    if fault is not None:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{_shown(key)} is no key: {fault}")
    if len(KNOWN_KEYS) >= _MAX_CACHED_KEYS:
        KNOWN_KEYS.clear()
    KNOWN_KEYS.add(key)


def matcher(expressions: Sequence[str]) -> KeyMatcher:
    """The matcher of some key expressions; equal ones get the same object.

    Raises:
        PlaneError: INVALID_ARGUMENT; one of them is no key expression, or there is none.
    """
    if isinstance(expressions, str):
        expressions = (expressions,)
    if not expressions:
        raise PlaneError(Code.INVALID_ARGUMENT, "a reader needs at least one key expression")
    return _matcher(tuple(sorted({canonical(text) for text in expressions})))


def canonical(expression: str) -> str:
    """The shortest way to write a key expression: ``a/**/**/*`` is ``a/*/**``.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong.
    """
    fault = _fault(expression)
    if fault is None and any(
        "*" in segment and segment not in ("*", "**") for segment in expression.split("/")
    ):
        fault = "'*' and '**' each stand for whole segments"
    if fault is not None:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{_shown(expression)} is no key expression: {fault}"
        )
    if "**" not in expression:
        return expression
    segments: list[str] = []
    open_end = False  # A `**` is due; every `*` that follows goes before it.
    for segment in expression.split("/"):
        if segment == "**":
            open_end = True
            continue
        if open_end and segment != "*":
            segments.append("**")
            open_end = False
        segments.append(segment)
    if open_end:
        segments.append("**")
    return "/".join(segments)


@lru_cache(maxsize=1024)
def _matcher(expressions: tuple[str, ...]) -> KeyMatcher:
    return KeyMatcher(expressions)


def _fault(text: str) -> str | None:
    if not text:
        return "it is empty"
    if len(text) > MAX_KEY_LENGTH:
        return f"it has {len(text)} characters, and {MAX_KEY_LENGTH} are the most"
    if text.startswith("/") or text.endswith("/"):
        return "it neither starts nor ends with '/'"
    if "//" in text:
        return "it has an empty segment"
    if not text.isprintable() or not _RESERVED.isdisjoint(text):
        return "it may hold no control characters and none of '#', '?', '$'"
    return None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _match(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    # Greedy, going back only to the last `**`: at worst the product of the two lengths.
    at = here = 0
    star = resume = -1
    while at < len(segments):
        if here < len(pattern) and pattern[here] == "**":
            star, resume = here, at
            here += 1
        elif here < len(pattern) and (
            pattern[here] == segments[at] or (pattern[here] == "*" and segments[at][0] != "@")
        ):
            here += 1
            at += 1
        elif star >= 0 and segments[resume][0] != "@":
            resume += 1
            here, at = star + 1, resume
        else:
            return False
    return all(rest == "**" for rest in pattern[here:])
