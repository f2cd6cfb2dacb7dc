"""A process that uses a local state store; the tests start and kill it.

python -m tests.runtime.state_worker put <folder> <prefix>
python -m tests.runtime.state_worker count <folder> <times>
python -m tests.runtime.state_worker watch <folder>
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.local.state import LocalState
from protoplane_runtime.engines.state import Deleted, Entry


async def put(folder: str, prefix: str) -> None:
    """Put new keys in eight tasks; say each once it is acknowledged."""
    store = await LocalState.open(Path(folder))
    numbers = iter(range(10**6))

    async def some() -> None:
        for number in numbers:
            key = f"{prefix}/{number}"
            revision = await store.put(key, b"x" * 100)
            sys.stdout.write(f"{key} {revision}\n")
            sys.stdout.flush()

    await asyncio.gather(*(some() for _ in range(8)))


async def count(folder: str, times: int) -> None:
    """Count up, in competition with others."""
    store = await LocalState.open(Path(folder))
    while times:
        entry = await store.get("count")
        value, revision = (int(entry.value), entry.revision) if entry is not None else (0, 0)
        try:
            await store.put("count", str(value + 1).encode(), expected=revision)
        except PlaneError as error:
            if error.code is not Code.ABORTED:
                raise
        else:
            times -= 1
    await store.close()


async def watch(folder: str) -> None:
    """Say `ready`, then each change."""
    store = await LocalState.open(Path(folder))
    async for change in store.watch():
        match change:
            case Entry(key, value):
                said = f"{key} {value.decode()}"
            case Deleted(key, _, expired):
                said = f"{key} {'expired' if expired else 'deleted'}"
            case _:
                said = "ready"
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["put", folder, prefix]:
            asyncio.run(put(folder, prefix))
        case ["count", folder, times]:
            asyncio.run(count(folder, int(times)))
        case ["watch", folder]:
            asyncio.run(watch(folder))
        case _:
            sys.exit(__doc__)
