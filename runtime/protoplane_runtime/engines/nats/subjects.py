"""Keys as NATS subjects, and key expressions as the subjects to read.

A segment becomes a token. What NATS does not take in a token (``.``, ``>``, ``*``, a blank) is
written as ``%`` and two hexadecimal digits, and so is ``%`` itself; other characters stay as they
are, in UTF-8. The rules are those of https://docs.nats.io/nats-concepts/subjects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from protoplane_base import Code, PlaneError

MAX_SUBJECT_BYTES = 2048
"""Most bytes of a subject: with what else stands in its line, a server takes 4,096."""

_SPECIAL = re.compile(r"[%.>* ]")
_ESCAPED = re.compile("%([0-9A-F]{2})")


@lru_cache(maxsize=4096)
def subject_of(prefix: str, key: str) -> str:
    """The subject of a key.

    Args:
        prefix: Tokens that stand before it.
        key: The key, which `check_key` has seen.

    Raises:
        PlaneError: INVALID_ARGUMENT where the subject would be longer than a server takes.
    """
    subject = f"{prefix}.{_tokens(key)}"
    size = len(subject.encode())
    if size > MAX_SUBJECT_BYTES:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"the key {key[:40]!r}... makes a NATS subject of {size} bytes, and "
            f"{MAX_SUBJECT_BYTES} are the most; shorten it",
        )
    return subject


@lru_cache(maxsize=4096)
def key_of(prefix: str, subject: str) -> str:
    """The key that has a subject."""
    tokens = subject[len(prefix) + 1 :].replace(".", "/")
    if "%" not in tokens:
        return tokens
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), tokens)


def subjects_of(prefix: str, expressions: Iterable[str]) -> tuple[str, ...]:
    """The subjects to read for some key expressions; no two of them share a subject.

    They may bring more than the expressions match, where NATS has no wildcard for it: ``**`` in the
    middle takes everything under what stands before it.

    Args:
        prefix: Tokens that stand before each.
        expressions: Key expressions, in their canonical form.
    """
    wanted: set[str] = set()
    for expression in expressions:
        head, star, _ = expression.partition("**")
        parent = head.rstrip("/")
        if not star:
            wanted.add(f"{prefix}.{_tokens(expression)}")
        elif not parent:
            wanted.add(f"{prefix}.>")
        else:
            wanted.add(f"{prefix}.{_tokens(parent)}.>")
            # `>` stands for one token at least, and `**` for none too.
            if expression.endswith("/**"):
                wanted.add(f"{prefix}.{_tokens(parent)}")
    return disjoint(wanted)


def disjoint(subjects: Iterable[str]) -> tuple[str, ...]:
    """Subjects that take in all of the given ones, and of which no two share a subject.

    JetStream refuses a consumer with filters that overlap. One that lies within another is left
    out; two that only meet are replaced by a wider one.
    """
    found: list[list[str]] = []
    due = [subject.split(".") for subject in sorted(subjects)]
    while due:
        one = due.pop()
        clash = next((other for other in found if _meet(one, other)), None)
        if clash is None:
            found.append(one)
            continue
        if _within(one, clash):
            continue
        found.remove(clash)
        due.append(one if _within(clash, one) else _wider(one, clash))
    return tuple(sorted(".".join(tokens) for tokens in found))


def _tokens(path: str) -> str:
    return ".".join(
        segment if segment == "*" else _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", segment)
        for segment in path.split("/")
    )


def _meet(one: Sequence[str], other: Sequence[str]) -> bool:
    for a, b in zip(one, other, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(one) == len(other)


def _within(one: Sequence[str], other: Sequence[str]) -> bool:
    for a, b in zip(one, other, strict=False):
        if b == ">":
            return True
        if a == ">" or b not in (a, "*"):
            return False
    return len(one) == len(other)


def _wider(one: Sequence[str], other: Sequence[str]) -> list[str]:
    merged: list[str] = []
    for a, b in zip(one, other, strict=False):
        if ">" in (a, b):
            break
        merged.append(a if a == b else "*")
    else:
        if len(one) == len(other):
            return merged
    # The shorter of the two is under `>` too if that stands where its last token would.
    return [*merged[: min(len(one), len(other)) - 1], ">"]
