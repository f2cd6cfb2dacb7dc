"""Topics and the keys that stand for them; selectors against RFC 6570's own expansions."""

from __future__ import annotations

import pytest
import uritemplate
from hypothesis import given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import check_key, matcher
from protoplane_server.http.mercure_topics import key_of, selectors, topic_of


@pytest.mark.parametrize(
    ("topic", "key"),
    [
        ("forge/captions/42", "forge/captions/42"),
        ("https://example.com/books/1", "https:/%/example.com/books/1"),
        ("https://example.com/?q=1#top", "https:/%/example.com/%3Fq=1%23top"),
        ("/books/", "%/books/%"),
        ("urn:uuid:1-2", "urn:uuid:1-2"),
        ("100%", "100%25"),
        ("a/*/$b", "a/%2A/%24b"),
        ("ü 1", "ü 1"),
        ("https://example.com/@me/a@b", "https:/%/example.com/%40me/a@b"),
        ("@/@@a", "%40/%40%40a"),
    ],
)
def test_the_key_of_a_topic(topic: str, key: str) -> None:
    assert key_of(topic) == key
    assert topic_of(key) == topic


@pytest.mark.parametrize("topic", ["", "a\nb", "a\x7f", "a\x85", "x" * 2000])
def test_what_is_no_topic(topic: str) -> None:
    with pytest.raises(PlaneError) as caught:
        key_of(topic)
    assert caught.value.code is Code.INVALID_ARGUMENT


topics = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("/%#?*$@"),
    min_size=1,
    max_size=40,
)


@given(topics)
def test_every_topic_has_a_key_of_its_own(topic: str) -> None:
    key = key_of(topic)
    check_key(key)
    assert topic_of(key) == topic
    assert matcher(selectors(["*"]).expressions).matches(key)


@pytest.mark.parametrize(
    ("selector", "topic", "selected"),
    [
        ("*", "anything/at all", True),
        ("forge/captions/1", "forge/captions/1", True),
        ("forge/captions/1", "forge/captions/10", False),
        ("https://example.com/books/{id}", "https://example.com/books/1", True),
        ("https://example.com/books/{id}", "https://example.com/books/1/reviews", False),
        ("https://example.com/books/{id}", "https://example.com/authors/1", False),
        ("https://example.com/{+path}", "https://example.com/books/1/reviews", True),
        ("https://example.com/books{/id}", "https://example.com/books", True),
        ("https://example.com/books{/id}", "https://example.com/books/1", True),
        ("https://example.com/books{?page}", "https://example.com/books?page=2", True),
        ("https://example.com/books{?page}", "https://example.com/bookspage=2", False),
        ("forge/{kind}/{id}", "forge/captions/42", True),
        ("forge/{kind}/{id}", "forge/captions/42/more", False),
        ("https://example.com/books/{id}", "https://example.com/books/{id}", True),
        ("not {a template", "not {a template", True),
        ("not {a b}", "not 1", False),
        ("", "x", False),
    ],
)
def test_selectors(selector: str, topic: str, selected: bool) -> None:
    if not selector:
        with pytest.raises(PlaneError):
            selectors([selector])
        return
    chosen = selectors([selector])
    assert chosen.select(topic) is selected
    if selected:
        assert matcher(chosen.expressions).matches(key_of(topic))


values = st.text("aB1-._~é /?&=,", max_size=6)
operators = st.sampled_from(["", "+", "#", ".", "/", ";", "?", "&"])


@given(
    st.lists(st.tuples(st.sampled_from(["a", "http://x.y/", "/b/", "-"]), operators), max_size=4),
    st.dictionaries(st.sampled_from("xyz"), values),
)
def test_every_expansion_of_a_template_is_selected(
    pieces: list[tuple[str, str]], given_values: dict[str, str]
) -> None:
    template = "t" + "".join(f"{text}{{{operator}x,y,z}}" for text, operator in pieces)
    topic = uritemplate.expand(template, {**given_values})
    chosen = selectors([template])
    assert chosen.select(topic)
    assert matcher(chosen.expressions).matches(key_of(topic))


def test_a_template_made_to_be_slow_is_not() -> None:
    # A regular expression would go through more ways to read this than there is time for.
    chosen = selectors(["{a}x" * 60 + "!"])
    assert not chosen.select("x" * 1000)


def test_selectors_are_bounded() -> None:
    for texts in ([], ["a"] * 65, ["a" * 3000]):
        with pytest.raises(PlaneError) as caught:
            selectors(texts)
        assert caught.value.code is Code.INVALID_ARGUMENT
