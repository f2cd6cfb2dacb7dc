"""A worker as a process of its own, which is killed.

Prompts that begin with ``early`` get three letters at once; everything else waits until a model is
loaded.

python worker_process.py ENGINE ID
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.components.orchestrator.scripted import Worker  # noqa: E402

from protoplane.inference.v1 import (  # noqa: E402
    GenerateRequest,
    GenerateResponse,
    LoadModelRequest,
    LoadModelResponse,
)
from protoplane_server import Context, Options, Server  # noqa: E402

EARLY = 3


class Held(Worker):
    """A worker that goes on only when it is told to."""

    def __init__(self, name: str) -> None:
        super().__init__(capacity=60)
        self._name = name
        self._held = asyncio.Event()

    async def generate(
        self, request: GenerateRequest, ctx: Context
    ) -> AsyncIterator[GenerateResponse]:
        """Write letters; the first message says who writes them, as the model."""
        prompt = request.prompt or ""
        if request.conversation is not None:
            prompt = request.conversation.messages[-1].content
        if not prompt.startswith("early"):
            await self._held.wait()
        async for answer in super().generate(request, ctx):
            if answer.index == EARLY:
                await self._held.wait()
            if answer.model:
                answer.model = self._name
            yield answer

    async def load_model(self, request: LoadModelRequest, ctx: Context) -> LoadModelResponse:
        """Let all go on."""
        self._held.set()
        return LoadModelResponse()


def held() -> Held:
    """A worker that writes its process's id as the model."""
    return Held(str(os.getpid()))


async def main(engine: str, id_: str) -> None:
    """Serve until killed."""
    options = Options(
        grpc=None,
        http=None,
        link=("link+tcp://127.0.0.1:0",),
        engine=engine,
        name=f"protoplane/inference/{id_}",
        stats_interval_s=None,
    )
    async with Server(Held(id_), options):
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
