"""OpenAI's API, as the official client for Node sees it."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.components.gateway.running import ALICE, gateway
from tests.components.gateway.talker import MODELS, Talker
from tests.interop.tools import node_and_npm, node_folder

pytestmark = pytest.mark.anyio

KEYS = f"""
[[keys]]
name = "alice"
sha256 = "{sha256(ALICE.encode()).hexdigest()}"

[[keys]]
name = "few"
sha256 = "{sha256(f"{ALICE}-few".encode()).hexdigest()}"
requests = "1/second"
"""


@pytest.fixture(scope="module")
def program() -> list[str]:
    folder = node_folder()
    node, _ = node_and_npm()
    return [node, str(folder / "openai.mjs")]


async def test_the_official_client(program: list[str], talker: Talker, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(KEYS)
    async with gateway(talker, key_file=keys) as running:
        process = await asyncio.create_subprocess_exec(
            *program, running.url, ALICE, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            steps: dict[str, Any] = {}
            async with asyncio.timeout(60):
                async for line in process.stdout:
                    found = json.loads(line)
                    steps[found["step"]] = found
                    if found["step"] == "left":
                        await talker.until(hanging=0, cancelled=1)
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert steps["chat"]["text"] == "a b"
    assert steps["chat"]["usage"]["total_tokens"] == 4
    assert steps["chat"]["id"] == talker.contexts[0].request_id
    assert steps["stream"]["pieces"] == ["", "ä", " „b“", " c", None, None]
    assert steps["stream"]["usage"]["total_tokens"] == 6
    assert steps["completion"]["choice"]["text"] == "a"
    assert steps["completion"]["choice"]["finish_reason"] == "length"
    assert steps["embeddings"]["vectors"] == [[1.0, 0.5, -0.25, 1.0]] * 2
    assert steps["models"]["models"] == [*MODELS]
    assert steps["models"]["one"] == "parrot/large"
    expected = {
        "key": ("AuthenticationError", 401, "invalid_api_key"),
        "model": ("NotFoundError", 404, "model_not_found"),
        "parameter": ("BadRequestError", 400, "unsupported_parameter"),
        "away": ("InternalServerError", 503, "unavailable"),
        "limited": ("RateLimitError", 429, "rate_limit_exceeded"),
    }
    for step, (name, status, code) in expected.items():
        found = steps[step]
        assert (found["name"], found["status"], found["code"]) == (name, status, code), found
    assert steps["parameter"]["param"] == "n"
    assert steps["middle"]["begun"] == ["", "a"]
    assert (steps["middle"]["name"], steps["middle"]["code"]) == ("APIError", "unavailable")
    assert steps["again"]["text"] == "a"
