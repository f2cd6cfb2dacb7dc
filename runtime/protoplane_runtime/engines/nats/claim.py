"""An instance in the bucket of instances, as its process holds it there."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any, NamedTuple

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.nats.bucket import Bucket, Item
from protoplane_runtime.engines.nats.connection import Connection
from protoplane_runtime.engines.nats.pulse import living
from protoplane_runtime.engines.processes import has_ended, here
from protoplane_runtime.engines.roster import Place, place_of, taken

TTL_S = 30.0
"""Seconds for which the bucket keeps what is not renewed."""

RENEW_S = 10.0
"""Seconds after which it is renewed."""


class Claimed(NamedTuple):
    """What stands in the bucket: an instance, and the process that it lives in.

    Attributes:
        owner: What tells the process from others.
        instance: The instance.
        near_pid: The id of the process, where ids mean here what they mean there; else 0.
    """

    owner: str
    instance: Instance
    near_pid: int

    @property
    def ended(self) -> bool:
        """Whether its process has surely ended."""
        return self.near_pid > 0 and has_ended(self.near_pid)


class Claim:
    """An instance that this process registers.

    Args:
        connection: The way to the server.
        bucket: The bucket of instances.
        subject: Where signs of life go.
        owner: This process.
        instance: What others are told.
    """

    def __init__(
        self, connection: Connection, bucket: Bucket, subject: str, owner: str, instance: Instance
    ) -> None:
        self._connection = connection
        self._bucket = bucket
        self._subject = subject
        self._owner = owner
        self._instance = instance
        self._key = "/".join(place_of(instance))
        self._revision = 0
        self._turn = asyncio.Lock()

    async def take(self) -> None:
        """Put the instance there.

        Raises:
            PlaneError: ALREADY_EXISTS where one of that name lives, UNAVAILABLE.
        """
        async with self._turn:
            while not await self._put(await self._bucket.last(self._key)):
                pass

    async def tell(self, instance: Instance) -> None:
        """Say something new.

        Raises:
            PlaneError: As `take`.
        """
        async with self._turn:
            before, self._instance = self._instance, instance
            try:
                await self._tell()
            except BaseException:
                self._instance = before
                raise

    async def renew(self) -> None:
        """Say the same again; put it there where it is no more.

        Raises:
            PlaneError: As `take`.
        """
        async with self._turn:
            await self._tell()

    async def release(self) -> None:
        """Take it away, where it is there.

        Raises:
            PlaneError: UNAVAILABLE.
        """
        async with self._turn:
            while True:
                item = await self._bucket.last(self._key)
                found = None if item is None else read(item)
                if item is None or found is None or found.owner != self._owner:
                    return
                try:
                    await self._bucket.delete(self._key, expected=item.revision)
                except PlaneError as error:
                    if error.code is not Code.ABORTED:
                        raise
                else:
                    return

    async def _tell(self) -> None:
        try:
            self._revision = await self._write(self._revision)
        except PlaneError as error:
            if error.code is not Code.ABORTED:
                raise
            while not await self._put(await self._bucket.last(self._key)):
                pass

    async def _put(self, item: Item | None) -> bool:
        """Put it in place of what is there; whether that was still there."""
        found = None if item is None else read(item)
        if (
            found is not None
            and found.owner != self._owner
            and not found.ended
            and await living(self._connection, self._subject, (found.owner,))
        ):
            raise taken(self._instance)
        try:
            self._revision = await self._write(0 if item is None else item.revision)
        except PlaneError as error:
            if error.code is not Code.ABORTED:
                raise
            return False
        return True

    async def _write(self, expected: int) -> int:
        process = json.dumps({"owner": self._owner, "here": here(), "pid": os.getpid()})
        value = b'%s,"instance":%s}' % (process[:-1].encode(), self._instance.to_json())
        return await self._bucket.put(self._key, value, expected=expected, ttl_s=TTL_S)


def read(item: Item) -> Claimed | None:
    """What stands there; ``None`` where it was taken away, or somebody else wrote it."""
    if item.deleted:
        return None
    try:
        found: Any = json.loads(item.value)
        near = bool(here()) and found["here"] == here()
        instance = Instance.from_data(found["instance"])
        return Claimed(str(found["owner"]), instance, int(found["pid"]) if near else 0)
    except (ValueError, KeyError, TypeError, PlaneError):
        return None


def place_at(key: str) -> Place:
    """The place of an instance that has a key."""
    namespace, _, name = key.partition("/")
    return namespace, name
