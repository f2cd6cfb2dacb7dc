"""What stands behind the object plane: the contract that every store keeps.

An object is bytes of any size under a key, a path such as ``forge/models/small``. It is there as a
whole or not at all: a reader never sees half of one, whatever becomes of its writer.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from protoplane_runtime.engines.objects.body import ObjectBody

ObjectSource = bytes | AsyncIterable[bytes]
"""What an object is made of: all of it, or pieces of any size as they come."""

PresignedMethod = Literal["GET", "PUT"]
"""What a presigned URL allows."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of an object.

    Attributes:
        key: Key that it is filed under.
        size: Its bytes.
        digest: BLAKE2b-256 of them (RFC 7693), in hex, as ``b2sum --length 256`` prints it;
            ``None`` where the store was filled by another program.
        etag: Changes whenever the object is written; opaque.
        modified_s: When it was written, in seconds since 1970. After `ObjectStore.put` it is by the
            clock of this machine, later by that of the store.
        metadata: What its writer said of it.
    """

    key: str
    size: int
    digest: str | None
    etag: str
    modified_s: float
    metadata: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)


class ObjectStore(Protocol):
    """Keeps objects.

    All of it is safe from any number of tasks; a store in a folder or a cloud also from any number
    of processes. Nothing locks a key: of two writers the last to finish wins, whole. A read that
    has begun goes on with the object as it was, or fails; it never mixes two.

    Memory is bounded whatever the size: a few MB for each read or write, and up to 64 MiB for a
    write to a cloud.

    While a store in a cloud is away, calls are tried again, half a minute at most, then raise
    UNAVAILABLE; a read in its middle is resumed with ``start`` and ``etag``. A write cannot be
    resumed, it begins again.
    """

    async def put(
        self,
        key: str,
        source: ObjectSource,
        *,
        metadata: Mapping[str, str] | None = None,
        digest: str | None = None,
    ) -> ObjectInfo:
        """Write an object, over the one that is there.

        Returns only once it is kept: in memory for ``memory:``, on the disk (fsync) for a folder,
        wherever the cloud promises for a cloud. Until then readers see what was there before.

        Failing leaves what was there before, also when ``source`` raises (its error is passed on)
        or the process is killed. So does cancelling, or, when it comes at the very end, the object
        is written, whole. Bytes that were on their way are given back: at once, or, after a kill,
        when the folder is next opened; in a cloud a killed writer leaves hidden parts of an
        upload, which a lifecycle rule of the bucket removes.

        Args:
            key: Where to file it; at most 1024 bytes of UTF-8, no segment ``.`` or ``..``.
            source: Its bytes. What leaves an iterable early closes it, if it can be closed.
            metadata: What to say of it; names of ``a-z0-9_`` that start with a letter, and not
                with ``protoplane_``, 1024 bytes in all, as percent-encoded.
            digest: BLAKE2b-256 in hex that its bytes must have. A cloud's store wants it before
                the bytes, so an object of more than 8 MiB is first written to a temporary file
                where it is not given.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key, bad metadata or another digest than
                expected, RESOURCE_EXHAUSTED for a full disk, PERMISSION_DENIED or UNAUTHENTICATED
                where it may not be written, NOT_FOUND where the cloud has no such bucket,
                UNAVAILABLE where the store is away.
        """
        ...

    def get(
        self,
        key: str,
        *,
        start: int = 0,
        end: int | None = None,
        etag: str | None = None,
        digest: str | None = None,
    ) -> AbstractAsyncContextManager[ObjectBody]:
        """Read an object, or a part of it, piece by piece.

        To go on where a read broke off, give the number of bytes that came as ``start``, and the
        ``etag`` or ``digest`` of the first read: the rest then fits, or is refused. Leaving the
        block, or cancelling, gives back all that the read holds.

        Args:
            key: Where it is filed.
            start: First byte; that of the end gives nothing.
            end: Byte before which to stop; the end of the object where absent, or past it.
            etag: What its etag must be.
            digest: What its digest must be.

        Raises:
            PlaneError: On entering: NOT_FOUND; FAILED_PRECONDITION for another etag or digest;
                OUT_OF_RANGE for a start past the end; INVALID_ARGUMENT for a bad key or range;
                PERMISSION_DENIED, UNAUTHENTICATED, UNAVAILABLE as for `put`. While reading, also
                DATA_LOSS where bytes are missing, or a whole read has another digest than the
                object was written with.
        """
        ...

    async def head(self, key: str) -> ObjectInfo:
        """What the store knows of an object.

        Raises:
            PlaneError: NOT_FOUND, and as for `get`.
        """
        ...

    def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects below a path, each as soon as it is known, in no order.

        ``forge`` gives ``forge/a`` and ``forge/b/c``, not ``forge`` itself or ``forgery``; nothing
        gives all. A cloud's store leaves out digests and metadata here; `head` has them. What is
        written or deleted meanwhile may be there or not.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad prefix, and as for `get`.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete an object, for good once it returns; where there is none, it does nothing.

        Cancelling may leave it deleted.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key, and as for `put`.
        """
        ...

    async def presign(
        self, key: str, *, method: PresignedMethod = "GET", expires_s: float = 900
    ) -> str:
        """A URL by which anyone reads (or writes) an object over HTTP, without credentials.

        An object that is written this way has no digest.

        Args:
            key: Where it is, or will be, filed.
            method: What the URL allows.
            expires_s: How long, in seconds; at most seven days.

        Raises:
            PlaneError: UNIMPLEMENTED where the store cannot, INVALID_ARGUMENT for a bad key or
                time.
        """
        ...
