"""A process of a queue: works on jobs, or accepts some and waits to be killed.

python worker_process.py work ENGINE FOLDER SECONDS
python worker_process.py accept ENGINE FOLDER COUNT
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.components.jobs.scripted import FAST  # noqa: E402

from protoplane.jobs.v1 import GenerateRequest, JobsClient, JobStage, Model  # noqa: E402
from protoplane_client import connect  # noqa: E402
from protoplane_components.jobs import Image, Jobs, Step  # noqa: E402
from protoplane_components.jobs.planes import JobPlanes  # noqa: E402
from protoplane_components.jobs.queueing import JobQueue  # noqa: E402
from protoplane_runtime.engines.objects.opening import open_object_store  # noqa: E402
from protoplane_runtime.engines.opening import open_engine  # noqa: E402
from protoplane_server import Options, Server  # noqa: E402


class Timed:
    """Takes some seconds for each image."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    @property
    def models(self) -> Sequence[Model]:
        return [Model(name="m")]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Step | Image, None]:
        yield Step(JobStage.JOB_STAGE_SAMPLING, 1, 50)
        await asyncio.sleep(self._seconds)
        yield Image(request.id.encode(), 1, 1, "text/plain")


async def work(url: str, folder: str, seconds: float) -> None:
    engine = await open_engine(url)
    objects = await open_object_store(f"local:{folder}")
    async with JobQueue(JobPlanes.of_engine(engine, objects), FAST, Timed(seconds)):
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


async def accept(url: str, folder: str, count: int) -> None:
    options = Options(grpc=None, http=None, inproc="front", engine=url, objects=f"local:{folder}")
    async with (
        Server(Jobs(Timed(0), slots=0, settings=FAST), options),
        connect("inproc:front") as plane,
    ):
        client = JobsClient(plane)
        for number in range(count):
            await client.generate(GenerateRequest(id=f"k{number}", prompt="p"))
            print(f"k{number}", flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    _, mode, url, folder, amount = sys.argv
    asyncio.run(
        work(url, folder, float(amount)) if mode == "work" else accept(url, folder, int(amount))
    )
