"""gRPC clients that are not Python's call the door, where they are on the machine."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path

import pytest
from tests.component_suite import component_options
from tests.parts import Parts

from protoplane_server import Server

pytestmark = pytest.mark.anyio

_BESIDE = Path(sys.executable).with_name("buf")
BUF = str(_BESIDE) if _BESIDE.exists() else shutil.which("buf") or ""


@pytest.mark.skipif(not BUF, reason="buf is missing")
@pytest.mark.parametrize("version", ["grpc-v1", "grpc-v1alpha"])
async def test_buf_curl_by_reflection(version: str, tmp_path: Path) -> None:
    async with Server(Parts(), component_options(grpc=0)) as server:
        process = await asyncio.create_subprocess_exec(
            BUF,
            "curl",
            "--protocol=grpc",
            "--http2-prior-knowledge",
            f"--reflect-protocol={version}",
            '--data={"prompt": "one two"}',
            f"http://{server.grpc_address}/forge.captioner.v1.CaptionerService/Caption",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
            env={"HOME": str(tmp_path), "PATH": ""},
        )
        async with asyncio.timeout(30):
            out, err = await process.communicate()
    assert process.returncode == 0, err
    text = out.decode()
    decoder = json.JSONDecoder()
    answers: list[object] = []
    while text.strip():
        answer, end = decoder.raw_decode(text.lstrip())
        answers.append(answer)
        text = text.lstrip()[end:]
    assert answers == [{"text": "one"}, {"text": "two", "index": 1}]
