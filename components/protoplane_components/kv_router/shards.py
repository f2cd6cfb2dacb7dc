"""The shards of an index as a router sees them: it asks the one that has a prompt's first block.

A shard that is away or slow answers nothing, and then the router chooses without an index. It is
left alone for a moment, so that not every request waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Self

from protoplane.router.v1 import (
    FindRequest,
    FollowRequest,
    ForgetRequest,
    KvShardClient,
    KvShardService,
    Worker,
)
from protoplane_base import PlaneError
from protoplane_client import Plane, connect
from protoplane_components.kv_router.hashing import Hashes, as_numbers
from protoplane_components.kv_router.index import Overlap, Target
from protoplane_components.kv_router.parts import part_of_prompt
from protoplane_components.kv_router.shard import SHARDS, shard_path
from protoplane_runtime.engines.discovery import Discovery, Instance, Left

_log = logging.getLogger("protoplane.router")

_SERVICE = KvShardService.spec.full_name
_TELL_S = 10.0


class Shards:
    """Asks shards, and tells them of workers that were registered here.

    Args:
        discovery: Where shards are found.
        namespace: Where in it.
        count: How many shards there are.
        registered: Gives the workers that did not come by discovery.
        timeout_s: Longest that an answer may take, in seconds.
        away_s: How long a shard that did not answer is left alone, in seconds.
        clock: Seconds, from any beginning.

    Attributes:
        unanswered: How many prompts no shard told of.
    """

    def __init__(
        self,
        discovery: Discovery,
        namespace: str,
        count: int,
        *,
        registered: Callable[[], Sequence[Worker]],
        timeout_s: float = 0.5,
        away_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._discovery = discovery
        self._namespace = namespace
        self.count = count
        self._registered = registered
        self._timeout_s = timeout_s
        self._away_s = away_s
        self._clock = clock
        self._stack = AsyncExitStack()
        self._clients: list[KvShardClient] = []
        self._instances: dict[str, Instance] = {}
        # When those that did not answer are asked again.
        self._back_at: dict[int, float] = {}
        self.unanswered = 0

    async def __aenter__(self) -> Self:
        for number in range(1, self.count + 1):
            plane = await self._stack.enter_async_context(
                self._connect(shard_path(number, self.count))
            )
            self._clients.append(KvShardClient(plane))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        self._clients.clear()

    @property
    def away(self) -> Sequence[int]:
        """Numbers of the shards that did not answer lately, from 1."""
        now = self._clock()
        return [part + 1 for part, back_at in self._back_at.items() if back_at > now]

    async def find(self, hashes: Hashes) -> Mapping[Target, Overlap] | None:
        """How much of a prompt each target has, of those that have its first block.

        Args:
            hashes: Hashes of the prompt's full blocks.

        Returns:
            ``None`` where the shard that knows cannot tell.
        """
        if not len(hashes):
            return {}
        part = part_of_prompt(hashes, self.count)
        back_at = self._back_at.get(part)
        if back_at is not None:
            if back_at > self._clock():
                self.unanswered += 1
                return None
            # One request finds out whether it is back; others do not wait for that.
            self._back_at[part] = self._clock() + self._timeout_s
        try:
            request = FindRequest(hashes=[*as_numbers(hashes)])
            answer = await self._clients[part].find(request, timeout_s=self._timeout_s)
        except PlaneError as error:
            if back_at is None:
                _log.warning(
                    "shard %d of %d does not answer, so requests of its part go by load alone: %s",
                    *(part + 1, self.count, error.message),
                )
            self._back_at[part] = self._clock() + self._away_s
            self.unanswered += 1
            return None
        if self._back_at.pop(part, None) is not None:
            _log.info("shard %d of %d is back", part + 1, self.count)
        return {
            Target(each.worker_id, each.dp_rank): Overlap(
                each.device_blocks, each.host_blocks, each.disk_blocks
            )
            for each in answer.overlaps
        }

    async def watch(self) -> None:
        """Tell shards that come which workers were registered, until it is cancelled.

        Raises:
            PlaneError: Discovery is closed.
        """
        self._instances.clear()
        async with aclosing(self._discovery.watch(SHARDS, namespace=self._namespace)) as changes:
            async for batch in changes:
                for change in batch:
                    instance = change.instance
                    if _SERVICE not in instance.services:
                        continue
                    if isinstance(change, Left):
                        self._instances.pop(instance.name, None)
                    else:
                        new = instance.name not in self._instances
                        self._instances[instance.name] = instance
                        if new and (workers := self._registered()):
                            await self._tell(instance.name, FollowRequest(workers=[*workers]))

    async def follow(self, worker: Worker) -> None:
        """Have all shards follow a worker that was registered."""
        await self._tell_all(FollowRequest(workers=[worker]))

    async def forget(self, worker_id: str) -> None:
        """Have all shards forget a worker that was registered."""
        await self._tell_all(ForgetRequest(worker_id=worker_id))

    async def _tell_all(self, message: FollowRequest | ForgetRequest) -> None:
        async with asyncio.TaskGroup() as group:
            for name in self._instances:
                group.create_task(self._tell(name, message))

    async def _tell(self, name: str, message: FollowRequest | ForgetRequest) -> None:
        try:
            async with self._connect(name) as plane:
                client = KvShardClient(plane)
                if isinstance(message, FollowRequest):
                    await client.follow(message, timeout_s=_TELL_S)
                else:
                    await client.forget(message, timeout_s=_TELL_S)
        except PlaneError as error:
            # One that starts again is told anew.
            _log.warning("%s does not know of a change to the workers: %s", name, error.message)

    def _connect(self, path: str) -> Plane:
        return connect(path, engine=self._discovery, namespace=self._namespace)
