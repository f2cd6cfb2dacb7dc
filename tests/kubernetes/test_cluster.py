"""The Kubernetes engine's discovery against a real API: ``make kubernetes``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.kubernetes.cluster import PROGRAMS, SLICES, STRANGER, Cluster, cluster, etcd
from tests.kubernetes.record import ENDING, NEXT_ROUTER, ONE, STARTING, TWO, captioner, first
from tests.kubernetes.slices import endpoint_slice
from tests.runtime.discovery_suite import Watch

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery
from protoplane_runtime.engines.opening import open_discovery

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not (PROGRAMS / "kube-apiserver").exists(),
        reason="there is no kube-apiserver here; make kubernetes builds one and runs these tests",
    ),
]

CAPTIONER, OTHER = (f"forge/captioner/captioner-6d9f7c5b8-{each}" for each in ("4xq2z", "p8wvn"))
ROUTER, NEXT = "forge/router/router-0", "forge/router/router-1"
STORE = "forge/store.v2/postgres-0"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def database(tmp_path: Path) -> Generator[str]:
    with etcd(tmp_path) as url:
        yield url


@pytest.fixture
def api(tmp_path: Path, database: str) -> Generator[Cluster]:
    with cluster(tmp_path, database) as running:
        for each in first():
            running.do("POST", SLICES, each)
        yield running


@pytest.fixture
def opened(api: Cluster, tmp_path: Path) -> Callable[[str], str]:
    def url(more: str) -> str:
        return f"kubernetes:?kubeconfig={api.kubeconfig(tmp_path)}{more}"

    return url


@pytest.fixture
async def discovery(opened: Callable[[str], str]) -> AsyncIterator[Discovery]:
    found = await open_discovery(opened(""))
    yield found
    await found.close()


async def test_pods_come_and_go(discovery: Discovery, api: Cluster) -> None:
    async with aclosing(discovery.watch("forge")) as changes:
        watch = Watch(changes)
        # The label is what it asks for, so the one that has an annotation only is not among them.
        await watch.names(CAPTIONER, ROUTER)
        api.do("PUT", f"{SLICES}/captioner-x7k2p", captioner(ONE, STARTING, TWO))
        await watch.names(CAPTIONER, OTHER, ROUTER)
        api.do("PUT", f"{SLICES}/captioner-x7k2p", captioner(ENDING, TWO))
        api.do("DELETE", f"{SLICES}/router-9fd2m")
        await watch.until(
            lambda there: ROUTER not in there and len(there[CAPTIONER].endpoints) == 2
        )
        api.do("POST", SLICES, endpoint_slice("router-new11", "forge.router", [NEXT_ROUTER]))
        await watch.names(CAPTIONER, OTHER, NEXT)


async def test_the_annotation_names_it(opened: Callable[[str], str]) -> None:
    discovery = await open_discovery(opened("&selector=app%3Dpostgres"))
    assert [each.name for each in await discovery.instances()] == [STORE]
    await discovery.close()


async def test_a_stranger_may_not_ask(api: Cluster, tmp_path: Path) -> None:
    url = f"kubernetes:?kubeconfig={api.kubeconfig(tmp_path, STRANGER)}"
    with pytest.raises(PlaneError, match="forbidden") as caught:
        await open_discovery(url)
    assert caught.value.code is Code.PERMISSION_DENIED
    assert STRANGER not in str(caught.value)
