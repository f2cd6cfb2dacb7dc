"""Rounds: all who joined are looked after, nobody who left, and nobody is waited for."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from protoplane_server.http.rounds import Round, Rounds

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Watched:
    def __init__(self, seen: Counter[Watched]) -> None:
        self.seen = seen

    def look(self) -> None:
        self.seen[self] += 1


async def test_each_is_seen_until_it_leaves() -> None:
    round_, seen = Round(0.02), Counter[Watched]()
    all_ = [Watched(seen) for _ in range(20)]
    turns = {each: round_.join(each) for each in all_}
    assert max(Counter(turns.values()).values()) == 3  # Spread over the round.
    async with asyncio.timeout(30):
        while len(seen) < 20 or min(seen.values()) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    one = all_.pop()
    round_.leave(one, turns[one])
    before = Counter(seen)
    async with asyncio.timeout(30):
        while any(seen[each] < before[each] + 2 for each in all_):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert seen[one] == before[one]
    for each in all_:
        round_.leave(each, turns[each])
    before = Counter(seen)
    await asyncio.sleep(0.1)
    assert seen == before


async def test_one_that_leaves_while_it_is_seen() -> None:
    round_, left = Round(0.01), asyncio.Event()

    class Leaving:
        turn = 0

        def look(self) -> None:
            assert not left.is_set()
            round_.leave(self, self.turn)
            left.set()

    leaving = Leaving()
    leaving.turn = round_.join(leaving)
    async with asyncio.timeout(30):
        await left.wait()
    await asyncio.sleep(0.05)
    seen = Counter[Watched]()
    later = Watched(seen)
    turn = round_.join(later)
    async with asyncio.timeout(30):
        while not seen:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    round_.leave(later, turn)


def test_there_is_one_round_for_each_length() -> None:
    rounds = Rounds()
    assert rounds.every(1.0) is rounds.every(1.0)
    assert rounds.every(1.0) is not rounds.every(2.0)
