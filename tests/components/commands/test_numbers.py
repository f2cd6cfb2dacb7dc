"""Numbers that no schema can carry are wrong usage, told in a line."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from protoplane_base import Duration
from protoplane_components.commands.agents import agents
from protoplane_components.commands.jobs import jobs
from protoplane_components.commands.numbers import Seconds


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "1e300", "a", ""])
def test_what_is_no_number_of_seconds(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Seconds(zero=True).convert(text, None, None)


def test_seconds() -> None:
    assert Seconds().convert("1.5", None, None) == Duration.from_seconds(1.5)
    assert Seconds(zero=True).convert("0", None, None) == Duration()
    with pytest.raises(click.BadParameter):
        Seconds().convert("0", None, None)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (jobs, ["submit", "a fox", "--seed", str(2**64)]),
        (jobs, ["submit", "a fox", "--priority", str(2**31)]),
        (jobs, ["submit", "a fox", "--steps", str(2**31)]),
        (jobs, ["submit", "a fox", "--time-limit", "nan"]),
        (jobs, ["submit", "a fox", "--time-limit", "0"]),
        (jobs, ["submit", "a fox", "--size", f"{2**40}x1"]),
        (jobs, ["submit", "a fox", "--size", "²x1"]),
        (agents, ["spawn", "--timeout", "nan", "cat"]),
        (agents, ["spawn", "--grace", "inf", "cat"]),
        (agents, ["spawn", "--output-bytes", str(2**63), "cat"]),
        (agents, ["spawn", "--limit", f"cpu_seconds={2**64}", "cat"]),
        (agents, ["stop", "one", "--grace", "nan"]),
    ],
)
def test_wrong_usage(command: click.Command, arguments: list[str]) -> None:
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2, done.exception
    assert "Error: Invalid value" in done.output
