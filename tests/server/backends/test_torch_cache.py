"""The blocks of the PyTorch backend's cache, and who computes what in them, without tensors."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

pytest.importorskip("xxhash", reason="the hashes of blocks need xxhash (the extra torch)")

from tests.server.backends.torch_rules import GREEDY

from protoplane_components.kv_router import hashing
from protoplane_server.backends.torch.cache import BlockPool, NamedBlock
from protoplane_server.backends.torch.hashing import block_hash, tokens_hash
from protoplane_server.backends.torch.scheduler import Scheduler, Sequence, Work
from protoplane_server.backends.torch.settings import BLOCK_TOKENS


class Watcher:
    """What a router would know."""

    def __init__(self) -> None:
        self.known: dict[int, NamedBlock] = {}

    def stored(self, block: NamedBlock) -> None:
        assert block.hash not in self.known
        assert block.parent is None or block.parent in self.known
        self.known[block.hash] = block

    def removed(self, block_hash: int) -> None:
        del self.known[block_hash]

    def cleared(self) -> None:
        self.known.clear()


class Reader(Sequence):
    """A sequence whose reader may look away."""

    __slots__ = ("away",)

    def __init__(self, prompt: list[int], priority: int = 0) -> None:
        super().__init__(prompt, GREEDY, priority=priority)
        self.away = False

    @property
    def hungry(self) -> bool:
        return not self.gone and not self.away


def chain(tokens: Tokens[int]) -> list[NamedBlock]:
    """The full blocks of a prompt."""
    named: list[NamedBlock] = []
    for at in range(len(tokens) // BLOCK_TOKENS):
        own = tuple(tokens[at * BLOCK_TOKENS : (at + 1) * BLOCK_TOKENS])
        parent = named[-1].hash if named else None
        local = tokens_hash(own)
        named.append(NamedBlock(block_hash(parent, local), local, parent, at, own))
    return named


def run(scheduler: Scheduler, token: int = 7) -> list[Work]:
    """Make one step."""
    works = scheduler.plan()
    for work in works:
        writes = work.writes
        scheduler.done(work)
        if writes:
            work.sequence.tokens.append(token)
    return works


def test_hashes_are_those_of_the_router() -> None:
    tokens = [*range(100), 2**32 - 1]
    named = chain(tokens)
    local = hashing.block_hashes(tokens, BLOCK_TOKENS)
    assert [block.tokens_hash for block in named] == local.tolist()
    assert [block.hash for block in named] == hashing.sequence_hashes(local)


def test_blocks_go_that_were_left_longest_ago_and_ends_before_beginnings() -> None:
    watcher = Watcher()
    pool = BlockPool(4, watcher)
    first, second = chain(range(32)), chain(range(100, 132))
    for names in (first, second):
        blocks = pool.take(2)
        assert blocks is not None
        for block, named in zip(blocks, names, strict=True):
            pool.name(block, named)
        pool.release(blocks)
    assert (pool.free, pool.held, len(watcher.known)) == (4, 0, 4)
    # Used once more, it was not left longest ago.
    pool.release(pool.find(first))
    assert pool.take(1) is not None
    assert set(watcher.known) == {first[0].hash, first[1].hash, second[0].hash}
    assert pool.take(2) is not None
    assert set(watcher.known) == {first[0].hash}
    assert pool.take(2) is None
    assert len(pool.find(first)) == 1
    assert [block.hash for block in pool] == [first[0].hash]


def test_a_hash_alone_finds_nothing() -> None:
    pool = BlockPool(2)
    [named] = chain(range(16))
    blocks = pool.take(1)
    assert blocks is not None
    pool.name(blocks[0], named)
    other = NamedBlock(named.hash, named.tokens_hash, None, 0, tuple(range(50, 66)))
    assert pool.find([other]) == []
    assert pool.find([named]) == blocks


def test_a_cache_that_was_emptied() -> None:
    watcher = Watcher()
    pool = BlockPool(3, watcher)
    names = chain(range(32))
    blocks = pool.take(2)
    assert blocks is not None
    for block, named in zip(blocks, names, strict=True):
        pool.name(block, named)
    pool.release(blocks[1:])
    pool.clear()
    assert (pool.free, pool.held, watcher.known, pool.find(names)) == (2, 1, {}, [])
    pool.release(blocks[:1])
    assert pool.free == 3


def test_long_prompts_come_in_pieces_behind_what_is_written() -> None:
    scheduler = Scheduler(BlockPool(100), max_sequences=8, max_step_tokens=20)
    short, long = Reader([1] * 5), Reader([2] * 50)
    scheduler.add(short)
    scheduler.add(long)
    assert [(work.sequence, work.tokens) for work in run(scheduler)] == [(short, 5), (long, 15)]
    assert [(work.sequence, work.tokens) for work in run(scheduler)] == [(short, 1), (long, 19)]
    last = run(scheduler)
    assert [(work.sequence, work.tokens) for work in last] == [(short, 1), (long, 16)]
    assert long.written == 1


def test_a_prompt_that_is_known_is_not_computed_again() -> None:
    scheduler = Scheduler(BlockPool(10), max_sequences=8, max_step_tokens=100)
    scheduler.add(Reader([*range(40)]))
    run(scheduler)
    again, whole = Reader([*range(40)]), Reader([*range(32)])
    scheduler.add(again)
    scheduler.add(whole)
    works = {id(work.sequence): work for work in run(scheduler)}
    assert works[id(again)].start == again.reused == 32
    # The last token is computed for its scores, and with it its block.
    assert works[id(whole)].start == whole.reused == 16


def test_the_urgent_begin_first_and_keep_their_blocks() -> None:
    scheduler = Scheduler(BlockPool(4), max_sequences=8, max_step_tokens=100)
    plain, urgent = Reader([1] * 30), Reader([2] * 30, priority=1)
    scheduler.add(plain)
    scheduler.add(urgent)
    assert [work.sequence for work in run(scheduler)] == [urgent, plain]
    works = [run(scheduler) for _ in range(3)]
    assert [work.sequence for work in works[-1]] == [urgent]
    assert (scheduler.running, scheduler.waiting, plain.blocks) == (1, 1, [])
    urgent.gone = True
    assert [work.sequence for work in run(scheduler)] == [plain]


def test_a_long_prompt_that_is_urgent_takes_blocks_of_what_is_written() -> None:
    scheduler = Scheduler(BlockPool(5), max_sequences=8, max_step_tokens=20)
    plain, urgent = Reader([1] * 31), Reader([2] * 45, priority=1)
    scheduler.add(plain)
    run(scheduler)
    run(scheduler)
    scheduler.add(urgent)
    assert [work.sequence for work in run(scheduler)] == [plain, urgent]
    # Both need the last block, and the one that is written is asked first.
    assert [work.sequence for work in run(scheduler)] == [urgent]
    assert plain.blocks == []
    while plain.written < 9:
        run(scheduler)
        urgent.gone = urgent.written > 3


def test_a_reader_that_looks_away_keeps_nobody_from_beginning() -> None:
    scheduler = Scheduler(BlockPool(4), max_sequences=1, max_step_tokens=100)
    first, second = Reader([1] * 40), Reader([2] * 40)
    scheduler.add(first)
    run(scheduler)
    first.away = True
    assert run(scheduler) == []
    scheduler.add(second)
    assert [work.sequence for work in run(scheduler)] == [second]
    first.away = False
    second.gone = True
    assert [work.sequence for work in run(scheduler)] == [first]


class SchedulerMachine(RuleBasedStateMachine):
    """A memory that remembers of each place which tokens led to it is read as it was written."""

    @initialize(blocks=st.integers(4, 12), sequences=st.integers(1, 5), budget=st.integers(1, 40))
    def begin(self, blocks: int, sequences: int, budget: int) -> None:
        self.watcher = Watcher()
        self.pool = BlockPool(blocks, self.watcher)
        self.scheduler = Scheduler(self.pool, max_sequences=sequences, max_step_tokens=budget)
        self.longest = blocks * BLOCK_TOKENS
        self.memory: dict[int, tuple[int, ...]] = {}
        self.readers: list[Reader] = []

    @rule(
        shared=st.integers(0, 3),
        length=st.integers(1, 60),
        own=st.integers(0, 3),
        priority=st.integers(0, 1),
    )
    def add(self, shared: int, length: int, own: int, priority: int) -> None:
        prompt = ([9] * (16 * shared) + [own] * length)[: self.longest - 1]
        reader = Reader(prompt, priority)
        self.readers.append(reader)
        self.scheduler.add(reader)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        self.readers.remove(reader)
        reader.gone = True
        self.scheduler.left(reader)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        reader.away = not reader.away

    @rule(steps=st.integers(1, 20), token=st.integers(0, 3))
    def step(self, steps: int, token: int) -> None:
        for _ in range(steps):
            works = self.scheduler.plan()
            assert bool(works) == any(reader.hungry for reader in self.readers)
            for work in works:
                self._check(work)
            for work in works:
                writes = work.writes
                self.scheduler.done(work)
                if writes:
                    work.sequence.tokens.append(token)
                    if len(work.sequence.tokens) == self.longest:
                        work.sequence.gone = True
                        self.readers = [each for each in self.readers if not each.gone]

    def _check(self, work: Work) -> None:
        sequence = work.sequence
        end = work.start + work.tokens
        assert work.start == sequence.computed
        for at in range(end):
            place = sequence.blocks[at // BLOCK_TOKENS] * BLOCK_TOKENS + at % BLOCK_TOKENS
            before = tuple(sequence.tokens[: at + 1])
            if at >= work.start:
                self.memory[place] = before
            assert self.memory[place] == before

    @invariant()
    def all_blocks_are_somewhere(self) -> None:
        if not hasattr(self, "pool"):
            return
        used = {block for each in self.scheduler for block in each.blocks}
        assert self.pool.held == len(used)
        assert {block.hash for block in self.pool} == set(self.watcher.known)

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            for reader in self.readers:
                reader.gone = True
            assert self.scheduler.plan() == []
            assert self.pool.held == 0


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
