"""``protoplane up`` with its default policy: a prompt goes where its beginning has gone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.components.stack.stacks import Watched, eventually, role
from tests.components.stack.test_commands import ask, run, within

from protoplane_components.commands.down import down
from protoplane_components.stack.records import StackRecord


def test_a_long_prompt_goes_where_its_beginning_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that is busy with other tests must not make the router look slow.
    monkeypatch.setenv("PROTOPLANE_ORCHESTRATOR_ROUTER_TIMEOUT_S", "20")
    common = ("--folder", str(tmp_path))
    with Watched.over(tmp_path):
        started = run("up", *common, "--http", "127.0.0.1:0", "--detach", "--json")
        assert started.returncode == 0, started.stderr
        record = StackRecord.model_validate_json(started.stdout)
        orchestrator, router = (role(record, name).http for name in ("orchestrator", "router"))
        eventually(lambda: len(ask(f"{router}/router/v1/workers").get("workers", ())) == 3)

        def told() -> Mapping[str, Any]:
            said: Mapping[str, Any] = ask(f"{orchestrator}/orchestrator/v1/workers")
            return said

        def went(text: str) -> str:
            """Chat; the worker that it went to."""
            before = {each["id"]: each.get("dispatched", "0") for each in told()["workers"]}
            message = {"role": "user", "content": text}
            ask(
                f"{record.http}/v1/chat/completions",
                {"model": "char-gru", "messages": [message], "max_tokens": 2},
            )
            # What it was given is no load any more.
            eventually(lambda: not any("activeRequests" in each for each in loads()))
            after: dict[str, str] = {
                each["id"]: each.get("dispatched", "0") for each in told()["workers"]
            }
            [worker] = [id_ for id_ in after if after[id_] != before[id_]]
            return worker

        def loads() -> list[Mapping[str, Any]]:
            found: list[Mapping[str, Any]] = ask(f"{router}/router/v1/loads").get("loads", [])
            return found

        story = "Once upon a time there was a fox that had a den by the sea. " * 20
        homes = {went(story), went(f"{story}One day"), went(f"{story}One day it left.")}
        assert len(homes) == 1
        counts = told()["counts"]
        assert (counts["routed"], counts.get("unrouted", "0")) == ("3", "0")
        listed = ask(f"{router}/router/v1/workers")["workers"]
        assert [each["worker"].get("noEvents") for each in listed] == [True] * 3
        assert within(down, *common).exit_code == 0
