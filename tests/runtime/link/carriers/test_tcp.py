"""Links over TCP and TLS."""

from __future__ import annotations

import socket

import pytest
from tests.runtime.link.carriers.carrier_suite import Recorder, TlsCarrierSuite

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Listener, Started
from protoplane_runtime.link.carriers.opening import connector, listener
from protoplane_runtime.tls import ClientTls, ServerTls


class TestTcp(TlsCarrierSuite):
    async def listen(self, started: Started, tls: ServerTls | None = None) -> Listener:
        address = f"link+{'tcp' if tls is None else 'tls'}://127.0.0.1:0"
        return await listener(address)(address, started, tls)

    async def connect(self, address: str, started: Started, tls: ClientTls | None = None) -> None:
        await connector(address)(address, started, tls)

    def nowhere(self) -> str:
        return f"link+tcp://127.0.0.1:{free_port()}"

    async def test_tls_needs_a_certificate(self) -> None:
        with pytest.raises(PlaneError) as caught:
            await listener("link+tls://127.0.0.1:0")("link+tls://127.0.0.1:0", Recorder, None)
        assert caught.value.code is Code.INVALID_ARGUMENT

    @pytest.mark.parametrize(
        "address", ["link+tcp://", "link+tcp://here", "link+tcp://here:65536", "link+tcp://:1"]
    )
    async def test_no_address(self, address: str) -> None:
        with pytest.raises(PlaneError) as caught:
            await connector(address)(address, Recorder, None)
        assert caught.value.code is Code.INVALID_ARGUMENT


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
