"""What reads and hashes prompts, in C and in Python: one suite for both, against definitions."""

from __future__ import annotations

import json
import random
import struct
import threading
from array import array
from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from protoplane_components.kv_router import index as index_module
from protoplane_components.kv_router.extents import Extent, Reached, Starts
from protoplane_components.kv_router.index import KvIndex, Target
from protoplane_components.kv_router.portable import CostInputs, Figure, Memory, Share

CHANCE = random.Random(7)
WORD = 1 << 64
SEEDS = st.one_of(st.sampled_from([0, 1, 1337, WORD - 1]), st.integers(0, WORD - 1))
HASHES = st.lists(st.integers(0, WORD - 1), max_size=40)
ROOT, ADDED = 0x9E3779B97F4A7C13, 0xD1B54A32D192ED03
LONG = [CHANCE.randrange(10 ** CHANCE.randrange(1, 10)) for _ in range(3000)]

# In tokens: XXH3 does something else from 9, 17, 129, 241 and each further 1,024 bytes on.
SIZES = [1, 2, 3, 4, 5, 8, 16, 31, 32, 33, 59, 60, 61, 64, 128, 255, 256, 257, 272, 273, 512, 513]


class Functions(Protocol):
    """What both have."""

    def read_prompt(
        self, text: Memory, block_size: int, seed: int, /
    ) -> tuple[bytes, bytes, int] | None: ...
    def hash_blocks(self, tokens: Memory, block_size: int, seed: int, /) -> bytes: ...
    def sequence_hashes(self, hashes: Memory, parent: int | None, seed: int, /) -> bytes: ...
    def prefix_keys(self, hashes: Memory, parent: int, /) -> bytes: ...
    def reached(
        self, parts: list[Starts], keys: NDArray[np.uint64], alive: int | None, /
    ) -> Reached: ...
    def least_cost(
        self, inputs: CostInputs, rows: NDArray[np.intp], chance: Callable[[int], int], /
    ) -> int: ...


@pytest.fixture(scope="module", params=["portable", "speedups"])
def functions(request: pytest.FixtureRequest) -> Functions:
    name = f"protoplane_components.kv_router.{request.param}"
    why = "speedups.c is not compiled here: no C compiler, or none of Python's headers"
    pytest.importorskip(name, reason=why, exc_type=ImportError)
    return cast(Functions, import_module(name))


def numbers(words: bytes) -> list[int]:
    return array("Q", words).tolist()


def hashed(data: bytes, stride: int, seed: int) -> list[int]:
    whole = range(0, len(data) - stride + 1, stride)
    return [xxh3_64_intdigest(data[at : at + stride], seed) for at in whole]


@pytest.mark.parametrize("size", SIZES)
@settings(max_examples=20)
@given(st.floats(0, 3), SEEDS, st.randoms(use_true_random=False))
def test_blocks_of_any_size_are_hashed(
    functions: Functions, size: int, blocks: float, seed: int, chance: random.Random
) -> None:
    data = chance.randbytes(4 * int(blocks * size))
    assert numbers(functions.hash_blocks(data, size, seed)) == hashed(data, 4 * size, seed)


def test_every_size_has_its_hash(functions: Functions) -> None:
    data = CHANCE.randbytes(4 * 700)
    for size in range(1, 700):
        expected = hashed(data[: 4 * size], 4 * size, 1337)
        assert numbers(functions.hash_blocks(data[: 4 * size], size, 1337)) == expected


def expected_tokens(text: str) -> list[int] | None:
    """The tokens of a list of JSON: plain numbers, and at least one."""
    try:
        found = json.loads(f"[{text}]")
    except ValueError:
        return None
    plain = all(type(each) is int and 0 <= each < 1 << 32 for each in found) and "-" not in text
    return found if found and plain else None


def check_reading(functions: Functions, text: str, size: int = 2) -> None:
    data = text.encode("latin-1")
    tokens = expected_tokens(text)
    # Behind the end is more of the same, which must not be read.
    for buffer in (data, memoryview(data + b"123, 4")[: len(data)]):
        found = functions.read_prompt(buffer, size, 1337)
        if tokens is None:
            assert found is None
        else:
            assert found is not None
            assert numbers(found[0]) == hashed(array("I", tokens).tobytes(), 4 * size, 1337)
            assert found[1] == functions.prefix_keys(found[0], 0)
            assert found[2] == len(tokens)


EDGES = [0, 9, 10, 99_999_999, 10**8, 10**9, (1 << 32) - 1, 1 << 32, 9_999_999_999, 10**10, 10**19]
NUMBERS = st.one_of(
    st.integers(0, 1 << 17), st.integers(0, (1 << 32) + 9), st.sampled_from(EDGES)
).map(str)
JUNK = [
    *("", "01", "00", "-1", "-0", "+1", "1.0", ".5", "1e3", "1E3", "true", "null", "NaN", '"1"'),
    *("[1]", "{}", "1 2", "0x1", "1_0", "12345678a", "1234567890a", "/", ":", "1\x0b", "\x00"),
    *("1\x00", "1]", "],[", "12345678 9", "\xb2", "\xff", "1\x90", "1234567\xb9"),
]
BLANKS = st.sampled_from(["", "", "", " ", "\n", "\t ", "\r\n", "         "])


def lists(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.tuples(BLANKS, items, BLANKS).map("".join), max_size=12).map(",".join)


@settings(max_examples=300)
@given(lists(NUMBERS), st.integers(1, 5))
@example("4294967295", 1)
@example("4294967296", 1)
def test_lists_of_numbers_are_read(functions: Functions, text: str, size: int) -> None:
    check_reading(functions, text, size)


@settings(max_examples=300)
@given(lists(st.one_of(NUMBERS, NUMBERS, st.sampled_from(JUNK))))
def test_what_is_no_list_of_tokens_is_left_to_others(functions: Functions, text: str) -> None:
    check_reading(functions, text)


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("around", ["{}", "{}, 2", "1, {}", "1, {}, 2", "1,2,3,4,{},5,6,7,8,9,10"])
def test_each_fault_is_found_in_each_place(functions: Functions, around: str, junk: str) -> None:
    check_reading(functions, around.format(junk))


@settings(max_examples=300)
@given(st.text(st.sampled_from("0123456789,, \t\n\r-+.eE[]"), max_size=30))
def test_texts_that_are_almost_json_are_judged_as_json_is(functions: Functions, text: str) -> None:
    check_reading(functions, text)


@settings(max_examples=300)
@given(
    st.lists(NUMBERS, min_size=5, max_size=60).flatmap(
        lambda items: st.sampled_from([",", ", "]).map(lambda between: between.join(items))
    ),
    st.data(),
)
def test_one_wrong_byte_is_found_wherever_it_is(
    functions: Functions, text: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(text) - 1))
    check_reading(functions, text[:at] + chr(data.draw(st.integers(0, 255))) + text[at + 1 :])


@pytest.mark.parametrize("separator", [",", ", ", " ,\n ", "\t,"])
@pytest.mark.parametrize("size", [1, 16, 512, 4000, 1 << 40])
def test_long_prompts_are_read(functions: Functions, separator: str, size: int) -> None:
    check_reading(functions, separator.join(map(str, LONG)), size)


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["7", "0", "131071", "12345678", "4294967295"]), min_size=20),
    st.data(),
)
def test_what_is_unusual_is_read_wherever_it_is(
    functions: Functions, items: list[str], data: st.DataObject
) -> None:
    # Most of a list is read in a hurry, several places at a time; it goes on behind what is not.
    betweens = st.lists(
        st.sampled_from([",", ", ", ", ", "  ,", ",\n"]),
        min_size=len(items) - 1,
        max_size=len(items) - 1,
    )
    pieces = zip(items, [*data.draw(betweens), ""], strict=True)
    check_reading(functions, "".join(each + between for each, between in pieces))


@given(HASHES, st.one_of(st.none(), st.integers(0, WORD - 1)), SEEDS)
def test_sequence_hashes_are_a_chain(
    functions: Functions, hashes: list[int], parent: int | None, seed: int
) -> None:
    chain: list[int] = []
    last = parent
    for block in hashes:
        pair = b"" if last is None else last.to_bytes(8, "little") + block.to_bytes(8, "little")
        last = xxh3_64_intdigest(pair, seed) if pair else block
        chain.append(last)
    assert numbers(functions.sequence_hashes(array("Q", hashes), parent, seed)) == chain


@given(HASHES, st.integers(0, WORD - 1))
def test_prefix_keys_are_a_polynomial(functions: Functions, hashes: list[int], parent: int) -> None:
    keys: list[int] = []
    key = parent
    for block in hashes:
        key = (key * ROOT + block + ADDED) % WORD
        keys.append(key)
    assert numbers(functions.prefix_keys(array("Q", hashes), parent)) == keys


def test_large_inputs_are_the_same_from_several_threads(functions: Functions) -> None:
    # From some size on others run meanwhile.
    tokens = [CHANCE.randrange(1 << 32) for _ in range(1 << 17)]
    data = array("I", tokens).tobytes()
    text = ",".join(map(str, tokens)).encode()
    hashes = hashed(data, 64, 5)
    words = array("Q", data)
    chain = functions.sequence_hashes(words[:9], None, 5)
    keys = functions.prefix_keys(words[:9], 3)
    ended: list[bool] = []

    def work() -> None:
        whole = array("Q", hashes).tobytes()
        named = (whole, functions.prefix_keys(whole, 0), len(tokens))
        assert functions.read_prompt(text, 16, 5) == named
        assert numbers(functions.hash_blocks(data, 16, 5)) == hashes
        assert functions.sequence_hashes(words, None, 5).startswith(chain)
        assert functions.prefix_keys(words, 3).startswith(keys)
        ended.append(True)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == len(threads)


@pytest.mark.parametrize("size", [0, -1])
def test_a_block_has_a_size(functions: Functions, size: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 token, not {size}"):
        functions.hash_blocks(b"1234", size, 0)
    with pytest.raises(ValueError, match=f"at least 1 token, not {size}"):
        functions.read_prompt(b"1", size, 0)


def test_what_does_not_lie_in_memory_is_refused(functions: Functions) -> None:
    wrong = cast(Memory, "1, 2")
    for call in (
        lambda: functions.read_prompt(wrong, 1, 0),
        lambda: functions.hash_blocks(wrong, 1, 0),
        lambda: functions.sequence_hashes(wrong, None, 0),
        lambda: functions.prefix_keys(wrong, 0),
        lambda: functions.sequence_hashes(b"12345678", cast(int, "1"), 0),
    ):
        with pytest.raises((TypeError, struct.error)):
            call()


def row_of(figures: list[float]) -> Figure:
    return np.array(figures, np.float64)


# Few different ones, so that some cost the same; and any, whose sums have to be rounded.
FIGURES = st.one_of(st.sampled_from([0.0, 16.0, 1 / 3]), st.floats(0, 1e6))


@st.composite
def fleets(draw: st.DrawFn) -> tuple[CostInputs, NDArray[np.intp]]:
    count = draw(st.integers(1, 20))
    kind = draw(st.sampled_from([FIGURES, st.just(16.0)]))

    def figures(each: st.SearchStrategy[float], size: int = count) -> list[float]:
        return draw(st.lists(each, min_size=size, max_size=size))

    def some(least: int) -> NDArray[np.intp]:
        found = draw(st.sets(st.integers(0, count - 1), min_size=least))
        return np.array(sorted(found), np.intp)

    # As in a table that has room for more.
    table = np.zeros((4, count + 3))
    table[:3, :count] = np.reshape(figures(kind, 3 * count), (3, count))
    shares: list[Share] = [
        (tokens, draw(st.integers(0, count - 1)) if alone else some(0))
        for tokens, alone in draw(st.lists(st.tuples(FIGURES, st.booleans()), max_size=4))
    ]
    prefill, decode, active, fresh = figures(FIGURES, 4)
    inputs = CostInputs(
        table[:3, :count],
        (prefill, decode, active, fresh),
        draw(st.integers(0, 1 << 20)),
        draw(st.integers(0, 1 << 16)),
        shares,
        draw(st.none() | st.builds(row_of, st.just(figures(st.floats(-1e6, 1e6))))),
        draw(st.none() | st.binary(min_size=4 * count, max_size=4 * count)),
        draw(st.floats(0, 1e-6)),
    )
    return inputs, np.arange(count) if draw(st.booleans()) else some(1)


def defined_costs(inputs: CostInputs) -> list[float]:
    """By the formula, one number after the other."""
    costs: list[float] = []
    prefill, decode, active, fresh = inputs.factors
    for row, (tokens, blocks, requests) in enumerate(inputs.work.T.tolist()):
        saved = 0.0
        for share, rows in inputs.shares:
            saved = share if row in np.atleast_1d(rows) else saved
        lacking = inputs.tokens - saved
        cost = (tokens + lacking * fresh) * prefill
        cost += (blocks + inputs.blocks) * decode
        cost += requests * active
        bias = None if inputs.bias is None else inputs.bias.item(row)
        if inputs.words is not None:
            (word,) = struct.unpack_from("=I", inputs.words, 4 * row)
            chance = word * (lacking * prefill) * inputs.spread
            bias = chance if bias is None else bias + chance
        costs.append(cost if bias is None else cost + bias)
    return costs


@settings(max_examples=300)
@given(fleets(), st.randoms(use_true_random=False))
def test_the_least_cost_is_found_to_the_last_bit(
    functions: Functions, fleet: tuple[CostInputs, NDArray[np.intp]], chance: random.Random
) -> None:
    costs = defined_costs(fleet[0])
    rows: list[int] = fleet[1].tolist()
    least = [row for row in rows if costs[row] == min(costs[each] for each in rows)]
    drawn: list[int] = []

    def draw(count: int) -> int:
        assert count == len(least)
        drawn.append(chance.randrange(count))
        return drawn[-1]

    found = functions.least_cost(*fleet, draw)
    # Chance is asked only where it has something to say.
    assert len(drawn) == (len(least) > 1)
    assert found == least[drawn[0] if drawn else 0]


PLAIN = CostInputs(np.zeros((3, 4)), (1.0, 1.0, 1.0, 1.0), 64, 4, [])
SOME = np.array([0, 2, 3])


@pytest.mark.parametrize(
    ("inputs", "rows", "fault"),
    [
        (PLAIN, np.array([], np.intp), ValueError),
        (PLAIN, np.array([0, 4]), IndexError),
        (PLAIN._replace(shares=[(16.0, 4)]), SOME, IndexError),
        (PLAIN._replace(shares=[(16.0, np.array([1, 4]))]), SOME, IndexError),
        (PLAIN._replace(shares=[(16.0, 1 << 70)]), SOME, (IndexError, OverflowError)),
        (PLAIN._replace(bias=np.zeros(3)), SOME, ValueError),
        (PLAIN._replace(words=bytes(12)), SOME, ValueError),
    ],
)
def test_figures_that_do_not_fit_are_refused(
    functions: Functions,
    inputs: CostInputs,
    rows: NDArray[np.intp],
    fault: type[Exception] | tuple[type[Exception], ...],
) -> None:
    assert functions.least_cost(PLAIN, SOME, lambda _: 1) == 2
    with pytest.raises(fault):
        functions.least_cost(inputs, rows, lambda _: 0)


def test_what_goes_wrong_with_chance_is_told(functions: Functions) -> None:
    def broken(_: int) -> int:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        functions.least_cost(PLAIN, SOME, broken)


@settings(max_examples=60, deadline=None)
@given(chance=st.randoms(use_true_random=False))
def test_a_walk_finds_what_owners_hold(functions: Functions, chance: random.Random) -> None:
    index, prompts = KvIndex(), [[1, 2, 3, 4]]
    # What each has of which prompt; engine hashes name a block of one owner.
    held: dict[Target, list[tuple[list[int], list[int]]]] = {}
    names = iter(range(1 << 20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "reached", functions.reached)
        for _ in range(60):
            begin = chance.choice(prompts)
            rest = [chance.randrange(1, 1 << 64) for _ in range(chance.randrange(6))]
            prompt = begin[: chance.randrange(1, len(begin) + 1)] + rest
            prompts.append(prompt)
            target = Target(f"w{chance.randrange(9)}")
            what = chance.random()
            mine = held.setdefault(target, [])
            if what < 0.7:
                called = [next(names) for _ in prompt]
                index.store(target, called, prompt)
                mine.append((called, prompt))
            elif what < 0.9 and mine:
                called, has = mine.pop(chance.randrange(len(mine)))
                left = chance.randrange(len(called))
                index.remove(target, called[left:])
                if left:
                    mine.append((called[:left], has[:left]))
            elif what >= 0.95:
                index.clear(target)
                held.pop(target)
            asked = [*chance.choice(prompts), *range(5, 5 + chance.randrange(2))]
            found = {target: overlap.device for target, overlap in index.find(asked).items()}
            assert found == index.depths(asked)


def test_a_walk_needs_a_tree(functions: Functions) -> None:
    empty = Extent(0, array("Q"))
    keys = np.array([7], np.uint64)
    tree: list[Starts] = [{} for _ in range(256)]
    assert functions.reached(tree, keys[:0], None) == []
    assert functions.reached(tree, keys, None) == []
    tree[7][7] = Extent(0, array("Q", [7]), whole=5, ends=None)
    assert functions.reached(tree, keys, None) == [(1, 5)]
    assert functions.reached(tree, keys, 4) == [(1, 4)]
    assert functions.reached(tree, keys, 2) == []
    tree[7][7] = empty
    with pytest.raises((ValueError, IndexError)):
        functions.reached(tree, keys, None)
