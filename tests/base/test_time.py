"""Timestamp and Duration: nanoseconds, limits, and Python's own types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from protoplane_base import Duration, Timestamp

MOMENTS = [
    ("1970-01-01T00:00:00Z", 0, 0),
    ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
    ("9999-12-31T23:59:59.999999999Z", 253_402_300_799, 999_999_999),
    ("2026-01-31T12:00:00.000000001Z", 1_769_860_800, 1),
    ("2026-01-31T12:00:00.500Z", 1_769_860_800, 500_000_000),
    ("2026-01-31T12:00:00.000120Z", 1_769_860_800, 120_000),
    ("1969-12-31T23:59:59.900Z", -1, 900_000_000),
]
SPANS = [
    ("0s", 0, 0),
    ("1.500s", 1, 500_000_000),
    ("-1.500s", -1, -500_000_000),
    ("-0.000000001s", 0, -1),
    ("0.000001s", 0, 1000),
    ("315576000000s", 315_576_000_000, 0),
    ("-315576000000s", -315_576_000_000, 0),
]


@pytest.mark.parametrize(("text", "seconds", "nanos"), MOMENTS)
def test_timestamps_to_the_nanosecond(text: str, seconds: int, nanos: int) -> None:
    moment = Timestamp.model_validate_json(f'"{text}"')
    assert moment == Timestamp(seconds, nanos)
    assert moment.model_dump_json() == f'"{text}"'
    assert str(moment) == text
    assert Timestamp.from_bytes(moment.to_bytes()) == moment


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T14:30:00+02:30",
        "2026-01-31T11:00:00-01:00",
        "2026-01-31T12:00:00.0Z",
        "2026-01-31T12:00:00.000000000+00:00",
    ],
)
def test_timestamps_in_other_zones_and_with_other_fractions(text: str) -> None:
    moment = Timestamp.model_validate_json(f'"{text}"')
    assert moment.model_dump_json() == '"2026-01-31T12:00:00Z"'


@pytest.mark.parametrize(
    "text",
    [
        '"2026-01-31"',
        '"2026-01-31 12:00:00Z"',
        '"2026-01-31t12:00:00z"',
        '"2026-01-31T12:00:00"',
        '"2026-02-30T12:00:00Z"',
        '"2026-01-31T25:00:00Z"',
        '"2026-01-31T12:00:00.0000000001Z"',
        '"0000-01-01T00:00:00Z"',
        '"0001-01-01T00:00:00+01:00"',
        '"9999-12-31T23:59:59-01:00"',
        '"10000-01-01T00:00:00Z"',
        "1769860800",
        "null",
        "{}",
    ],
)
def test_what_is_no_timestamp(text: str) -> None:
    with pytest.raises(ValidationError):
        Timestamp.model_validate_json(text)


@pytest.mark.parametrize(("text", "seconds", "nanos"), SPANS)
def test_durations_to_the_nanosecond(text: str, seconds: int, nanos: int) -> None:
    span = Duration.model_validate_json(f'"{text}"')
    assert span == Duration(seconds, nanos)
    assert span.model_dump_json() == f'"{text}"'
    assert str(span) == text
    assert Duration.from_bytes(span.to_bytes()) == span


@pytest.mark.parametrize(
    "text",
    [
        *('"1"', '"1.5"', '"s"', '"1 s"', '"+1s"', '"1.s"', '".5s"', '"1.0000000001s"', '"1e3s"'),
        *('"315576000001s"', '"-315576000001s"', "1", "null"),
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValidationError):
        Duration.model_validate_json(text)


@pytest.mark.parametrize(
    "value",
    [
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=-62_135_596_801),
        Timestamp(nanos=-1),
        Timestamp(nanos=10**9),
        Duration(seconds=315_576_000_001),
        Duration(seconds=1, nanos=-1),
        Duration(nanos=10**9),
    ],
)
def test_what_came_out_of_range_from_the_wire_has_no_json(value: Timestamp | Duration) -> None:
    assert type(value).from_bytes(value.to_bytes()) == value
    with pytest.raises(ValueError, match="expected"):
        value.to_json()


@given(st.datetimes(timezones=st.timezones() | st.just(UTC)))
def test_datetimes_round_trip(moment: datetime) -> None:
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        return
    assert Timestamp.from_datetime(moment).to_datetime() == utc


@given(st.timedeltas(timedelta(days=-3_652_500), timedelta(days=3_652_500)))
def test_timedeltas_round_trip(span: timedelta) -> None:
    assert Duration.from_timedelta(span).to_timedelta() == span
    assert Duration.model_validate_json(Duration.from_timedelta(span).model_dump_json()) == (
        Duration.from_timedelta(span)
    )


def test_a_datetime_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        Timestamp.from_datetime(datetime(2026, 1, 31))  # noqa: DTZ001
    zone = timezone(timedelta(hours=2))
    assert Timestamp.from_datetime(datetime(1970, 1, 1, 2, tzinfo=zone)) == Timestamp()


def test_values_are_ordered_frozen_and_hashable() -> None:
    assert Timestamp(1, 2) < Timestamp(1, 3) < Timestamp(2)
    assert {Duration(1): "one"}[Duration(1)] == "one"
    with pytest.raises(AttributeError):
        Timestamp().seconds = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert Timestamp.now() > Timestamp(1_700_000_000)


def test_spans_from_seconds() -> None:
    assert Duration.from_seconds(-1.5) == Duration(-1, -500_000_000)
    assert Duration(1, 500_000_000).total_seconds == 1.5
    assert Duration.from_seconds(1e-9) == Duration(0, 1)
