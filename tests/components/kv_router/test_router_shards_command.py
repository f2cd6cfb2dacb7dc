"""``protoplane router shards``: parts in processes of their own, for a router in another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
from tests.cli.conftest import Served

ROUTER = "protoplane_components.kv_router"
PROMPT = {"tokens": {"ids": [*range(64)]}}


def test_a_router_finds_the_shards_of_the_command(tmp_path: Path) -> None:
    engine = f"local:{tmp_path / 'engine'}"
    command = [str(Path(sys.executable).with_name("protoplane")), "router", "shards", "2"]
    with subprocess.Popen([*command, "--engine", engine], stderr=subprocess.DEVNULL) as shards:
        try:
            environment = {**os.environ, "PROTOPLANE_ROUTER_SHARDS": "2"}
            served = Served(environment, ROUTER, "--http-only", "--http", "0", "--engine", engine)
            try:
                with httpx.Client(base_url=served.http, timeout=30) as client:
                    added = client.put("/router/v1/workers/one", json={"blockSize": 16})
                    assert added.json() == {"added": True}
                    asked = {"request": {"prompt": PROMPT, "omitScores": True}}
                    end = time.monotonic() + 30
                    while True:
                        selection = client.post("/router/v1/select", json=asked).json()["selection"]
                        assert selection["workerId"] == "one"
                        if "degraded" not in selection:
                            break
                        assert time.monotonic() < end
                    assert "protoplane_router_shards_away 0.0" in client.get("/metrics").text
            finally:
                served.stop()
        finally:
            shards.terminate()
            assert shards.wait(30) == 0


def test_a_shard_beyond_the_last_is_refused() -> None:
    command = [str(Path(sys.executable).with_name("protoplane")), "router", "shards"]
    for arguments, words in (
        (["2", "--only", "3"], "beyond 2"),
        (["2", "--engine", "memory:"], "another engine"),
    ):
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode != 0
        assert words in done.stderr
        assert "Traceback" not in done.stderr
