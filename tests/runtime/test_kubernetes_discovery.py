"""The Kubernetes engine's discovery, against an API that plays recordings."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.certificates import make_certificates, needs_openssl
from tests.runtime.discovery_suite import DiscoverySuite, Watch
from tests.runtime.kubernetes_api import (
    WAIT_S,
    KubernetesApi,
    kubeconfig,
    kubernetes_api,
    recorded,
)

from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_runtime.engines.discovery import Changed, Discovery, Instance
from protoplane_runtime.engines.kubernetes.discovery import KubernetesDiscovery
from protoplane_runtime.engines.opening import open_discovery, open_engine, shares_events
from protoplane_runtime.tls import ServerTls

pytestmark = pytest.mark.anyio

ONE = "forge/captioner/captioner-6d9f7c5b8-4xq2z"
TWO = "forge/captioner/captioner-6d9f7c5b8-p8wvn"
ROUTER = "forge/router/router-0"
STORE = "forge/store.v2/postgres-0"


def version_of(said: Any) -> str:
    """The resource version of a list or an object."""
    version: str = said["metadata"]["resourceVersion"]
    return version


@pytest.fixture(autouse=True)
def no_cluster_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.fixture
async def api() -> AsyncIterator[KubernetesApi]:
    async with kubernetes_api() as running:
        yield running


@pytest.fixture
def url(api: KubernetesApi, tmp_path: Path) -> str:
    return f"kubernetes:?kubeconfig={kubeconfig(tmp_path, api.url)}"


@pytest.fixture
async def discovery(url: str) -> AsyncIterator[Discovery]:
    opened = await open_discovery(url)
    yield opened
    await opened.close()


class TestKubernetesDiscovery(DiscoverySuite):
    """What is registered is seen in its own process."""

    @pytest.fixture
    async def open(self, api: KubernetesApi, url: str) -> Callable[[], Discovery]:
        api.lists[0] = "list_empty"
        discovery = await KubernetesDiscovery.open(url.partition(":")[2])
        # The suite looks at tasks, and the API has one for the watch.
        await api.watched(1)
        return lambda: discovery


async def test_what_the_slices_say(
    discovery: Discovery, api: KubernetesApi, caplog: pytest.LogCaptureFixture
) -> None:
    found = {each.name: each for each in await discovery.instances()}
    assert set(found) == {ONE, ROUTER, STORE}
    assert found[ONE].component == "forge/captioner"
    # The best first; the pod is in the slices of two families.
    assert found[ONE].endpoints == (
        "link+tcp://10.244.1.17:50052",
        "grpc://10.244.1.17:50051",
        "grpc://[fd00:10:244:1::11]:50051",
        "http://10.244.1.17:8080",
        "http://[fd00:10:244:1::11]:8080",
    )
    assert found[ONE].host == "node-a"
    assert found[ONE].metadata["pod"] == "captioner-6d9f7c5b8-4xq2z"
    assert found[ONE].metadata["zone"] == "eu-west-1a"
    path, query = api.asked[0]
    assert path == "/apis/discovery.k8s.io/v1/namespaces/forge/endpointslices"
    assert query["labelSelector"] == "protoplane.dev/component"


async def test_pods_come_and_go(discovery: Discovery, api: KubernetesApi) -> None:
    async with aclosing(discovery.watch("forge")) as changes:
        watch = Watch(changes)
        await watch.names(ONE, ROUTER, STORE)
        await api.watched(1)
        assert api.watches[0]["resourceVersion"] == version_of(recorded("list"))
        await api.say("watch_scale_up")
        await watch.names(ONE, TWO, ROUTER, STORE)
        await api.say("watch_scale_down")
        # One that ends takes calls no more, though the other family still has it.
        await watch.until(lambda there: ROUTER not in there and len(there[ONE].endpoints) == 2)
        await api.say("watch_added")
        await watch.names(ONE, TWO, STORE, "forge/router/router-1")
    assert api.asked[0][1].keys() & {"watch"} == set()


async def test_a_watch_that_ends_goes_on_where_it_was(
    discovery: Discovery, api: KubernetesApi
) -> None:
    async with aclosing(discovery.watch("forge/captioner")) as changes:
        watch = Watch(changes)
        await api.watched(1)
        await api.say("watch_scale_up")
        await watch.names(ONE, TWO)
        api.end_watch()
        await api.watched(2)
        # It was the last to say a version.
        bookmark = recorded("watch_scale_up")[-1]
        assert bookmark["type"] == "BOOKMARK"
        assert api.watches[1]["resourceVersion"] == version_of(bookmark["object"])
        assert len(api.asked) == 3
        await api.say("watch_scale_down")
        await watch.until(lambda there: len(there[ONE].endpoints) == 2)
        assert len(await discovery.instances("forge/captioner")) == 2


@pytest.mark.parametrize("how", ["event", "status"])
async def test_what_is_kept_no_more_is_listed_again(
    discovery: Discovery, api: KubernetesApi, how: str
) -> None:
    async with aclosing(discovery.watch("forge")) as changes:
        watch = Watch(changes)
        await watch.names(ONE, ROUTER, STORE)
        await api.watched(1)
        api.lists[0] = "list_later"
        if how == "event":
            await api.say("watch_expired")
        else:
            api.refusals.append("gone")
            api.end_watch()
        await watch.names(TWO)
        await api.watched(2)
        assert api.watches[-1]["resourceVersion"] == version_of(recorded("list_later"))
        assert not any(isinstance(change, Changed) for change in watch.told)


async def test_a_dropped_watch(
    discovery: Discovery, api: KubernetesApi, caplog: pytest.LogCaptureFixture
) -> None:
    async with aclosing(discovery.watch("forge")) as changes:
        watch = Watch(changes)
        await watch.names(ONE, ROUTER, STORE)
        await api.watched(1)
        api.lists[0] = "list_later"
        api.refusals.append("unavailable")
        with caplog.at_level(logging.WARNING):
            api.cut_watch()
            await watch.names(TWO)
        await api.watched(2)
    assert "apiserver is shutting down" in caplog.text
    assert [each.name for each in await discovery.instances()] == [TWO]


async def test_while_it_is_away(discovery: Discovery, api: KubernetesApi) -> None:
    await api.watched(1)
    api.refusals.extend(["unavailable"] * 3)
    api.cut_watch()
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await discovery.instances()
            except PlaneError as error:
                assert error.code is Code.UNAVAILABLE  # noqa: PT017
                break
            await asyncio.sleep(0)
        while True:
            with suppress(PlaneError):
                assert len(await discovery.instances()) == 3
                break
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "data", [b"nonsense\n", b'{"type": "ADDED"}\n', b'{"type":"ADDED","object":{}}\n']
)
async def test_nonsense_is_listed_again(
    discovery: Discovery, api: KubernetesApi, data: bytes
) -> None:
    async with aclosing(discovery.watch("forge")) as changes:
        watch = Watch(changes)
        await watch.names(ONE, ROUTER, STORE)
        await api.watched(1)
        api.lists[0] = "list_later"
        await api.say_bytes(data)
        await watch.names(TWO)


async def test_events_in_pieces(discovery: Discovery, api: KubernetesApi) -> None:
    event = (Path(__file__).parent / "kubernetes_recording/watch_added.json").read_bytes()
    line = event.strip().removeprefix(b"[").removesuffix(b"]").replace(b"\n", b" ") + b"\n"
    async with aclosing(discovery.watch("forge/router")) as changes:
        watch = Watch(changes)
        await watch.names(ROUTER)
        await api.watched(1)
        # More than the 64 KiB of a line that aiohttp reads at once.
        await api.say_bytes(b" " * 300_000)
        for start in range(0, len(line), 97):
            await api.say_bytes(line[start : start + 97])
            await asyncio.sleep(0)
        await watch.names(ROUTER, "forge/router/router-1")


async def test_pages(api: KubernetesApi, url: str) -> None:
    api.lists.extendleft(["list_page_2", "list_page_1"])
    discovery = await open_discovery(url)
    assert {each.name for each in await discovery.instances()} == {ONE, ROUTER, STORE}
    assert api.asked[1][1]["continue"] == recorded("list_page_1")["metadata"]["continue"]
    await discovery.close()


async def test_all_namespaces(api: KubernetesApi, url: str) -> None:
    discovery = await open_discovery(url.replace(":?", ":*?") + "&selector=app%3Dcaptioner")
    assert list(await discovery.instances()) == []
    assert len(await discovery.instances(namespace="forge")) == 3
    path, query = api.asked[0]
    assert path == "/apis/discovery.k8s.io/v1/endpointslices"
    assert query["labelSelector"] == "app=captioner"
    await discovery.close()


async def test_without_a_label_it_is_the_service(api: KubernetesApi, url: str) -> None:
    discovery = await open_discovery(f"{url}&component-label=team&selector=app")
    names = {each.name for each in await discovery.instances("captioner")}
    assert names == {"captioner/captioner-6d9f7c5b8-4xq2z"}
    await discovery.close()


async def test_what_it_may_not_ask(api: KubernetesApi, url: str) -> None:
    api.refusals.append("forbidden")
    with pytest.raises(PlaneError, match="service account") as caught:
        await open_discovery(url)
    assert caught.value.code is Code.PERMISSION_DENIED
    assert "s3cret" not in str(caught.value)


async def test_nobody_there(tmp_path: Path) -> None:
    async with kubernetes_api() as api:
        url = f"kubernetes:?kubeconfig={kubeconfig(tmp_path, api.url)}"
    with pytest.raises(PlaneError, match="kubernetes") as caught:
        await open_discovery(url)
    assert caught.value.code is Code.UNAVAILABLE


@needs_openssl
async def test_in_a_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    token, namespace = tmp_path / "token", tmp_path / "namespace"
    token.write_text("s3cret")
    namespace.write_text("forge")
    inside = "kubernetes_asyncio.config.incluster_config"
    monkeypatch.setattr(f"{inside}.SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(f"{inside}.SERVICE_CERT_FILENAME", str(certificates / "ca.pem"))
    monkeypatch.setattr("protoplane_runtime.engines.kubernetes.slice_api._OWN_NAMESPACE", namespace)
    tls = ServerTls(certificate=certificates / "server.pem", key=certificates / "server.key")
    async with kubernetes_api(tls.ssl_context()) as api:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", api.url.rpartition(":")[2])
        discovery = await open_discovery("kubernetes:")
        assert len(await discovery.instances()) == 3
        await discovery.close()
    assert "/namespaces/forge/" in api.asked[0][0]
    assert api.tokens[0] == "Bearer s3cret"


async def test_in_a_pod_without_a_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    with pytest.raises(PlaneError, match="token file") as caught:
        await open_discovery("kubernetes:")
    assert caught.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("said", [None, "no: [yaml", "{}"])
async def test_no_cluster(said: str | None, tmp_path: Path) -> None:
    file = tmp_path / "config"
    if said is not None:
        file.write_text(said)
    with pytest.raises(PlaneError, match="KUBECONFIG") as caught:
        await open_discovery(f"kubernetes:?kubeconfig={file}")
    assert caught.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize(
    "url", ["kubernetes:A", "kubernetes:a/b", "kubernetes:?x=y", "kubernetes://a"]
)
async def test_bad_urls(url: str) -> None:
    with pytest.raises(PlaneError, match=r"kubernetes:\[namespace\]") as caught:
        await open_discovery(url)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    package = "protoplane_runtime.engines.kubernetes."
    for module in ("discovery", "slice_api"):
        monkeypatch.delitem(sys.modules, package + module, raising=False)
    for module in [name for name in sys.modules if name.startswith("kubernetes_asyncio")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio", None)
    with pytest.raises(MissingExtraError, match=r"protoplane\[kubernetes\]"):
        await open_discovery("kubernetes:")


async def test_the_engine(url: str, api: KubernetesApi) -> None:
    engine = await open_engine(url)
    assert not shares_events(url)
    async with engine.discovery.register(Instance("forge/captioner/mine")):
        assert len(await engine.discovery.instances("forge/captioner")) == 2
    assert [each.name for each in await engine.discovery.instances("forge/captioner")] == [ONE]
    await engine.close()
    await engine.close()
