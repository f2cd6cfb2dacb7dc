"""The few requests that discovery makes of Kubernetes' API: list and watch EndpointSlices.

The library finds the cluster and keeps the credentials fresh; its models and its watch are left
out, as they hold whole lines of at most 64 KiB and a slice can be longer.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_runtime.engines.kubernetes.settings import ALL_NAMESPACES, KubernetesSettings
from protoplane_runtime.engines.kubernetes.slices import EndpointSlice, Event, SliceList, Status

try:
    import aiohttp
    import yaml
    from kubernetes_asyncio import client, config
    from kubernetes_asyncio.client.api.discovery_v1_api import DiscoveryV1Api
except ModuleNotFoundError as error:
    raise MissingExtraError("kubernetes", "discovery by Kubernetes") from error

_log = logging.getLogger("protoplane.discovery")

WATCH_S = 60
"""Seconds after which a watch is asked for anew, so that one that is dead is noticed."""

_REQUEST_TIMEOUT_S = 20.0
_CONNECT_TIMEOUT_S = 10.0
_MAX_LINE_BYTES = 16 * 1024 * 1024
_REFRESH_S = 60
_PAGE = 500
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError)
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class ExpiredError(Exception):
    """Kubernetes keeps nothing so old any more (410 Gone): list again."""


class SliceApi:
    """Lists and watches the slices that some settings mean; get one from `open`.

    Args:
        api: The library's client.
        settings: What is asked for; its namespace is known.
        fresh: Keeps the credentials fresh.
    """

    def __init__(
        self, api: Any, settings: KubernetesSettings, fresh: asyncio.Task[None] | None
    ) -> None:
        self.settings = settings
        self._client = api
        self._api: Any = DiscoveryV1Api(api)
        self._fresh = fresh

    @classmethod
    async def open(cls, settings: KubernetesSettings) -> Self:
        """Find the cluster: that of this pod, unless a kubeconfig is named; else the usual one.

        Raises:
            PlaneError: FAILED_PRECONDITION where there is none, or its configuration is no good.
        """
        made: Any = client.Configuration()
        # It has hardly any annotations.
        library: Any = config
        fresh: asyncio.Task[None] | None = None
        namespace = ""
        try:
            if not settings.kubeconfig and "KUBERNETES_SERVICE_HOST" in os.environ:
                library.load_incluster_config(client_configuration=made)
                namespace = await asyncio.to_thread(_own_namespace)
            else:
                loader = await library.load_kube_config(
                    config_file=settings.kubeconfig or None,
                    context=settings.context or None,
                    client_configuration=made,
                )
                fresh = asyncio.create_task(_keep_fresh(loader, made))
                namespace = loader.current_context["context"].get("namespace", "")
        except (
            config.ConfigException,
            yaml.YAMLError,
            OSError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"kubernetes: no cluster is configured: {error}; run in a pod, or name a file by "
                "?kubeconfig= or $KUBECONFIG",
            ) from error
        known = KubernetesSettings(
            settings.namespace or namespace or "default", settings.selector, settings.label
        )
        return cls(client.ApiClient(configuration=made), known, fresh)

    async def list(self) -> tuple[dict[str, EndpointSlice], str]:
        """All slices by namespace and name, and the version that a watch goes on from.

        Raises:
            PlaneError: UNAVAILABLE where the API cannot be reached, else what it says.
            ExpiredError: The list changed too much between its pages.
        """
        found: dict[str, EndpointSlice] = {}
        more: dict[str, str] = {}
        while True:
            timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
            async with self._asked(timeout, limit=_PAGE, **more) as response:
                page = _page(await response.read())
            found.update((key_of(each), each) for each in page.items)
            if not page.metadata.continue_:
                return found, page.metadata.resource_version
            more = {"_continue": page.metadata.continue_}

    async def watch(self, version: str) -> AsyncGenerator[Event, None]:
        """What became of slices since a version; ends now and then, and is then asked for again.

        Raises:
            PlaneError: As `list`.
            ExpiredError: The version is too old.
        """
        timeout = aiohttp.ClientTimeout(
            sock_connect=_CONNECT_TIMEOUT_S, sock_read=WATCH_S + _REQUEST_TIMEOUT_S
        )
        async with self._asked(
            timeout,
            watch=True,
            resource_version=version,
            allow_watch_bookmarks=True,
            timeout_seconds=WATCH_S,
        ) as response:
            async for line in _lines(response.content.iter_any()):
                event = _event(line)
                if event.type == "ERROR":
                    raise _refused(Status.model_validate(event.object))
                yield event

    async def close(self) -> None:
        """Let go of the connections."""
        if self._fresh is not None:
            self._fresh.cancel()
            await asyncio.wait([self._fresh])
        await self._client.close()

    @asynccontextmanager
    async def _asked(self, patience: aiohttp.ClientTimeout, **query: Any) -> AsyncGenerator[Any]:
        query |= {"_preload_content": False, "_request_timeout": patience}
        if self.settings.selector:
            query["label_selector"] = self.settings.selector
        try:
            if self.settings.namespace == ALL_NAMESPACES:
                response: Any = await self._api.list_endpoint_slice_for_all_namespaces(**query)
            else:
                response = await self._api.list_namespaced_endpoint_slice(
                    self.settings.namespace, **query
                )
            try:
                if response.status != 200:
                    raise _refused(_status(response.status, await response.read()))
                yield response
            finally:
                response.close()
        except (aiohttp.ClientError, config.ConfigException, TimeoutError, OSError) as error:
            said = str(error) or type(error).__name__
            raise PlaneError(Code.UNAVAILABLE, f"kubernetes: {said}") from error


def key_of(each: EndpointSlice) -> str:
    """What tells a slice from others."""
    return f"{each.metadata.namespace}/{each.metadata.name}"


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    rest = bytearray()
    async for chunk in chunks:
        begins = len(rest)
        rest += chunk
        while (end := rest.find(b"\n", begins)) >= 0:
            line = bytes(rest[:end])
            del rest[: end + 1]
            begins = 0
            if line.strip():
                yield line
        if len(rest) > _MAX_LINE_BYTES:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"kubernetes: an event of more than {_MAX_LINE_BYTES} bytes came",
            )


def _event(line: bytes) -> Event:
    try:
        return Event.model_validate_json(line)
    except ValidationError as error:
        raise _nonsense(error) from error


def _page(data: bytes) -> SliceList:
    try:
        return SliceList.model_validate_json(data)
    except ValidationError as error:
        raise _nonsense(error) from error


def _nonsense(error: ValidationError) -> PlaneError:
    first = error.errors(include_url=False, include_input=False)[0]
    return PlaneError(
        Code.UNAVAILABLE, f"kubernetes: what came is no list or watch: {first['msg']}"
    )


def _status(code: int, body: bytes) -> Status:
    try:
        said = Status.model_validate_json(body)
    except ValidationError:
        said = Status(message=body[:200].decode("utf-8", "replace"))
    return said.model_copy(update={"code": code})


def _refused(status: Status) -> PlaneError | ExpiredError:
    if status.code == 410:
        return ExpiredError(status.message)
    codes = {401: Code.UNAUTHENTICATED, 403: Code.PERMISSION_DENIED, 400: Code.INVALID_ARGUMENT}
    remedy = "; let the service account list and watch endpointslices" * (status.code == 403)
    return PlaneError(
        codes.get(status.code, Code.UNAVAILABLE),
        f"kubernetes: {status.code} {status.reason} {status.message}".rstrip() + remedy,
    )


async def _keep_fresh(loader: Any, made: Any) -> None:
    library: Any = config
    while True:
        try:
            # It ends at once where nothing needs it.
            await library.refresh_token(loader, made)
        except (config.ConfigException, OSError, *_MALFORMED) as error:
            _log.warning("kubernetes: the credentials stay as they were: %s", error)
            await asyncio.sleep(_REFRESH_S)
        else:
            return


def _own_namespace() -> str:
    try:
        return _OWN_NAMESPACE.read_text().strip()
    except OSError:
        return ""
