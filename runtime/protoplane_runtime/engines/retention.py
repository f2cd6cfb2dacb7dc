"""How long events are kept: the rules, how a URL writes them, and which of them a key is under.

``local:/folder?retain=forge/tokens/**:age=1h,count=10000,bytes=50MB&retain=**:bytes=2GB`` has two:
what follows each ``retain=`` is a key expression that ends in ``**``, a colon, and bounds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import KeyMatcher, check_key

_T = TypeVar("_T")

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
_QUANTITY = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)([A-Za-z]*)", re.ASCII)
_MAX_BOUND = 1 << 62
_MAX_AGE_S = 1e9
_FORM = "write retain=forge/tokens/**:age=1h,count=10000,bytes=50MB, with one bound or several"


@dataclass(frozen=True, slots=True)
class Retention:
    """How long the events under some keys are kept; what passes any bound goes.

    A key is under the rule with the longest prefix of its segments, and under no other.

    Attributes:
        prefix: First segments of the keys, for example ``forge/captions``; "" for all keys that no
            other rule covers.
        max_age_s: Seconds after which an event goes.
        max_events: Most events that are kept.
        max_bytes: Most bytes that they may take together, without what the disk adds.
    """

    prefix: str = ""
    max_age_s: float | None = None
    max_events: int | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.prefix:
            check_key(self.prefix)
        for bound in (self.max_age_s, self.max_events, self.max_bytes):
            if bound is not None and bound <= 0:
                raise ValueError("a retention keeps something: its bounds are greater than 0")


def split(rest: str) -> tuple[str, tuple[Retention, ...] | None]:
    """Take an engine's URL apart, without its scheme.

    Args:
        rest: ``<folder>?retain=…&retain=…``; the rules may be percent-encoded.

    Returns:
        What stands before the question mark, and the rules; ``None`` where it has none.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong with it.
    """
    place, mark, query = rest.partition("?")
    if not mark:
        return place, None
    rules: dict[str, Retention] = {}
    for setting in query.split("&"):
        name, _, value = setting.partition("=")
        if name != "retain":
            raise _bad(f"an engine's URL has no setting {name!r}")
        rule = parse(unquote(value))
        if rule.prefix in rules:
            raise _bad(f"two rules say what is kept under {rule.prefix or '**'!r}")
        rules[rule.prefix] = rule
    return place, tuple(rules.values())


def parse(text: str) -> Retention:
    """Read one rule: ``forge/tokens/**:age=1h,count=10000,bytes=50MB``.

    Ages have a unit of ``s m h d w``, bytes one of ``B KB MB GB TB KiB MiB GiB TiB`` or none. A
    plain key, ``forge/tokens``, stands for all under it as well.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong with it.
    """
    # The last colon: a key may hold some, and a bound none.
    expression, colon, bounds = text.rpartition(":")
    if not (colon and expression and bounds):
        raise _bad(f"{text!r} is no rule of retention")
    prefix = "" if expression == "**" else expression.removesuffix("/**")
    if "*" in prefix:
        raise _bad(f"a rule covers all keys that begin alike, and {expression!r} says more than so")
    if prefix:
        check_key(prefix)
    found: dict[str, str] = {}
    for bound in bounds.split(","):
        name, equals, value = bound.partition("=")
        if not equals or name not in ("age", "count", "bytes"):
            raise _bad(f"{bound!r} is no bound of a retention")
        if name in found:
            raise _bad(f"{text!r} says {name} twice")
        found[name] = value
    return Retention(
        prefix,
        max_age_s=_age(found["age"]) if "age" in found else None,
        max_events=_count(found["count"]) if "count" in found else None,
        max_bytes=_bytes(found["bytes"]) if "bytes" in found else None,
    )


def format_rule(rule: Retention) -> str:
    """Write a rule so that `parse` reads the same."""
    bounds = [
        f"{name}={bound}"
        for name, bound in (
            ("age", None if rule.max_age_s is None else f"{_decimal(rule.max_age_s)}s"),
            ("count", rule.max_events),
            ("bytes", rule.max_bytes),
        )
        if bound is not None
    ]
    return f"{rule.prefix}/**:{','.join(bounds)}" if rule.prefix else f"**:{','.join(bounds)}"


def rule_of(key: str, rules: Mapping[str, _T]) -> _T:
    """What a key is under, of what is given by prefix; "" must be among them."""
    if len(rules) > 1:
        prefix = key
        while prefix:
            if prefix in rules:
                return rules[prefix]
            prefix = prefix.rpartition("/")[0]
    return rules[""]


def floor_of(match: KeyMatcher, floors: Mapping[str, int]) -> int:
    """Greatest sequence of a deleted event that the expressions may have matched.

    Args:
        match: The key expressions.
        floors: Greatest sequence that was deleted under each rule, by prefix; "" is among them.
    """
    found = 0
    for expression in match.expressions:
        wild = expression.find("*")
        literal = expression if wild < 0 else expression[:wild].rstrip("/")
        under = literal
        while under and under not in floors:
            under = under.rpartition("/")[0]
        # The rule that covers all it may match, and those within.
        found = max(found, floors[under])
        if wild >= 0:
            inner = f"{literal}/" if literal else ""
            found = max(
                found, *(at for prefix, at in floors.items() if prefix.startswith(inner)), 0
            )
    return found


def _age(text: str) -> float:
    number, unit = _quantity(text, "age")
    if unit not in _SECONDS:
        raise _bad(f"the age {text!r} needs a unit: s, m, h, d or w")
    seconds = number * _SECONDS[unit]
    if not 0 < seconds <= _MAX_AGE_S:
        raise _bad(f"an age is more than 0 s and at most {_MAX_AGE_S:.0f} s, and {text!r} is not")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < _MAX_BOUND):
        raise _bad(f"the count {text!r} is no number of 1 or more")
    return int(text)


def _bytes(text: str) -> int:
    number, unit = _quantity(text, "bytes")
    if unit not in _BYTES:
        raise _bad(f"the bytes {text!r} have no such unit; there are {', '.join(_BYTES)[2:]}")
    size = int(number * _BYTES[unit])
    if not 0 < size < _MAX_BOUND:
        raise _bad(f"the bytes {text!r} are not 1 or more")
    return size


def _quantity(text: str, name: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise _bad(f"the {name} {text!r} is no number with a unit")
    number = match[1]
    return float(number) if "." in number else int(number), match[2]


def _decimal(number: float) -> str:
    return str(int(number)) if math.floor(number) == number else f"{number:.9f}".rstrip("0")


def _bad(fault: str) -> PlaneError:
    return PlaneError(Code.INVALID_ARGUMENT, f"{fault}; {_FORM}")


def check_rules(rules: Sequence[Retention]) -> dict[str, Retention]:
    """The rules by prefix, with one for all other keys.

    Raises:
        ValueError: Two have the same prefix.
    """
    found = {rule.prefix: rule for rule in rules}
    if len(found) != len(rules):
        raise ValueError("two rules of retention have the same prefix")
    return {"": Retention()} | found
