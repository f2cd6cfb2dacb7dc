"""Rules of retention in an engine's URL: what is read, what is refused, and what they do."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.event_log_suite import publish, take

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import EventId, EventLog, Gap, Start
from protoplane_runtime.engines.local.log import LocalLog
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_runtime.engines.opening import open_engine
from protoplane_runtime.engines.retention import Retention, format_rule, parse, split

_segments = st.text("abcXYZ09-_.:= ,&%+", min_size=1, max_size=6)
_prefixes = st.lists(_segments, max_size=4).map("/".join)
_bounds = st.integers(1, (1 << 62) - 1)
_rules = st.builds(
    Retention,
    prefix=_prefixes,
    max_age_s=st.none()
    | st.integers(1, 10**9)
    | st.floats(1e-6, 1e6).map(lambda age: round(age, 6)),
    max_events=st.none() | _bounds,
    max_bytes=st.none() | _bounds,
).filter(lambda rule: (rule.max_age_s, rule.max_events, rule.max_bytes) != (None, None, None))


@given(_rules)
def test_what_is_written_is_read(rule: Retention) -> None:
    found = parse(format_rule(rule))
    assert (found.prefix, found.max_events, found.max_bytes) == (
        rule.prefix,
        rule.max_events,
        rule.max_bytes,
    )
    assert (found.max_age_s is None) == (rule.max_age_s is None)
    if rule.max_age_s is not None and found.max_age_s is not None:
        assert math.isclose(found.max_age_s, rule.max_age_s, rel_tol=1e-9)


@given(st.text(max_size=60) | st.text("age=count,byts:10hKMB/*", max_size=40))
def test_any_text_is_a_rule_or_a_clear_error(text: str) -> None:
    fault: PlaneError | None = None
    try:
        rule = parse(text)
    except PlaneError as error:
        fault = error
    else:
        assert parse(format_rule(rule)) == rule
    assert fault is None or (fault.code is Code.INVALID_ARGUMENT and fault.message)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (
            "forge/tokens/**:age=1h,count=10000,bytes=50MB",
            Retention("forge/tokens", 3600, 10_000, 50_000_000),
        ),
        ("**:bytes=2GiB", Retention("", None, None, 2 << 30)),
        ("a:age=1.5d", Retention("a", 129_600)),
        ("a/b:count=1", Retention("a/b", None, 1)),
        ("a:1/**:bytes=7", Retention("a:1", None, None, 7)),
    ],
)
def test_rules(text: str, rule: Retention) -> None:
    assert parse(text) == rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a:",
        ":age=1h",
        "a:age",
        "a:age=",
        "a:age=1",
        "a:age=0s",
        "a:age=1y",
        "a:age=-1s",
        "a:age=9999999999w",
        "a:count=0",
        "a:count=1.5",
        "a:count=x",
        "a:bytes=0",
        "a:bytes=0.1",
        "a:bytes=1PB",
        "a:size=1",
        "a:age=1h,age=2h",
        "*/b:count=1",
        "a/*:count=1",
        "a/**/b:count=1",
        "a//b:count=1",
    ],
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(PlaneError) as caught:
        parse(text)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_the_rules_of_a_url() -> None:
    assert split("/folder") == ("/folder", None)
    assert split("/folder?retain=a/**:count=1&retain=**:bytes=1KB") == (
        "/folder",
        (Retention("a", None, 1), Retention("", None, None, 1000)),
    )
    assert split("?retain=a%20b%26c:count=1") == ("", (Retention("a b&c", None, 1),))
    for rest in ("?", "?keep=a", "?retain=a:count=1&retain=a/**:count=2"):
        with pytest.raises(PlaneError) as caught:
            split(rest)
        assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.anyio
async def test_the_url_of_an_engine_says_what_is_kept(tmp_path: Path) -> None:
    rules = "?retain=a/**:count=2&retain=**:count=3"
    for url in (f"local:{tmp_path}{rules}", f"memory:{rules}"):
        engine = await open_engine(url)
        for key in ("a/1", "b", "a/2", "b", "b", "a/1", "b"):
            await publish(engine.events, key, durable=True)
        if isinstance(engine.events, LocalLog):
            await engine.events.enforce_retention()
        stats = await engine.events.stats()
        assert {each.key: each.events for each in stats.keys} == {"a/1": 1, "a/2": 1, "b": 3}
        await engine.close()
    with pytest.raises(PlaneError):
        await open_engine("memory:folder")


async def _kept(log: EventLog) -> list[EventId]:
    count = (await log.stats()).events
    return [event.id for event in await take(log.read(["**"], after=Start.EARLIEST), count)]


@pytest.mark.anyio
async def test_memory_keeps_so_many_under_a_prefix() -> None:
    log = MemoryLog(epoch=1, retention=[Retention("a", max_events=2), Retention(max_bytes=3000)])
    ids = [await publish(log, key) for key in ("a/1", "b", "a/2", "b", "a/3", "b")]
    assert await _kept(log) == [ids[1], ids[2], *ids[3:]]
    reader = log.read(["a/*"], after=EventId(1, 0))
    assert await anext(reader) == (Gap(EventId(1, 0), ids[1], ids[1]),)
    assert [event.id for event in await take(reader, 2)] == [ids[2], ids[4]]
    # Nothing of these is lost, so nothing is said to be.
    assert [event.id for event in await take(log.read(["b"], after=ids[0]), 3)] == ids[1::2]
    more = [await publish(log, "b", "x" * 800) for _ in range(3)]
    assert (await _kept(log))[-1] == more[-1]
    assert ids[1] not in await _kept(log)


@pytest.mark.anyio
async def test_memory_tells_a_reader_of_what_went_while_it_slept() -> None:
    log = MemoryLog(epoch=1, retention=[Retention("a", max_events=1)])
    await publish(log, "b")
    reader = log.read(["a"], after=EventId(1, 0))
    ids = [await publish(log, "a") for _ in range(3)]
    [gap] = await anext(reader)
    assert isinstance(gap, Gap)
    assert gap.asked == EventId(1, 0)
    assert [event.id for event in await take(reader, 1)] == ids[2:]


@pytest.mark.anyio
async def test_memory_forgets_with_age() -> None:
    log = MemoryLog(epoch=1, retention=[Retention("a", max_age_s=0.05)])
    kept = await publish(log, "b")
    await publish(log, "a")
    until = time.monotonic() + 10
    while (await log.stats()).events > 1:
        assert time.monotonic() < until
        await asyncio.sleep(0.01)
    assert await _kept(log) == [kept]
