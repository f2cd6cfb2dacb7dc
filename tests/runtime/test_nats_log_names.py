"""Keys as NATS subjects, the URL of the engine, and what a message holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import canonical, check_key, matcher
from protoplane_runtime.engines.nats import payload
from protoplane_runtime.engines.nats.settings import NatsSettings
from protoplane_runtime.engines.nats.subjects import disjoint, key_of, subject_of, subjects_of
from protoplane_runtime.engines.retention import Retention
from protoplane_runtime.tls import ClientTls

_SEGMENT = st.text("ab.>% é%2EA\u00a0\u3000", min_size=1, max_size=3)


def _is_key(text: str) -> bool:
    try:
        check_key(text)
    except PlaneError:
        return False
    return True


_KEYS = st.lists(_SEGMENT, min_size=1, max_size=4).map("/".join).filter(_is_key)
_FEW_KEYS = st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join)
_EXPRESSIONS = st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=1, max_size=4).map(
    lambda segments: canonical("/".join(segments))
)


def _takes(subject: str, name: str) -> bool:
    """Whether a subscription takes a subject (https://docs.nats.io/nats-concepts/subjects)."""
    pattern, tokens = subject.split("."), name.split(".")
    for at, token in enumerate(pattern):
        if token == ">":
            return len(tokens) > at
        if at >= len(tokens) or token not in ("*", tokens[at]):
            return False
    return len(pattern) == len(tokens)


@given(_KEYS)
def test_a_key_comes_back(key: str) -> None:
    subject = subject_of("p.log", key)
    assert key_of("p.log", subject) == key
    assert not set(" \t\r\n>*") & set(subject)
    assert all(subject.split("."))


@given(_KEYS, _KEYS)
def test_different_keys_have_different_subjects(one: str, other: str) -> None:
    assert (subject_of("p", one) == subject_of("p", other)) is (one == other)


@given(st.lists(_EXPRESSIONS, min_size=1, max_size=4), _FEW_KEYS)
def test_subjects_bring_all_that_matches_once(expressions: list[str], key: str) -> None:
    taking = [each for each in subjects_of("p", expressions) if _takes(each, subject_of("p", key))]
    assert len(taking) <= 1
    if matcher(expressions).matches(key):
        assert taking


@pytest.mark.parametrize(
    ("expression", "subjects"),
    [
        ("a/b", ("p.a.b",)),
        ("a/*/b", ("p.a.*.b",)),
        ("**", ("p.>",)),
        ("*/**", ("p.*", "p.*.>")),
        ("a/**", ("p.a", "p.a.>")),
        ("a/**/b", ("p.a.>",)),
        ("**/b", ("p.>",)),
        ("a.b/c", ("p.a%2Eb.c",)),
    ],
)
def test_no_wider_than_needed(expression: str, subjects: tuple[str, ...]) -> None:
    assert subjects_of("p", [expression]) == subjects


def test_subjects_that_meet_become_one() -> None:
    assert disjoint(["p.a.*", "p.*.b", "p.c.d.e"]) == ("p.*.*", "p.c.d.e")
    assert disjoint(["p.a.b", "p.a.>", "p.a"]) == ("p.a", "p.a.>")


@given(st.text(max_size=9), st.binary(max_size=50), st.text(max_size=20), st.binary(max_size=30))
def test_a_message_comes_back(type_: str, data: bytes, json: str, noise: bytes) -> None:
    body = payload.encode(type_, data, json)
    assert payload.decode(body) == (type_, data, json)
    passing = payload.Passing(1 << 50, (1 << 92) | 9, 1)
    assert payload.decode_passing(payload.encode_passing(passing, body)) == (
        passing,
        (type_, data, json),
    )
    for each in (payload.decode(noise), payload.decode_passing(noise)):
        assert each is None or isinstance(each, tuple)


def test_a_url() -> None:
    found = NatsSettings.parse(
        "nats://me:p%40ss@one,[::1]:99,two:4000?stream=s&replicas=3&max_age_s=1.5&max_bytes=9"
        "&max_events=0&duplicates_s=10&publish_timeout_s=2&creds=/c&ca=/ca&domain=hub"
    )
    assert found == NatsSettings(
        servers=("one:4222", "[::1]:99", "two:4000"),
        user="me",
        password="p@ss",
        credentials="/c",
        tls=ClientTls(ca="/ca"),
        stream="s",
        domain="hub",
        replicas=3,
        max_age_s=1.5,
        max_events=0,
        max_bytes=9,
        duplicates_s=10,
        publish_timeout_s=2,
    )
    assert "p@ss" not in repr(found)
    assert NatsSettings.parse("tls://token@host").tls == ClientTls()
    assert NatsSettings.parse("tls://token@host").user == "token"
    assert NatsSettings.parse("nats://a?retain=a/**:age=1h&retain=**:count=2").rules == (
        Retention("a", 3600),
        Retention("", None, 2),
    )


@pytest.mark.parametrize(
    "url",
    [
        "nats:",
        "nats://",
        "nats://a,,b",
        "nats://a:b:c",
        "nats://a/path",
        "nats://secret@a?what=1",
        "nats://secret@a?replicas=9",
        "nats://secret@a?retain=a/**:bytes=1MB",
        "nats://secret@a?retain=a",
        "nats://secret@a?retain=a/**:age=1h&retain=a:count=2",
        "nats://secret@a?replicas=x",
        "nats://secret@a?max_age_s=nan",
        "nats://secret@a?stream=a.b",
        "http://a",
    ],
)
def test_a_wrong_url(url: str) -> None:
    with pytest.raises(PlaneError) as caught:
        NatsSettings.parse(url)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "secret" not in caught.value.message
