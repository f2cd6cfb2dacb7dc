"""Limits, counted in this process and in Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.components.gateway.running import ALICE, gateway, until
from tests.components.gateway.talker import Talker
from tests.redis_server import Redis, redis_or_skip

from protoplane_base import Code, PlaneError
from protoplane_components.gateway.rate_memory import CallerCounts
from protoplane_components.gateway.rates import Rates, Window, check_rate

pytestmark = pytest.mark.anyio


@pytest.fixture
def redis() -> Iterator[Redis]:
    with redis_or_skip() as server:
        yield server


class RatesSuite:
    """How limits behave, wherever they are counted; derive from it and define `url`."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    async def rates(self, url: str) -> AsyncIterator[Rates]:
        async with Rates(url) as rates:
            yield rates

    async def test_a_window_fills(self, rates: Rates) -> None:
        assert await rates.look("3/hour", "requests", "a") == Window(3, 3, 0)
        windows = [await rates.hit("3/hour", "requests", "a") for _ in range(4)]
        assert [window.remaining for window in windows] == [2, 1, 0, -1]
        assert all(3500 < window.reset_s <= 3600 for window in windows)
        assert (await rates.look("3/hour", "requests", "a")).remaining == -1

    async def test_who_and_what_are_counted_apart(self, rates: Rates) -> None:
        await rates.hit("3/hour", "requests", "a")
        for what, who in (("requests", "b"), ("tokens", "a")):
            assert (await rates.look("3/hour", what, who)).remaining == 3

    async def test_costs(self, rates: Rates) -> None:
        assert (await rates.hit("10/hour", "tokens", "a", 7)).remaining == 3
        assert (await rates.hit("10/hour", "tokens", "a", 7)).remaining == -4

    async def test_a_window_ends(self, rates: Rates) -> None:
        async with asyncio.timeout(30):
            while (await rates.hit("2/second", "requests", "a")).remaining >= 0:
                pass
            window = await rates.look("2/second", "requests", "a")
            assert 0 <= window.reset_s <= 1

            async def over() -> bool:
                return (await rates.look("2/second", "requests", "a")).remaining >= 0

            await until(over)
            assert (await rates.hit("2/second", "requests", "a")).remaining == 1

    async def test_many_at_once(self, rates: Rates) -> None:
        hits = [rates.hit("50/hour", "requests", "a") for _ in range(80)]
        windows = await asyncio.gather(*hits)
        assert sorted(window.remaining for window in windows) == [*range(-30, 50)]


class TestInThisProcess(RatesSuite):
    @pytest.fixture
    def url(self) -> str:
        return ""


async def test_what_has_expired_is_forgotten() -> None:
    counts = CallerCounts(sweep_s=0.05)
    for number in range(100):
        await counts.incr(str(number), 0.01)

    async def forgotten() -> bool:
        await counts.incr("again", 60)
        return len(counts) == 1

    await until(forgotten)
    assert await counts.get("again") > 1


class TestInRedis(RatesSuite):
    @pytest.fixture
    def url(self, redis: Redis) -> str:
        return redis.url

    async def test_several_share_them(self, url: str, rates: Rates) -> None:
        async with Rates(url) as other:
            await rates.hit("3/hour", "requests", "a")
            assert (await other.hit("3/hour", "requests", "a")).remaining == 1


async def test_redis_goes_away(
    redis: Redis, talker: Talker, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"api_keys": {"alice": ALICE}, "requests": "5/hour", "rate_store": redis.url}
    async with gateway(talker, **settings) as running, running.http(ALICE) as http:

        async def left() -> str:
            answer = await http.post("/infer", json={"model": "parrot", "text": "a"})
            assert answer.status_code == 200
            return str(answer.headers["x-ratelimit-remaining-requests"])

        assert await left() == "4"
        redis.kill()
        with caplog.at_level(logging.WARNING):
            assert [await left(), await left()] == ["4", "3"]
    assert caplog.text.count("counts by itself") == 1


@pytest.mark.parametrize("rate", ["", "60", "many/minute", "60/fortnight", "-1/minute"])
def test_what_is_no_limit(rate: str) -> None:
    with pytest.raises(PlaneError, match="60/minute") as caught:
        check_rate(rate)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("url", ["http://a", "redis://host:port"])
def test_what_is_no_rate_store(url: str) -> None:
    with pytest.raises(PlaneError, match="no rate store") as caught:
        Rates(url)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_a_gateway_does_not_start_with_a_limit_that_is_none(talker: Talker) -> None:
    with pytest.raises(PlaneError, match="'often' is no limit"):
        async with gateway(talker, requests="often"):
            pass
