"""Objects in Azure's Blob Storage, as Azurite plays it: a process of its own, on the loopback.

`npm install --global azurite` brings it. It is large, so the tests do without it where it is not.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from secrets import token_hex

import pytest
from tests.runtime.object_store_suite import ObjectStoreSuite

from protoplane_runtime.engines.objects.interface import ObjectStore
from protoplane_runtime.engines.objects.opening import open_object_store

pytest.importorskip("obstore", reason="needs the extra objects")

_SERVER = shutil.which("azurite-blob")
_WAIT_S = 60.0
# Those of every Azurite (https://learn.microsoft.com/azure/storage/common/storage-use-azurite).
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_VERSION = "2021-08-06"

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not _SERVER, reason="azurite-blob is missing; npm install -g azurite"),
]


def make_container(server: str, name: str) -> None:
    # Signed as "Authorize with Shared Key" says; obstore makes no containers.
    date = formatdate(usegmt=True)
    signed = "\n".join(
        (
            *("PUT", "", "", "", "", "", "", "", "", "", "", ""),
            f"x-ms-date:{date}",
            f"x-ms-version:{_VERSION}",
            f"/{_ACCOUNT}/{_ACCOUNT}/{name}",
            "restype:container",
        )
    )
    key = hmac.new(base64.b64decode(_KEY), signed.encode(), hashlib.sha256).digest()
    signature = base64.b64encode(key).decode()
    request = urllib.request.Request(
        f"{server}/{_ACCOUNT}/{name}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": _VERSION,
            "Authorization": f"SharedKey {_ACCOUNT}:{signature}",
        },
    )
    with urllib.request.urlopen(request, timeout=_WAIT_S) as answer:
        assert answer.status == 201


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("azurite")
    log = folder / "log"
    assert _SERVER
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(_SERVER, "--blobHost", "127.0.0.1", "--blobPort", str(port)),
                *("--location", str(folder), "--silent", "--skipApiVersionCheck"),
            ],
            stdout=output,
            stderr=output,
        )
    try:
        until = time.monotonic() + _WAIT_S
        while not listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(_WAIT_S)


class TestAzureObjects(ObjectStoreSuite):
    large = 40

    @pytest.fixture
    async def store(self, server: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
        container = f"c{token_hex(4)}"
        make_container(server, container)
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", server)
        return await open_object_store(f"az://{container}/some/prefix?use_emulator=true")

    async def test_presign(self, store: ObjectStore) -> None:
        # obstore signs for an account that is a host name, and Azurite's is part of the path.
        assert "sig=" in await store.presign("a/b c")
