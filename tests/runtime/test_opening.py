"""From URLs to engines."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.runtime.event_log_suite import publish, take

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.folders import default_folder
from protoplane_runtime.engines.interface import Start
from protoplane_runtime.engines.opening import open_discovery, open_engine

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("url", ["memory:", "local:{folder}/engine", "static:"])
async def test_engines(url: str, tmp_path: Path) -> None:
    engine = await open_engine(url.format(folder=tmp_path))
    event_id = await publish(engine.events, "a/1", durable=True)
    [event] = await take(engine.events.read(["**"], after=Start.EARLIEST), 1)
    assert event.id == event_id
    revision = await engine.state.put("a/1", b"x")
    entry = await engine.state.get("a/1")
    assert entry is not None
    assert entry.revision == revision
    async with engine.discovery.register(Instance("forge/captioner/one")):
        assert len(await engine.discovery.instances("forge/captioner")) == 1
    await engine.close()
    await engine.close()
    for use in (
        publish(engine.events, "a/1"),
        engine.state.get("a/1"),
        engine.discovery.instances(),
    ):
        with pytest.raises(PlaneError):
            await use


async def test_the_discovery_alone(tmp_path: Path) -> None:
    url = f"local:{tmp_path}"
    engine = await open_engine(url)
    discovery = await open_discovery(url)
    async with engine.discovery.register(Instance("forge/captioner/one")):
        assert len(await discovery.instances()) == 1
    await discovery.close()
    await engine.close()


async def test_the_environment_names_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOPLANE_ENGINE", "static:forge/captioner=grpc://a:1")
    engine = await open_engine()
    assert engine.url.startswith("static:")
    [instance] = await engine.discovery.instances("forge/captioner")
    assert instance.endpoints == ("grpc://a:1",)
    await engine.close()
    other = await open_engine("memory:")
    assert list(await other.discovery.instances()) == []
    await other.close()


async def test_what_was_opened_before_a_fault_is_closed(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    before = set(threading.enumerate())
    with pytest.raises(PlaneError) as caught:
        await open_engine(f"local:{tmp_path}")
    assert caught.value.code is Code.DATA_LOSS
    names = {thread.name for thread in set(threading.enumerate()) - before}
    assert not any(name.startswith("protoplane") for name in names)


async def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROTOPLANE_ENGINE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    engine = await open_engine()
    event_id = await publish(engine.events, "a/1", durable=True)
    await engine.close()
    again = await open_engine(f"local:{tmp_path}/protoplane")
    assert again.events.last == event_id
    await again.close()
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local/state/protoplane"


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        ("nats://host?replicas=9", Code.INVALID_ARGUMENT, "'replicas' is 1 to 5"),
        ("tls://host/path", Code.INVALID_ARGUMENT, "is no NATS engine"),
        ("zenoh:?mode=router", Code.INVALID_ARGUMENT, "'mode' is peer or client"),
        ("redis://host", Code.INVALID_ARGUMENT, "memory:, local:<folder>"),
        ("local", Code.INVALID_ARGUMENT, "local:<folder>"),
        ("memory:x", Code.INVALID_ARGUMENT, "nothing more"),
    ],
)
async def test_other_urls(url: str, code: Code, says: str) -> None:
    with pytest.raises(PlaneError) as caught:
        await open_engine(url)
    assert caught.value.code is code
    assert says in caught.value.message
