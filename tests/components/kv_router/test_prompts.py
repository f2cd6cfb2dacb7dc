"""Token lists that are read in part only are read as if they were read whole."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protoplane_components.kv_router.hashing import block_hashes
from protoplane_components.kv_router.prompts import RecentPrompts

CHANCE = random.Random(5)
LONG = [CHANCE.randrange(1 << 17) for _ in range(600)]

tokens = st.lists(
    st.one_of(st.integers(0, 20), st.integers(0, (1 << 32) - 1)), min_size=1, max_size=150
)


def text(prompt: list[int], separator: str = ", ") -> bytes:
    return separator.join(map(str, prompt)).encode()


def same(prompts: RecentPrompts, prompt: list[int], size: int = 16, **more: str) -> bool:
    found = prompts.read(text(prompt), **more)
    assert found is not None
    hashes, count = found
    return count == len(prompt) and hashes.tolist() == block_hashes(prompt, size, **more).tolist()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 600), tokens), min_size=1, max_size=8), st.integers(1, 9))
def test_each_turn_is_read_as_if_there_had_been_none_before(
    turns: list[tuple[int, list[int]]], size: int
) -> None:
    prompts = RecentPrompts(size)
    for common, rest in turns:
        assert same(prompts, LONG[:common] + rest, size)


@settings(deadline=None)
@given(tokens, st.sampled_from([",", ", ", " ,\n ", "\t,"]), st.integers(0, 150))
def test_blanks_do_not_matter(prompt: list[int], separator: str, cut: int) -> None:
    prompts = RecentPrompts(4)
    for each in (LONG + prompt, LONG + prompt[:cut], LONG[:-cut] + prompt):
        found = prompts.read(text(each, separator))
        assert found is not None
        assert found[0].tolist() == block_hashes(each, 4).tolist()


def test_a_number_that_goes_on_is_another_one() -> None:
    prompts = RecentPrompts(1)
    assert same(prompts, [*LONG, 12], 1)
    assert same(prompts, [*LONG, 123], 1)
    assert same(prompts, [*LONG, 1], 1)
    assert same(prompts, LONG, 1)


def test_adapters_and_namespaces_are_kept_apart() -> None:
    prompts = RecentPrompts(16)
    for _ in range(2):
        assert same(prompts, LONG)
        assert same(prompts, LONG, lora="a")
        assert same(prompts, LONG, cache_namespace="a")


@pytest.mark.parametrize(
    "end",
    ["", " ", "true", "false", "null", "1.5", "1e3", "-1", str(1 << 32), '"1"', "[1]", "01", "1 2"],
)
@pytest.mark.parametrize("known", [True, False])
def test_what_is_no_list_of_tokens_is_left_to_others(end: str, known: bool) -> None:
    prompts = RecentPrompts(16)
    if known:
        assert same(prompts, LONG)
    assert prompts.read(text(LONG) + b", " + end.encode()) is None
    # Nothing of it is remembered.
    assert same(prompts, [*LONG, 7])


def test_memory_has_an_end() -> None:
    prompts = RecentPrompts(16, max_bytes=20_000)
    for first in range(40):
        prompt = [first, *(CHANCE.randrange(1 << 17) for _ in range(300))]
        assert same(prompts, prompt)
    assert 1 <= len(prompts) <= 20_000 // (300 * 3)
    big = [CHANCE.randrange(1 << 17) for _ in range(20_000)]
    assert same(prompts, big)
    assert same(prompts, big)
