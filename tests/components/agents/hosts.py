"""Hosts of agents as processes of their own, which can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, "-c", "from protoplane_runtime.cli import main; main()"]
ALLOWED = """
commands = ["cat", "sh", "sleep"]
max_agents = 3

[kinds.hello]
command = ["echo", "hello"]
description = "Says hello."
"""


@dataclass
class HostProcess:
    """A process of ``protoplane serve`` with the agents component.

    Attributes:
        folder: Where its engine, its allow-list and its agents are.
        process: The process.
        grpc: Where its gRPC door is.
    """

    folder: Path
    process: Process
    grpc: str

    @property
    def engine(self) -> str:
        """Its engine."""
        return f"local:{self.folder / 'engine'}"

    async def end(self, number: signal.Signals) -> None:
        """End it by a signal."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        await asyncio.wait_for(self.process.communicate(), 30)


@asynccontextmanager
async def host_process(folder: Path) -> AsyncGenerator[HostProcess]:
    """Start one; it is killed at the end where it still runs."""
    (folder / "agents.toml").write_text(ALLOWED)
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "serve", "protoplane_components.agents:Agents", "--grpc", "0", "--http", "0",
        "--engine", f"local:{folder / 'engine'}", "--grace", "60",
        stderr=PIPE,
        env={
            **os.environ,
            "PROTOPLANE_AGENTS": str(folder / "agents.toml"),
            "PROTOPLANE_AGENTS_FOLDER": str(folder / "agents"),
        },
    )  # fmt: skip
    host = HostProcess(folder, process, "")
    try:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while line := (await process.stderr.readline()).decode():
                if "gRPC at " in line:
                    host.grpc = line.split("gRPC at ")[1].split()[0].rstrip(",;")
                    break
        assert host.grpc, "the host did not start"
        yield host
    finally:
        await host.end(signal.SIGKILL)
