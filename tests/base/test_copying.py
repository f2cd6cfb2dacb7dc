"""A copy is equal, and nothing that happens to it happens to what it was made of."""

from __future__ import annotations

from typing import Any

import pytest
from tests.base.sample import Color, Sample

from protoplane_base import Struct, Timestamp, copied, unknown_bytes
from protoplane_base.wellknown.any import Any as AnyValue

UNKNOWN = bytes([0xA0, 0x06, 0x07])  # field 100, a varint


def whole() -> Sample:
    return Sample.from_bytes(
        Sample(
            wide=2**40,
            display_name="é",
            maybe=0,
            text="t",
            inner=Sample(items=[1, 2], inner=Sample(number=5)),
            items=[7, 8],
            color=Color.COLOR_RED,
        ).to_bytes()
        + UNKNOWN
    )


def test_a_copy_is_equal_to_the_byte() -> None:
    sample = whole()
    twin = copied(sample)
    assert twin == sample
    assert type(twin) is Sample
    assert twin.to_bytes() == sample.to_bytes()
    assert unknown_bytes(twin) == UNKNOWN
    assert twin.model_fields_set == sample.model_fields_set


def test_a_copy_shares_nothing_that_can_be_changed() -> None:
    sample = whole()
    before = sample.to_bytes()
    twin = copied(sample)
    assert twin.inner is not None
    assert twin.inner.inner is not None
    twin.items.append(9)
    twin.inner.items.clear()
    twin.inner.inner.number = 6
    twin.number = 3
    twin.display_name = "other"
    assert sample.to_bytes() == before
    assert twin.to_bytes() != before


def test_fields_that_are_set_later_are_the_copys_own() -> None:
    sample = Sample()
    twin = copied(sample)
    twin.wide = 1
    assert sample.model_fields_set == set()
    assert twin.model_fields_set == {"wide"}


@pytest.mark.parametrize(
    "value",
    [None, True, 1, 1.5, "a", b"a", Color.COLOR_RED, Timestamp(1, 2), [1, [2]], {"a": [1]}],
)
def test_values_that_are_no_messages(value: Any) -> None:
    assert copied(value) == value


def test_what_it_does_not_know_is_copied_deeply() -> None:
    for value in ({"a": {"b": [1, {"c": None}]}}, AnyValue(), Struct):
        assert copied(value) == value
    nested: dict[str, Any] = {"a": {"b": [1]}}
    copied(nested)["a"]["b"].append(2)
    assert nested == {"a": {"b": [1]}}
