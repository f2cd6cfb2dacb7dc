"""Discovery of the engine ``kubernetes:``: who is ready, as Kubernetes' EndpointSlices say it.

``kubernetes:[namespace][?selector=…&component-label=…&kubeconfig=…&context=…]``. A Service whose
label ``protoplane.dev/component`` is ``forge.captioner`` runs ``forge/captioner``, each ready pod
of it is an instance, and its ports ``link``, ``grpc`` and ``http`` are the endpoints.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import aclosing
from typing import Self

from pydantic import ValidationError

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Instance
from protoplane_runtime.engines.kubernetes.settings import KubernetesSettings
from protoplane_runtime.engines.kubernetes.slice_api import ExpiredError, SliceApi, key_of
from protoplane_runtime.engines.kubernetes.slices import EndpointSlice, Event, instances
from protoplane_runtime.engines.memory_discovery import MemoryDiscovery

_log = logging.getLogger("protoplane.discovery")

_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 30.0


class KubernetesDiscovery(MemoryDiscovery):
    """A `Discovery` over EndpointSlices; get one from `open`.

    A pod is there for others by its Service, and by nothing else: what is registered here is seen
    in this process alone, and nothing is written to Kubernetes.
    """

    def __init__(self, api: SliceApi) -> None:
        super().__init__()
        self._api = api
        self._slices: dict[str, EndpointSlice] = {}
        self._version = ""
        self._away: PlaneError | None = None
        self._following: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, text: str) -> Self:
        """List who is there, and follow who comes and goes.

        Args:
            text: What follows ``kubernetes:`` in the URL.

        Raises:
            PlaneError: INVALID_ARGUMENT for what cannot be asked for, FAILED_PRECONDITION where no
                cluster is configured, PERMISSION_DENIED or UNAUTHENTICATED where it may not be
                asked, UNAVAILABLE where it cannot be reached. Cancelling it leaves nothing open.
        """
        api = await SliceApi.open(KubernetesSettings.parse(text))
        self = cls(api)
        try:
            await self._list()
        except BaseException:
            await api.close()
            raise
        self._following = asyncio.create_task(self._follow())
        return self

    async def instances(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> Sequence[Instance]:
        """Who is ready now; see `Discovery.instances`."""
        found = await super().instances(path, namespace=namespace)
        if self._away is not None:
            raise PlaneError(self._away.code, self._away.message)
        return found

    async def close(self) -> None:
        """End all watches, and follow Kubernetes no more."""
        await super().close()
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.wait([following])
            await self._api.close()

    async def _follow(self) -> None:
        delay_s = _FIRST_RETRY_S
        while True:
            try:
                if not self._version:
                    await self._list()
                async with aclosing(self._api.watch(self._version)) as events:
                    async for event in events:
                        delay_s = _FIRST_RETRY_S
                        self._happened(event)
                self._away = None
                # A watch that ends at once is not to be asked for without a pause.
                pause_s = _FIRST_RETRY_S
            except ExpiredError:
                self._version = ""
                pause_s = _FIRST_RETRY_S
            except PlaneError as error:
                _log.warning("%s; trying again in %.1f s", error.message, delay_s)
                self._away = error
                self._version = ""
                pause_s, delay_s = delay_s, min(delay_s * 2, _LAST_RETRY_S)
            # All clients of a cluster would ask at once when its API comes back.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311

    async def _list(self) -> None:
        self._slices, self._version = await self._api.list()
        self._away = None
        self._show(instances(self._slices.values(), self._api.settings))

    def _happened(self, event: Event) -> None:
        try:
            changed = EndpointSlice.model_validate(event.object)
        except ValidationError as error:
            raise PlaneError(
                Code.UNAVAILABLE, f"kubernetes: what came is no EndpointSlice: {error.title}"
            ) from error
        self._version = changed.metadata.resource_version or self._version
        if event.type in ("ADDED", "MODIFIED"):
            self._slices[key_of(changed)] = changed
        elif event.type == "DELETED":
            self._slices.pop(key_of(changed), None)
        else:
            # A bookmark says how far one has come.
            return
        self._show(instances(self._slices.values(), self._api.settings))
