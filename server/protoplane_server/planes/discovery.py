"""Discovery as a service."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from protoplane.v1 import (
    Discovery,
    DiscoveryWatchRequest,
    DiscoveryWatchResponse,
    Instance,
    InstanceChange,
    InstanceChangeKind,
    InstancesRequest,
    InstancesResponse,
)
from protoplane_base import Context, Timestamp
from protoplane_runtime.engines.discovery import Changed, Joined, Left
from protoplane_runtime.engines.discovery import Discovery as Discoverer
from protoplane_runtime.engines.discovery import Instance as Found
from protoplane_server.planes.ground import Ground
from protoplane_server.planes.paging import MAX_PAGE, behind, page_size, page_token, parts

EVERYWHERE = "*"
"""What a caller names who looks in all namespaces."""

_KINDS = {
    Joined: InstanceChangeKind.INSTANCE_CHANGE_KIND_JOINED,
    Changed: InstanceChangeKind.INSTANCE_CHANGE_KIND_CHANGED,
    Left: InstanceChangeKind.INSTANCE_CHANGE_KIND_LEFT,
}


class DiscoveryPlane(Discovery):
    """Gives callers of any language the discovery of an engine."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def instances(self, request: InstancesRequest, ctx: Context) -> InstancesResponse:
        """A page of those who are there."""
        after = behind(request.page_token)
        most = page_size(request.page_size)
        found = await self._ground.floor.engine.discovery.instances(
            request.path or None, namespace=self._namespace(request.namespace)
        )
        left = sorted((each for each in found if _place(each) > after), key=_place)
        page = left[:most]
        return InstancesResponse(
            instances=[_instance(each) for each in page],
            next_page_token=page_token(_place(page[-1])) if len(page) < len(left) else "",
        )

    async def watch(
        self, request: DiscoveryWatchRequest, ctx: Context
    ) -> AsyncIterator[DiscoveryWatchResponse]:
        """Follow who comes, changes and goes."""
        ground = self._ground
        answers = follow(
            ground.floor.engine.discovery,
            request.path or None,
            self._namespace(request.namespace),
            ground.max_bytes,
        )
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    def _namespace(self, asked: str) -> str | None:
        return None if asked == EVERYWHERE else asked or self._ground.namespace


async def follow(
    discovery: Discoverer, path: str | None, namespace: str | None, max_bytes: int
) -> AsyncGenerator[DiscoveryWatchResponse]:
    """Follow who comes, changes and goes, in answers of about ``max_bytes`` at most.

    Leaving it, or cancelling who waits on it, ends the watch.
    """
    async with aclosing(discovery.watch(path, namespace=namespace)) as batches:
        async for batch in batches:
            changes = [
                InstanceChange(kind=_KINDS[type(each)], instance=_instance(each.instance))
                for each in batch
            ]
            pages = [*parts(changes, _size, max_bytes, MAX_PAGE)] or [[]]
            for number, page in enumerate(pages, 1):
                yield DiscoveryWatchResponse(changes=page, more=number < len(pages))


def _place(instance: Found) -> str:
    """Where an instance is in the list; as text, the oldest is the first."""
    return f"{instance.started_s:017.6f} {instance.namespace} {instance.name}"


def _size(change: InstanceChange) -> int:
    # Nothing in it is large but for what its owner says of it.
    instance = change.instance
    return 1000 + len(json.dumps(instance.metadata)) if instance is not None else 0


def _instance(instance: Found) -> Instance:
    return Instance(
        name=instance.name,
        entity_id=bytes(instance.id),
        component=instance.component,
        endpoints=[*instance.endpoints],
        services=[*instance.services],
        protocols=[*instance.protocols],
        metadata=dict(instance.metadata),
        load=instance.load,
        namespace=instance.namespace,
        started_at=Timestamp(*divmod(round(instance.started_s * 1e9), 1_000_000_000)),
        host=instance.host,
        pid=instance.pid,
        log=instance.log,
    )
