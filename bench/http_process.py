"""HTTP servers in processes of their own, for the benchmarks that compare some of them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Generator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def server(program: Path, name: str) -> Generator[tuple[int, subprocess.Popen[bytes]]]:
    """A server in its own process: its port, and the process to give orders to.

    Args:
        program: The benchmark, which calls `serve_named` when it is run with ``--serve``.
        name: Which of its servers.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=8192) as sock:
        process = subprocess.Popen(
            [sys.executable, program, "--serve", name, str(sock.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[sock.fileno()],
        )
        try:
            yield sock.getsockname()[1], process
        finally:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def serve_named(
    servers: Mapping[str, Callable[[socket.socket], Coroutine[Any, Any, None]]], name: str, fd: str
) -> None:
    """Serve on a socket that `server` opened, until this process is killed."""
    import uvloop

    with socket.socket(fileno=int(fd)) as listener:
        uvloop.run(servers[name](listener))


async def serve_uvicorn(app: Any, sock: socket.socket) -> None:
    """Serve an ASGI application as fast as uvicorn can."""
    import uvicorn

    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, timeout_keep_alive=75,
    )  # fmt: skip
    await uvicorn.Server(config).serve([sock])
