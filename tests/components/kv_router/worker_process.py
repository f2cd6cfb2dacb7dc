"""A worker as a process of its own: its cache changes all the time, until it is told to rest.

python -m tests.components.kv_router.worker_process ENGINE NAME SEED
"""

from __future__ import annotations

import asyncio
import sys

from tests.components.kv_router.truth import Churn

from protoplane.router.v1 import Worker
from protoplane_components.kv_router.worker import KvWorker
from protoplane_server import Options, Server


async def main(engine: str, name: str, seed: int) -> None:
    """Serve until the standard input ends; a line there lets the cache rest."""
    worker = KvWorker(Worker(block_size=16))
    options = Options(
        grpc=None, http=None, link=("link+tcp://127.0.0.1:0",), engine=engine, name=name
    )
    rest, over = asyncio.Event(), asyncio.Event()

    def told() -> None:
        (rest if sys.stdin.readline() else over).set()

    asyncio.get_running_loop().add_reader(0, told)
    churn = Churn(worker, seed)
    async with Server(worker, options):
        print("ready", flush=True)
        while not (rest.is_set() or over.is_set()):
            churn.step()
            await asyncio.sleep(0.002)
        asyncio.get_running_loop().remove_reader(0)
        asyncio.get_running_loop().add_reader(0, over.set)
        await over.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
