"""Where snapshots are kept."""

from __future__ import annotations

import pytest

from protoplane_components.kv_router.keeping import snapshot_key


def test_one_engine_in_whatever_way_it_is_written_has_one_snapshot() -> None:
    key = snapshot_key("a/router", "default", "nats://one:4222,nats://two:4222")
    assert key.startswith("a/router/index-")
    assert key == snapshot_key("a/router", "default", "nats://two:4222,nats://one:4222")
    assert key == snapshot_key("a/router", "default", "nats://me:secret@one:4222,nats://two:4222")


@pytest.mark.parametrize("engine", ["", "memory:", "local:", "local:/var/lib/x"])
def test_an_engine_in_a_folder_has_its_own_store(engine: str) -> None:
    assert snapshot_key("a/router", "default", engine) == "a/router/index"


def test_all_else_have_others() -> None:
    keys = {
        snapshot_key(component, namespace, engine)
        for component in ("a/router", "b/router")
        for namespace in ("default", "staging")
        for engine in ("local:", "nats://one", "nats://two", "zenoh:")
    }
    assert len(keys) == 16
