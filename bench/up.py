"""A whole stack on one machine: from the command to the first answer, and back to nothing.

Each round brings up gateway, orchestrator, registry, KV router and three workers by
`protoplane up --detach`, chats through the gateway's OpenAI API as soon as it answers, kills a
worker, and ends it all by `protoplane down`. Nothing is kept from one round to the next.

    python bench/up.py [--full] [--json]
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from report import Claim, Row, print_report

ROUNDS = 15 if "--full" in sys.argv else 5
WORKERS = 3
_LIMIT_S = 60.0
_PROTOPLANE = str(Path(sys.executable).with_name("protoplane"))
_CHAT = {"messages": [{"role": "user", "content": "Tell me a story"}], "max_tokens": 8}


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def ask(port: int, method: str, path: str, body: object = None) -> Any:
    """One request; ``None`` where it is not answered well."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"content-type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        data = response.read()
        return json.loads(data) if response.status == 200 else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def first_answer(port: int) -> None:
    """Chat until it is answered."""
    end = time.perf_counter() + _LIMIT_S
    model = ""
    while time.perf_counter() < end:
        if not model:
            models = ask(port, "GET", "/v1/models")
            model = models["data"][0]["id"] if models and models["data"] else ""
        elif ask(port, "POST", "/v1/chat/completions", {"model": model, **_CHAT}):
            return
        time.sleep(0.01)
    raise SystemExit(f"no answer within {_LIMIT_S:g} s")


def stack_of(folder: str) -> Any:
    """What the stack says of itself."""
    return json.loads((Path(folder) / "stack" / "stack.json").read_text(encoding="utf-8"))


def restarted(folder: str) -> float:
    """Kill a worker; seconds until it is ready again."""
    worker = stack_of(folder)["processes"][-1]
    began = time.perf_counter()
    os.kill(worker["pid"], signal.SIGKILL)
    while True:
        now = stack_of(folder)["processes"][-1]
        if now["restarts"] == 1 and now["phase"] == "ready":
            return time.perf_counter() - began
        if time.perf_counter() - began > _LIMIT_S:
            raise SystemExit("the worker does not come back")
        time.sleep(0.01)


def one_round() -> tuple[float, float, float, float, float]:
    """Seconds to all processes ready, to the command's end, to the first answer, and so on."""
    port = free_port()
    with TemporaryDirectory() as folder:
        began = time.perf_counter()
        up = subprocess.Popen(
            [
                _PROTOPLANE, "up", "--detach", "--folder", folder, "--workers", str(WORKERS),
                "--http", f"127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            first_answer(port)
            answered = time.perf_counter() - began
            if up.wait(_LIMIT_S):
                raise SystemExit("protoplane up failed")
            returned = time.perf_counter() - began
            record = stack_of(folder)
            ready = max(each["since_s"] for each in record["processes"]) - record["started_s"]
            back = restarted(folder)
        finally:
            began = time.perf_counter()
            subprocess.run(
                [_PROTOPLANE, "down", "--folder", folder],
                stdout=subprocess.DEVNULL,
                check=True,
            )
            down = time.perf_counter() - began
        return ready, returned, answered, back, down


def main() -> None:
    """Measure and print."""
    rounds = [one_round() for _ in range(ROUNDS)]
    names = (
        "forked to all processes ready",
        "command to its end, ready",
        "command to first chat answered",
        "worker killed to ready again",
        "protoplane down",
    )
    rows: list[Row] = []
    for name, values in zip(names, zip(*rounds, strict=True), strict=True):
        rows.append(Row(name, "best", min(values), "s"))
        rows.append(Row(name, "median", median(values), "s"))
        rows.append(Row(name, "worst", max(values), "s"))
    what = f"protoplane up, {WORKERS} workers, best of {ROUNDS}: seconds to"
    claims = [
        Claim(f"{what} {name}", 5.0, min(each[at] for each in rounds), at_most=True)
        for at, name in ((1, "ready"), (2, "the first chat answered"))
    ]
    print_report("up", rows, claims, ("uvloop", "uvicorn"))


if __name__ == "__main__":
    main()
