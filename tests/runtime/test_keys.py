"""Key expressions match what the naive reading of their definition says."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import MAX_KEY_LENGTH, canonical, check_key, matcher

segments = st.sampled_from(["a", "b", "ab", "@a"])
keys = st.lists(segments, min_size=1, max_size=6).map("/".join)
expressions = st.lists(
    st.one_of(segments, st.sampled_from(["*", "**"])), min_size=1, max_size=6
).map("/".join)


def naive(pattern: list[str], key: list[str]) -> bool:
    if not pattern:
        return not key
    first, *rest = pattern
    if first == "**":
        plain = [not segment.startswith("@") for segment in key]
        return any(all(plain[:taken]) and naive(rest, key[taken:]) for taken in range(len(key) + 1))
    matched = bool(key) and (first == key[0] or (first == "*" and not key[0].startswith("@")))
    return matched and naive(rest, key[1:])


@given(expressions, keys)
@example("**", "a")
@example("a/**", "a")
@example("**/a", "a")
@example("a/**/*", "a")
@example("**/a/**/b", "a/b/a")
@example("**", "@a/b")
@example("a/**", "a/b/@a")
@example("@a/**", "@a/b")
@example("**/@a/**", "a/@a/b")
def test_matches_as_the_naive_matcher(expression: str, key: str) -> None:
    expected = naive(expression.split("/"), key.split("/"))
    assert matcher([expression]).matches(key) is expected
    assert matcher([expression]).matches(key) is expected  # Now from what it remembers.
    assert matcher([expression, "never/this"]).matches(key) is expected


@given(expressions, keys)
def test_matches_as_zenoh_does(expression: str, key: str) -> None:
    zenoh = pytest.importorskip("zenoh")
    theirs = zenoh.KeyExpr(canonical(expression)).intersects(zenoh.KeyExpr(key))
    assert matcher([expression]).matches(key) is theirs


@given(st.lists(expressions, min_size=1, max_size=4), keys)
def test_any_of_several(several: list[str], key: str) -> None:
    expected = any(naive(text.split("/"), key.split("/")) for text in several)
    assert matcher(several).matches(key) is expected


@given(expressions, keys)
def test_canonical_form_means_the_same(expression: str, key: str) -> None:
    short = canonical(expression)
    assert len(short) <= len(expression)
    assert canonical(short) == short
    assert naive(short.split("/"), key.split("/")) is naive(expression.split("/"), key.split("/"))


@given(keys)
def test_a_key_matches_itself(key: str) -> None:
    check_key(key)
    assert matcher(key).matches(key)


def test_equal_expressions_share_a_matcher() -> None:
    assert matcher(["a/**/*", "b"]) is matcher(["b", "a/*/**", "b"])


def test_many_double_stars_do_not_blow_up() -> None:
    expression = "/".join(["**", "a"] * 100)
    assert not matcher([expression]).matches("/".join(["a"] * 400 + ["b"]))
    assert matcher([expression]).matches("/".join(["a"] * 400))


def test_what_is_remembered_is_bounded() -> None:
    match = matcher(["memory/*"])
    assert all(match.matches(f"memory/{number}") for number in range(10_000))
    assert not match.matches("memory/1/2")


BAD = ["", "/", "/a", "a/", "a//b", "a\nb", "a\x00", "a#b", "a?b", "$*", "x" * (MAX_KEY_LENGTH + 1)]


@pytest.mark.parametrize("text", BAD)
def test_neither_key_nor_expression(text: str) -> None:
    for check in (check_key, matcher):
        with pytest.raises(PlaneError) as caught:
            check(text)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert len(caught.value.message) < 300


@pytest.mark.parametrize("text", ["*", "a/*", "a/**/b"])
def test_an_expression_is_no_key(text: str) -> None:
    matcher(text)
    with pytest.raises(PlaneError, match="key expression"):
        check_key(text)


@pytest.mark.parametrize("text", ["a*", "*a/b", "a/***", "a/b**"])
def test_stars_are_whole_segments(text: str) -> None:
    with pytest.raises(PlaneError, match="whole segments"):
        matcher(text)


def test_no_expression() -> None:
    with pytest.raises(PlaneError, match="at least one"):
        matcher([])


def test_unicode_keys() -> None:
    check_key("forge/größe/漢字")
    assert matcher("forge/*/漢字").matches("forge/größe/漢字")
