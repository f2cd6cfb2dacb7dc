"""Carriers whose extra is not installed."""

from __future__ import annotations

import sys

import pytest

from protoplane_base import MissingExtraError
from protoplane_runtime.link.carriers.opening import connector, listener

CARRIERS = "protoplane_runtime.link.carriers."


@pytest.mark.parametrize(
    ("extra", "modules"),
    [
        ("zmq", ["zeromq", "zeromq_keys"]),
        ("nats", ["nats", "nats_broker"]),
        ("zenoh", ["zenoh", "zenoh_session", "zenoh_thread", "zenoh_address"]),
    ],
)
def test_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, extra: str, modules: list[str]
) -> None:
    for module in modules:
        monkeypatch.delitem(sys.modules, CARRIERS + module, raising=False)
    for module in [name for name in sys.modules if name.partition(".")[0] == extra]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, extra, None)
    for opening in (connector, listener):
        with pytest.raises(MissingExtraError, match=rf"protoplane\[{extra}\]"):
            opening(f"link+{extra}://127.0.0.1:1/a")
