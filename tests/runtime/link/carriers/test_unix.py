"""Links over unix sockets."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from tests.runtime.link.carriers.carrier_suite import CarrierSuite, Recorder

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Listener, Started
from protoplane_runtime.link.carriers.opening import connector, listener
from protoplane_runtime.tls import ClientTls, ServerTls


class TestUnix(CarrierSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.sockets = 0

    async def listen(self, started: Started, tls: ServerTls | None = None) -> Listener:
        self.sockets += 1
        address = f"link+unix:{self.folder}/{self.sockets}.sock"
        return await listener(address)(address, started, tls)

    async def connect(self, address: str, started: Started, tls: ClientTls | None = None) -> None:
        await connector(address)(address, started, tls)

    def nowhere(self) -> str:
        return f"link+unix:{self.folder}/nobody.sock"

    async def test_only_the_owner_may_connect(self) -> None:
        there = await self.listen(Recorder)
        mode = (self.folder / "1.sock").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
        await there.aclose()

    async def test_a_socket_nobody_listens_on_is_replaced(self) -> None:
        address = f"link+unix:{self.folder}/x.sock"
        first = await asyncio.get_running_loop().create_unix_server(
            asyncio.Protocol, str(self.folder / "x.sock")
        )
        first.close()
        second = await listener(address)(address, Recorder, None)
        with pytest.raises(OSError, match=r"x\.sock"):
            await listener(address)(address, Recorder, None)
        await second.aclose()
        assert not (self.folder / "x.sock").exists()

    async def test_no_path(self) -> None:
        with pytest.raises(PlaneError) as caught:
            await connector("link+unix:")("link+unix:", Recorder, None)
        assert caught.value.code is Code.INVALID_ARGUMENT
