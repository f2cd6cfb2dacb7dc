"""``google.protobuf.Timestamp`` and ``Duration``, to the nanosecond.

Source: the comments of google/protobuf/timestamp.proto and duration.proto; RFC 3339.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import Any, ClassVar, Self

from google.protobuf import duration_pb2, timestamp_pb2
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError

from protoplane_base.registry import register
from protoplane_base.wellknown.textual import WellKnown

_BILLION = 10**9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIN_TIMESTAMP = -62_135_596_800
_MAX_TIMESTAMP = 253_402_300_799
_MAX_DURATION = 315_576_000_000
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_DURATION = r"^-?[0-9]+(\.[0-9]{1,9})?s$"
_SECONDS = re.compile(r"(-?)(\d+)(?:\.(\d{1,9}))?s", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Timestamp(WellKnown):
    """A point in time: seconds since 1970-01-01T00:00:00Z, and nanoseconds after that second.

    A ``datetime`` with a time zone, and an RFC 3339 string, are read wherever a timestamp is
    expected. JSON has the string, in UTC.
    """

    seconds: int = 0
    nanos: int = 0

    __pb__: ClassVar = timestamp_pb2.Timestamp
    _json_schema: ClassVar[JsonSchemaValue] = {"type": "string", "format": "date-time"}

    @classmethod
    def now(cls) -> Self:
        """The time of the system's clock."""
        return cls(*divmod(time_ns(), _BILLION))

    @classmethod
    def from_datetime(cls, moment: datetime) -> Self:
        """Read a ``datetime`` that has a time zone.

        Raises:
            ValueError: It has none, so the moment it means is unknown.
        """
        if moment.tzinfo is None:
            raise ValueError(f"{moment!r} has no time zone; give it one, for example datetime.UTC")
        since = moment - _EPOCH
        return cls(since.days * 86_400 + since.seconds, since.microseconds * 1000)

    def to_datetime(self) -> datetime:
        """The ``datetime`` in UTC; nanoseconds are cut to microseconds."""
        return _EPOCH + timedelta(seconds=self.seconds, microseconds=self.nanos // 1000)

    @classmethod
    def from_pb(cls, pb: timestamp_pb2.Timestamp) -> Self:
        """Read a protobuf timestamp."""
        return cls(pb.seconds, pb.nanos)

    def to_pb(self) -> timestamp_pb2.Timestamp:
        """Make a protobuf timestamp."""
        return timestamp_pb2.Timestamp(seconds=self.seconds, nanos=self.nanos)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read an RFC 3339 string or a ``datetime``.

        Raises:
            ValueError: It is neither, or not in the years 1 to 9999.
        """
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise PydanticCustomError("timestamp", "expected a datetime with a time zone")
            return cls.from_datetime(value)
        match = _RFC3339.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise PydanticCustomError(
                "timestamp",
                "expected an RFC 3339 timestamp such as 2026-01-31T12:00:00.5Z",
            )
        date, fraction, sign, hours, minutes = match.groups()
        try:
            since = datetime.fromisoformat(date).replace(tzinfo=UTC) - _EPOCH
        except ValueError as error:
            raise PydanticCustomError(
                "timestamp", "expected a date and time that exist: {why}", {"why": str(error)}
            ) from error
        seconds = since.days * 86_400 + since.seconds
        if sign:
            offset = int(hours) * 3600 + int(minutes) * 60
            seconds += -offset if sign == "+" else offset
        return cls(seconds, _nanos(fraction))._checked()

    def to_json(self) -> str:
        """The RFC 3339 string, in UTC, with 0, 3, 6 or 9 digits of a second.

        Raises:
            ValueError: The time is not in the years 1 to 9999.
        """
        self._checked()
        moment = _EPOCH + timedelta(seconds=self.seconds)
        year = f"{moment.year:04d}"
        return f"{year}{moment:-%m-%dT%H:%M:%S}{_fraction(self.nanos)}Z"

    def __str__(self) -> str:
        return self.to_json()

    def _checked(self) -> Self:
        if not _MIN_TIMESTAMP <= self.seconds <= _MAX_TIMESTAMP:
            raise PydanticCustomError("timestamp", "expected a time in the years 1 to 9999")
        if not 0 <= self.nanos < _BILLION:
            raise PydanticCustomError("timestamp", "expected nanos from 0 to 999999999")
        return self


@dataclass(frozen=True, slots=True)
class Duration(WellKnown):
    """A signed span of time in seconds and nanoseconds; both have the same sign.

    A ``timedelta``, and a string such as ``"1.5s"``, are read wherever a duration is expected.
    """

    seconds: int = 0
    nanos: int = 0

    __pb__: ClassVar = duration_pb2.Duration
    _json_schema: ClassVar[JsonSchemaValue] = {"type": "string", "pattern": _DURATION}

    @classmethod
    def from_seconds(cls, seconds: float) -> Self:
        """The span of so many seconds, to the nearest nanosecond."""
        return cls._from_nanos(round(seconds * _BILLION))

    @classmethod
    def from_timedelta(cls, span: timedelta) -> Self:
        """Read a ``timedelta``."""
        return cls._from_nanos(
            (span.days * 86_400 + span.seconds) * _BILLION + span.microseconds * 1000
        )

    def to_timedelta(self) -> timedelta:
        """The ``timedelta``; nanoseconds are cut to microseconds."""
        return timedelta(seconds=self.seconds, microseconds=int(self.nanos / 1000))

    @property
    def total_seconds(self) -> float:
        """The span in seconds."""
        return self.seconds + self.nanos / _BILLION

    @classmethod
    def from_pb(cls, pb: duration_pb2.Duration) -> Self:
        """Read a protobuf duration."""
        return cls(pb.seconds, pb.nanos)

    def to_pb(self) -> duration_pb2.Duration:
        """Make a protobuf duration."""
        return duration_pb2.Duration(seconds=self.seconds, nanos=self.nanos)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read a string such as ``"1.5s"``, or a ``timedelta``.

        Raises:
            ValueError: It is neither, or longer than 10,000 years.
        """
        if isinstance(value, timedelta):
            return cls.from_timedelta(value)
        match = _SECONDS.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise PydanticCustomError("duration", 'expected seconds such as "1.5s"')
        sign = -1 if match[1] else 1
        return cls(sign * int(match[2]), sign * _nanos(match[3]))._checked()

    def to_json(self) -> str:
        """The string of seconds, with 0, 3, 6 or 9 digits after the point.

        Raises:
            ValueError: The span is longer than 10,000 years, or its parts differ in sign.
        """
        self._checked()
        sign = "-" if self.seconds < 0 or self.nanos < 0 else ""
        return f"{sign}{abs(self.seconds)}{_fraction(abs(self.nanos))}s"

    def __str__(self) -> str:
        return self.to_json()

    @classmethod
    def _from_nanos(cls, nanos: int) -> Self:
        seconds, rest = divmod(abs(nanos), _BILLION)
        return cls(-seconds, -rest) if nanos < 0 else cls(seconds, rest)

    def _checked(self) -> Self:
        if abs(self.seconds) > _MAX_DURATION:
            raise PydanticCustomError("duration", "expected at most 315576000000 seconds")
        if abs(self.nanos) >= _BILLION or self.seconds * self.nanos < 0:
            raise PydanticCustomError(
                "duration", "expected nanos below a second, with the sign of the seconds"
            )
        return self


def _nanos(fraction: str | None) -> int:
    return int(fraction.ljust(9, "0")) if fraction else 0


def _fraction(nanos: int) -> str:
    if nanos == 0:
        return ""
    digits = f"{nanos:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f".{digits}"


register("google.protobuf.Timestamp", Timestamp)
register("google.protobuf.Duration", Duration)
