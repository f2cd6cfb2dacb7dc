"""From a URL to an object store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runtime.object_store_suite import fails, listed, read

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.objects.opening import open_object_store

pytestmark = pytest.mark.anyio

_WITHOUT = """
import asyncio, sys
sys.modules["obstore"] = None
from protoplane_runtime.engines.objects.opening import open_object_store

async def main():
    await open_object_store("memory:")
    try:
        await open_object_store("s3://bucket")
    except ImportError as error:
        print(error)

asyncio.run(main())
"""


async def test_each_memory_is_its_own() -> None:
    one, other = [await open_object_store("memory:") for _ in range(2)]
    await one.put("a", b"")
    assert await listed(other) == []


async def test_local_folder(tmp_path: Path) -> None:
    store = await open_object_store(f"local:{tmp_path}")
    await store.put("a", b"data")
    again = await open_object_store((tmp_path / "objects").as_uri())
    assert await read(again, "a") == b"data"


async def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    await (await open_object_store()).put("a", b"data")
    assert (tmp_path / "protoplane" / "objects" / "a=").exists()


async def test_file_url_with_escapes(tmp_path: Path) -> None:
    store = await open_object_store((tmp_path / "a b").as_uri())
    await store.put("a", b"data")
    assert (tmp_path / "a b" / "a=").exists()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "folder",
        "memory:x",
        "nats://host",
        "file://elsewhere/folder",
        "file:folder",
        "https://x",
    ],
)
async def test_bad_url(url: str) -> None:
    with fails(Code.INVALID_ARGUMENT):
        await open_object_store(url)


@pytest.mark.parametrize(
    "url", ["s3://", "s3://bucket?nonsense=1&secret_access_key=hidden", "az://container?x=hidden"]
)
async def test_bad_cloud(url: str) -> None:
    pytest.importorskip("obstore", reason="needs the extra objects")
    with pytest.raises(PlaneError) as caught:
        await open_object_store(url)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "hidden" not in caught.value.message
    assert "\n" not in caught.value.message


def test_missing_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT], check=True, capture_output=True, text=True
    )
    assert "pip install 'protoplane[objects]'" in done.stdout


async def test_google_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore", reason="needs the extra objects")
    # Of itself, obstore panics at this setting of a gs: URL.
    nobody = {"gcs_base_url": "http://127.0.0.1:9", "disable_oauth": True}
    names = ("client_email", "private_key", "private_key_id")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(nobody | dict.fromkeys(names, "")))
    await open_object_store("gs://bucket?allow_http=true")
