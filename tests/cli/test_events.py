"""``protoplane events``: what a log keeps and its groups do, as JSON, as tables, and changed."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.cli.conftest import Run

from protoplane_client.commands.events import events
from protoplane_runtime import terminal
from protoplane_runtime.engines.groups import Delivery, GroupSettings
from protoplane_runtime.engines.interface import EventId, Start
from protoplane_runtime.engines.opening import open_engine

TYPE = "forge.captioner.v1.CaptionFinished"


async def _seed(url: str) -> list[EventId]:
    """Six events, and a group that took all but those of one key."""
    engine = await open_engine(url)
    ids = [
        await engine.events.publish(
            f"forge/captions/{number % 3}", TYPE, b"", f'{{"words": {number}}}', durable=True
        )
        for number in range(6)
    ]
    settings = GroupSettings(start=Start.EARLIEST, max_deliveries=1)
    told = 0
    async with asyncio.timeout(30):
        async with aclosing(engine.groups.consume("indexer", ["forge/**"], settings)) as batches:
            async for batch in batches:
                for each in batch:
                    assert isinstance(each, Delivery)
                    if each.event.key.endswith("1"):
                        await engine.groups.negative_acknowledge([each.token], reason="not today")
                    else:
                        await engine.groups.acknowledge([each.token])
                    told += 1
                if told == len(ids):
                    break
        async with aclosing(engine.groups.consume("indexer", ["forge/**"], settings)) as batches:
            waiting = asyncio.ensure_future(anext(batches))
            while (await engine.groups.list())[0].dead_lettered < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait([waiting])
    await engine.close()
    return ids


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"local:{tmp_path}"


@pytest.fixture
def ids(url: str) -> list[EventId]:
    return asyncio.run(_seed(url))


def run_here(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(events, [*arguments, "--engine", url])


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands believe that a person reads what they print."""
    monkeypatch.setattr(terminal, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")


def test_stats(url: str, ids: list[EventId]) -> None:
    [found] = lines(run_here(url, "stats"))
    assert (found["events"], found["oldest"]) == (8, str(ids[0]))
    assert [(each["key"], each["events"]) for each in found["keys"]] == [
        ("dead-letter/indexer/forge/captions/1", 2),
        *[(f"forge/captions/{number}", 2) for number in range(3)],
    ]
    assert [each["group"] for each in found["groups"]] == ["indexer"]
    [found] = lines(run_here(url, "stats", "forge/**", "--depth", "1"))
    assert [(each["key"], each["events"]) for each in found["keys"]] == [("forge/**", 6)]


def test_read(url: str, ids: list[EventId]) -> None:
    found = lines(run_here(url, "read", "forge/**"))
    assert [each["id"] for each in found] == [str(each) for each in ids]
    assert found[1]["message"] == {"words": 1}
    assert lines(run_here(url, "read", "forge/**", "--after", str(ids[3]))) == found[4:]
    assert lines(run_here(url, "read", "forge/**", "--after", "1h", "--count", "2")) == found[:2]
    assert lines(run_here(url, "read", "--after", "2999-01-01")) == []
    assert lines(run_here(url, "read", "nothing")) == []


def test_groups_are_reset_and_deleted(url: str, ids: list[EventId]) -> None:
    [found] = lines(run_here(url, "groups"))
    assert (found["group"], found["expressions"]) == ("indexer", ["forge/**"])
    assert (found["position"], found["lag"]) == (str(ids[-1]), 0)
    assert (found["acknowledged"], found["dead_lettered"]) == (4, 2)
    lines(run_here(url, "group", "reset", "indexer", "--to", str(ids[2]), "--yes", "--json"))
    [found] = lines(run_here(url, "groups"))
    assert (found["position"], found["lag"]) == (str(ids[2]), 3)
    lines(run_here(url, "group", "delete", "indexer", "--yes", "--json"))
    assert lines(run_here(url, "groups")) == []


def test_dead_letters_are_redriven(url: str, ids: list[EventId]) -> None:
    found = lines(run_here(url, "dead-letters"))
    assert [each["letter"]["id"] for each in found] == [str(ids[1]), str(ids[4])]
    assert found[0]["letter"]["reason"] == "not today"
    assert lines(run_here(url, "dead-letters", "other")) == []
    redriven = lines(run_here(url, "dead-letters", "indexer", "--redrive", "--json"))
    assert redriven == [{"redriven": 2}]
    assert lines(run_here(url, "dead-letters", "indexer")) == []
    assert [each["message"] for each in lines(run_here(url, "read", "*/*/1"))] == [
        {"words": number} for number in (1, 4, 1, 4)
    ]


def test_purge(url: str, ids: list[EventId]) -> None:
    purge = ("purge", "forge/captions/*", "--yes", "--json")
    assert lines(run_here(url, *purge, "--before", "1h")) == [{"purged": 0}]
    assert lines(run_here(url, *purge, "--before", str(ids[2]))) == [{"purged": 2}]
    assert lines(run_here(url, *purge)) == [{"purged": 4}]
    assert lines(run_here(url, "read", "forge/**")) == []


@pytest.mark.usefixtures("ids", "person")
def test_tables_for_people(url: str) -> None:
    stats = run_here(url, "stats").stdout
    assert "forge/captions/2" in stats
    assert "consumer groups: indexer" in stats
    assert "indexer" in run_here(url, "groups").stdout
    assert "not today" in run_here(url, "dead-letters").stdout
    assert "CaptionFinished" in run_here(url, "read", "forge/**").stdout
    asked = CliRunner().invoke(events, ["purge", "**", "--engine", url], input="n\n")
    assert asked.exit_code == 1
    assert "Delete 8 events?" in asked.stdout
    asked = CliRunner().invoke(events, ["purge", "**", "--engine", url], input="y\n")
    assert "8 events deleted" in asked.stdout
    assert "nothing under dead-letter/*/**" in run_here(url, "dead-letters").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["read", "--after", "soon"], "no place in a log"),
        (["read", "a//b"], "no key expression"),
        (["purge", "**"], "--yes"),
        (["purge", "**", "--before", "earliest", "--yes"], "before the earliest"),
        (["group", "reset", "nobody", "--to", "now", "--yes"], "no group nobody"),
        (["group", "reset", "nobody", "--to", "1h", "--yes"], "from an id"),
        (["group", "delete", "nobody", "--yes"], "no group nobody"),
        (["dead-letters", "--redrive"], "name of a group"),
        (["stats", "--engine", "memory:there"], "memory:"),
    ],
)
def test_errors_say_what_to_do(url: str, arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(events, arguments, env={"PROTOPLANE_ENGINE": url})
    assert result.exit_code in (1, 2)
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_it_is_a_command(run: Run) -> None:
    done = run("events", "--help")
    assert done.returncode == 0, done.stderr
    for name in ("stats", "read", "purge", "groups", "group", "dead-letters"):
        assert f"  {name} " in done.stdout
