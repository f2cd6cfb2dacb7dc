"""The OpenAI-compatible backend against a real llama.cpp server: ``make llama``."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from tests.server.backends.backend_suite import CTX, written
from tests.server.backends.openai_suite import OpenaiSuite

from protoplane_server.backends.interface import (
    BackendContext,
    Capability,
    ChatMessage,
    FinishReason,
    Sampling,
)
from protoplane_server.backends.opening import open_backend

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-llama" / "bin" / "python"
PROGRAM = ROOT / "tests" / "llama" / "server.py"
WRITER, EMBEDDER = "tiny", "tiny-embed"
CONTEXT_TOKENS = 512
OF_USAGE = frozenset({"test_a_text_ends_with_a_reason_and_the_usage", "test_any_text_is_a_prompt"})

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not PYTHON.exists(), reason="llama.cpp is not built here; make llama builds and tests it"
    ),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    folder = tmp_path_factory.mktemp("llama")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [os.fspath(PYTHON), os.fspath(PROGRAM), str(port), os.fspath(folder)],
            stdout=log,
            stderr=log,
        )
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
                break
            except URLError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.1)
        yield f"openai:http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


class TestLlama(OpenaiSuite):
    writer = WRITER
    embedder = EMBEDDER
    endless = Sampling(max_tokens=CONTEXT_TOKENS - 20)

    @pytest.fixture(autouse=True)
    def served(self, request: pytest.FixtureRequest, url: str) -> None:
        if request.node.originalname in OF_USAGE:
            pytest.skip("llama-cpp-python does not tell the usage of a stream")
        self.url = url


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("way", ["chat", "completions"])
@pytest.mark.parametrize("text", ["Das Ä", "\0", "🦊", "<s>"])
async def test_any_text_is_a_prompt(url: str, text: str, way: str) -> None:
    backend = open_backend(f"{url}?text={way}")
    await backend.start()
    try:
        *_, last = await written(backend.generate(WRITER, text, Sampling(max_tokens=2), CTX))
        assert last.finish is FinishReason.LENGTH
        # Others say which request it was by names of their own.
        conversation = (ChatMessage("user", text),)
        named = BackendContext(request_id="no uuid")
        sampling = Sampling(max_tokens=3, stop=("never",), top_k=3)
        *_, last = await written(backend.generate(WRITER, conversation, sampling, named))
        assert last.finish is FinishReason.LENGTH
    finally:
        await backend.stop()


async def test_what_its_models_can(url: str) -> None:
    backend = open_backend(url)
    await backend.start()
    try:
        models = {model.name: model.capabilities for model in await backend.list()}
        assert models == {
            WRITER: frozenset({Capability.GENERATE}),
            EMBEDDER: frozenset({Capability.EMBED}),
        }
    finally:
        await backend.stop()
