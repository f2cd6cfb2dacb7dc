"""What gRPC and HTTP links share: a carrier on what reads and writes by waiting."""

from __future__ import annotations

import asyncio

import pytest
from tests.runtime.link.carriers.carrier_suite import Recorder

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.pumped import PumpedCarrier

pytestmark = pytest.mark.anyio
BROKEN = PlaneError(Code.UNAVAILABLE, "the cable is cut")


class _Pump:
    """Writes into a list, one at a time as it is let."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes | PlaneError | None] = asyncio.Queue()
        self.may_write = asyncio.Event()
        self.written: list[bytes] = []
        self.broken = False
        self.finished = 0

    async def read(self) -> bytes | None:
        item = await self.incoming.get()
        if isinstance(item, PlaneError):
            raise item
        return item

    async def write(self, pieces: list[bytes]) -> None:
        await self.may_write.wait()
        if self.broken:
            raise BROKEN
        self.written.append(b"".join(pieces))

    async def finish(self) -> bool:
        self.finished += 1
        return False


def _start(pump: _Pump, write_bytes: int = 1000) -> tuple[Recorder, asyncio.Task[None]]:
    made: list[Recorder] = []

    def started(carrier: object) -> Recorder:
        made.append(Recorder(carrier))  # type: ignore[arg-type]
        return made[0]

    carrier = PumpedCarrier(started, pump, peer="there", write_bytes=write_bytes)
    return made[0], asyncio.create_task(carrier.run())


async def test_what_is_sent_during_a_write_leaves_together() -> None:
    pump = _Pump()
    end, task = _start(pump)
    end.carrier.send(b"first")
    await asyncio.sleep(0.01)
    for _ in range(5):
        end.carrier.send(b"x" * 300)
    pump.may_write.set()
    end.carrier.close()
    assert await end.until_lost() is None
    await task
    assert [len(data) for data in pump.written] == [5, 900, 600]
    assert pump.finished == 1


async def test_a_large_piece_is_cut() -> None:
    pump = _Pump()
    pump.may_write.set()
    end, task = _start(pump, write_bytes=1000)
    end.carrier.send(bytes(range(250)) * 10)
    end.carrier.close()
    await task
    assert [len(data) for data in pump.written] == [1000, 1000, 500]
    assert b"".join(pump.written) == bytes(range(250)) * 10


@pytest.mark.parametrize("closing", [False, True])
async def test_a_write_that_fails_is_a_loss(closing: bool) -> None:
    pump = _Pump()
    end, task = _start(pump)
    end.carrier.send(b"lost on the way")
    if closing:
        end.carrier.close()
    pump.broken = True
    pump.may_write.set()
    pump.incoming.put_nowait(BROKEN)
    assert await end.until_lost() is BROKEN
    await task


async def test_a_read_that_fails_is_a_loss() -> None:
    pump = _Pump()
    end, task = _start(pump)
    pump.incoming.put_nowait(b"data")
    pump.incoming.put_nowait(BROKEN)
    assert await end.until_lost() is BROKEN
    assert end.data == b"data"
    await task


async def test_the_other_end_closes() -> None:
    pump = _Pump()
    end, task = _start(pump)
    pump.incoming.put_nowait(None)
    assert await end.until_lost() is None
    await task


async def test_a_cancelled_run_is_a_loss() -> None:
    end, task = _start(_Pump())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    error = end.losses[0]
    assert error is not None
    assert error.code is Code.UNAVAILABLE
