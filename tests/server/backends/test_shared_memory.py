"""Regions of shared memory: a Triton that takes its time, and owners that are killed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import Any, ClassVar

import numpy as np
import pytest
from tests.server.backends.backend_suite import CTX
from tests.triton_server import TritonServer
from tritonclient import grpc as triton_grpc

from protoplane_base import Code, PlaneError
from protoplane_server.backends.opening import open_backend
from protoplane_server.backends.tensors import Tensor
from protoplane_server.backends.triton import shared_memory
from protoplane_server.backends.triton.region_owner import RegionOwner, is_orphan
from protoplane_server.backends.triton.shared_memory import Region, SharedRegions

pytestmark = pytest.mark.anyio

SIZE = 2 << 20


class FakeRegion(Region):
    """Notes what becomes of it."""

    kind: ClassVar[str] = "Fake"

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.left = False
        self.closed = False

    def registration(self) -> dict[str, object]:
        return {}

    def write(self, tensor: Tensor, offset: int) -> None:
        raise NotImplementedError

    def read(self, place: slice) -> bytes:
        raise NotImplementedError

    def hide(self) -> None:
        pass

    def leave(self) -> None:
        self.left = True

    def close(self) -> None:
        self.closed = True


class SlowTriton:
    """Answers a register with an error, or not at all."""

    def __init__(self, error: PlaneError | None) -> None:
        self.error = error
        self.asked: asyncio.Queue[FakeRegion] = asyncio.Queue()
        self.unregistered: list[str] = []

    async def register(self, region: Region) -> None:
        assert isinstance(region, FakeRegion)
        self.asked.put_nowait(region)
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()

    async def unregister(self, name: str) -> None:
        self.unregistered.append(name)

    def regions(self) -> SharedRegions:
        return SharedRegions(FakeRegion, self.register, self.unregister, SIZE)


async def test_what_triton_may_have_is_kept_until_it_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    triton = SlowTriton(None)
    regions = triton.regions()
    taking = asyncio.create_task(regions.take(1))
    made = await triton.asked.get()
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert made.left
    assert not made.closed
    assert regions.taken_bytes == SIZE
    assert await regions.take(1) is None

    monkeypatch.setattr(shared_memory, "monotonic", lambda: float("inf"))
    triton.error = PlaneError(Code.INVALID_ARGUMENT, "no")
    with pytest.raises(PlaneError, match="no"):
        await regions.take(1)
    assert triton.unregistered == [made.name]
    assert made.closed


@pytest.mark.parametrize(
    ("code", "kept"), [(Code.DEADLINE_EXCEEDED, True), (Code.INVALID_ARGUMENT, False)]
)
async def test_what_triton_refuses_is_gone(code: Code, kept: bool) -> None:
    triton = SlowTriton(PlaneError(code, "no"))
    regions = triton.regions()
    assert not await regions.usable()
    made = triton.asked.get_nowait()
    assert made.closed is not kept
    assert regions.taken_bytes == (SIZE if kept else 0)


def test_a_region_is_an_orphan_once_its_owner_is_gone() -> None:
    owner = RegionOwner()
    name = owner.next_name()
    assert name != owner.next_name()
    assert not is_orphan(name)
    owner.close()
    owner.close()
    assert is_orphan(name)
    # Those of other programs, and of other releases.
    for other in ("", "input0", "protoplane-12-0123456789abcdef", f"{name}/../x"):
        assert not is_orphan(other)


KILLED = """
import asyncio, os, signal, sys
import numpy as np
from protoplane_server.backends.interface import BackendContext
from protoplane_server.backends.opening import open_backend
from protoplane_server.backends.tensors import Tensor

async def main():
    backend = open_backend(sys.argv[1])
    await backend.start()
    await backend.infer("fixed", [Tensor.of("X", np.ones((1, 20_000), "f4"))], BackendContext())
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_regions_of_a_process_that_was_killed_are_taken_back(
    triton: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton.load("fixed")
    url = f"{triton.url}?shared_memory_min_bytes=10000"
    make: Any = triton_grpc.InferenceServerClient

    def orphans() -> list[str]:
        with make(triton.address) as client:
            return [name for name in client.get_system_shared_memory_status().regions
                    if is_orphan(name)]  # fmt: skip

    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED, url], check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    assert orphans()
    monkeypatch.setattr(shared_memory, "LEFT_S", 0.0)
    backend = open_backend(url)
    await backend.start()
    try:
        await backend.infer("fixed", [Tensor.of("X", np.ones((1, 20_000), np.float32))], CTX)
        assert not orphans()
    finally:
        await backend.stop()
