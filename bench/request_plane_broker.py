"""The NATS server that some rows of `bench/request_plane.py` and `bench/events.py` need."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_START_S = 30.0


@asynccontextmanager
async def broker(jetstream: Path | None = None) -> AsyncGenerator[str]:
    """A NATS server of its own on a free port: its URL.

    Args:
        jetstream: Folder of JetStream's files, each write to which is synced to disk before it is
            acknowledged; JetStream is off without.
    """
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
    with TemporaryDirectory() as folder:
        arguments = ["--ports_file_dir", folder]
        if jetstream is not None:
            settings = Path(folder) / "nats.conf"
            store = json.dumps(str(jetstream))
            settings.write_text(f"jetstream {{ store_dir: {store}, sync_interval: always }}\n")
            arguments += ["--config", str(settings)]
        process = await asyncio.create_subprocess_exec(
            *(program, "--addr", "127.0.0.1", "--port", "-1", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            ports = Path(folder) / f"nats-server_{process.pid}.ports"
            async with asyncio.timeout(_START_S):
                # The file is there a moment before what it says.
                while not (ports.exists() and ports.stat().st_size):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            yield json.loads(ports.read_text())["nats"][0]
        finally:
            process.terminate()
            await process.wait()
