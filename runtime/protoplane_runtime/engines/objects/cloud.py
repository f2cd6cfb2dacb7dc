"""``s3:``, ``gs:`` and ``az:``: objects in a cloud's store, by obstore.

obstore (https://developmentseed.org/obstore/) is Rust's object_store for Python. It writes a large
object as a multipart upload, which nobody sees before it is complete, so no temporary name is
needed. It gives no access to the parts of an upload, so one that broke off cannot be resumed.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import obstore
from obstore.exceptions import (
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import from_url

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.objects.body import ObjectBody
from protoplane_runtime.engines.objects.checks import (
    RESERVED_NAMES,
    absent,
    changed,
    check_expected,
    check_expiry,
    check_get,
    check_object_key,
    check_put,
    clipped,
    mismatched,
)
from protoplane_runtime.engines.objects.interface import (
    ObjectInfo,
    ObjectSource,
    PresignedMethod,
)
from protoplane_runtime.engines.objects.pieces import (
    PIECE_BYTES,
    Digest,
    chained,
    checked,
    pieces_of,
)
from protoplane_runtime.engines.objects.spool import spooled
from protoplane_runtime.engines.objects.upload import upload

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ListStream, ObjectMeta
    from obstore.store import ObjectStore as CloudStore

SMALL_BYTES = 8 * PIECE_BYTES
"""Up to this size an object is gathered in memory and sent in one request."""

_DIGEST_NAME = RESERVED_NAMES + "blake2b"
_AZURE = frozenset({"az", "azure", "adl", "abfs", "abfss"})
_ATTEMPTS = 3
_LISTED_AT_ONCE = 1000
# A long download is no fault, a silent one is.
_CLIENT: dict[str, Any] = {
    "connect_timeout": timedelta(seconds=10),
    "read_timeout": timedelta(seconds=60),
    "timeout": timedelta(days=7),
}
_RETRY: Any = {
    "max_retries": 15,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"max_backoff": timedelta(seconds=5)},
}

# A thread of obstore's that lets go of a result while Python ends would abort the process
# (https://github.com/PyO3/pyo3-async-runtimes/issues/40); so those that are at it get a moment.
atexit.register(time.sleep, 0.05)


class CloudObjects:
    """An `ObjectStore` in a cloud; get one from `open`."""

    def __init__(self, store: CloudStore, url: str) -> None:
        self._store = store
        self._url = url
        # Metadata travels as HTTP headers. Proxies like to drop those with a `_`, Azure takes only
        # identifiers.
        self._joint = "_" if urlsplit(url).scheme in _AZURE else "-"

    @classmethod
    def open(cls, url: str) -> CloudObjects:
        """Make one of a URL; nothing is asked of the cloud yet.

        Raises:
            PlaneError: INVALID_ARGUMENT; the URL or a setting in it is wrong, or one is missing.
        """
        parts = urlsplit(url)
        config: Any = dict(parse_qsl(parts.query, keep_blank_values=True))
        client: Any = dict(_CLIENT)
        # Of a gs: URL, obstore does not take it among the settings.
        asked = config.pop("allow_http", "") == "true"
        if asked or str(config.get("endpoint", "")).startswith("http://"):
            client["allow_http"] = True
        # What follows the question mark may be secret.
        shown = parts._replace(query="", fragment="").geturl()
        try:
            store = from_url(shown, config=config, client_options=client, retry_config=_RETRY)
        except UnknownConfigurationKeyError as error:
            raise PlaneError(Code.INVALID_ARGUMENT, f"{shown}: {_summary(error)}") from None
        except (BaseError, ValueError) as error:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"{shown} is no object store: {_summary(error)}"
            ) from None
        return cls(store, shown)

    async def put(
        self,
        key: str,
        source: ObjectSource,
        *,
        metadata: Mapping[str, str] | None = None,
        digest: str | None = None,
    ) -> ObjectInfo:
        """Write an object; see `ObjectStore.put`."""
        metadata = check_put(key, metadata, digest)
        found = Digest()

        def verdict(found: Digest) -> None:
            if digest is not None and digest != found.hex:
                raise mismatched(key, digest, found.hex)

        async with aclosing(checked(pieces_of(source), found, verdict)) as pieces:
            head: list[bytes] = []
            async for piece in pieces:
                head.append(piece)
                if found.size > SMALL_BYTES:
                    break
            else:
                etag = await self._put_small(key, b"".join(head), metadata, found.hex)
                return _written(key, found, etag, metadata)
            async with aclosing(chained(head, pieces)) as rest:
                if digest is not None:
                    etag = await self._upload(key, rest, metadata, digest)
                else:
                    # The store takes the digest before the bytes, and it is known after them.
                    async with spooled(rest) as again:
                        etag = await self._upload(key, again, metadata, found.hex)
        return _written(key, found, etag, metadata)

    @asynccontextmanager
    async def get(
        self,
        key: str,
        *,
        start: int = 0,
        end: int | None = None,
        etag: str | None = None,
        digest: str | None = None,
    ) -> AsyncGenerator[ObjectBody, None]:
        """Read an object; see `ObjectStore.get`."""
        check_get(key, start, end, digest)
        if start == 0 and end is None:
            whole = await self._get(key, {})
            info = self._known(key, whole)
            check_expected(info, etag, digest)
            result: GetResult | None = whole
            end = info.size
        else:
            result, info, end = await self._get_part(key, start, end, etag, digest)
        async with aclosing(self._pieces(key, result)) as pieces:
            yield ObjectBody(info, pieces, start, end)

    async def head(self, key: str) -> ObjectInfo:
        """What the store knows of an object; see `ObjectStore.head`."""
        check_object_key(key)
        return self._known(key, await self._get(key, {"head": True}))

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects below a path; see `ObjectStore.list`."""
        if prefix:
            check_object_key(prefix)
        with self._translated(prefix):
            found = _stream(self._store, prefix)
        while True:
            with self._translated(prefix):
                some = await anext(found, None)
            if some is None:
                return
            for meta in some:
                yield _info(meta["path"], meta, None, {})

    async def delete(self, key: str) -> None:
        """Delete an object; see `ObjectStore.delete`."""
        check_object_key(key)
        try:
            with self._translated(key):
                await obstore.delete_async(self._store, key)
        except PlaneError as error:
            if error.code is not Code.NOT_FOUND:
                raise

    async def presign(
        self, key: str, *, method: PresignedMethod = "GET", expires_s: float = 900
    ) -> str:
        """A URL that needs no credentials; see `ObjectStore.presign`."""
        check_object_key(key)
        check_expiry(expires_s)
        store: Any = self._store
        with self._translated(key):
            return await obstore.sign_async(store, method, key, timedelta(seconds=expires_s))

    async def _put_small(
        self, key: str, data: bytes, metadata: Mapping[str, str], digest: str
    ) -> str:
        with self._translated(key, writing=True):
            result = await obstore.put_async(
                self._store,
                key,
                data,
                attributes=self._attributes(metadata, digest),
                use_multipart=False,
            )
        return _etag(result["e_tag"])

    async def _upload(
        self,
        key: str,
        pieces: AsyncGenerator[bytes, None],
        metadata: Mapping[str, str],
        digest: str,
    ) -> str:
        attributes = self._attributes(metadata, digest)
        etag = await upload(
            self._store, key, pieces, attributes, lambda: self._translated(key, writing=True)
        )
        return _etag(etag)

    async def _get(self, key: str, options: GetOptions) -> GetResult:
        with self._translated(key):
            return await obstore.get_async(self._store, key, options=options)

    async def _get_part(
        self, key: str, start: int, end: int | None, etag: str | None, digest: str | None
    ) -> tuple[GetResult | None, ObjectInfo, int]:
        # The size must be known first: stores differ on a range that ends past it or is empty.
        for attempt in range(_ATTEMPTS):
            info = await self.head(key)
            check_expected(info, etag, digest)
            last = clipped(info, start, end)
            if start == last:
                return None, info, last
            options: GetOptions = {"range": (start, last)}
            if info.etag:
                options["if_match"] = info.etag
            try:
                return await self._get(key, options), info, last
            except PlaneError as error:
                # Written anew between the two; who asked for no etag takes what is there now.
                if error.code is not Code.FAILED_PRECONDITION or attempt + 1 == _ATTEMPTS:
                    raise
        raise AssertionError

    async def _pieces(self, key: str, result: GetResult | None) -> AsyncGenerator[bytes, None]:
        if result is None:
            return
        stream = result.stream(min_chunk_size=PIECE_BYTES)
        while True:
            with self._translated(key):
                piece = await anext(stream, None)
            if piece is None:
                return
            yield bytes(piece)

    def _known(self, key: str, result: GetResult) -> ObjectInfo:
        # Those with other names are the store's own, such as Content-Type.
        known = {
            name.replace(self._joint, "_"): unquote(value)
            for name, value in result.attributes.items()
            if name.islower()
        }
        digest = known.pop(_DIGEST_NAME, None)
        return _info(key, result.meta, digest, known)

    def _attributes(self, metadata: Mapping[str, str], digest: str) -> dict[str, str]:
        return {
            name.replace("_", self._joint): quote(value)
            for name, value in {**metadata, _DIGEST_NAME: digest}.items()
        }

    @contextmanager
    def _translated(self, key: str, *, writing: bool = False) -> Generator[None]:
        try:
            yield
        except FileNotFoundError:
            if key and not writing:
                raise absent(key) from None
            raise self._no_bucket() from None
        except PreconditionError:
            raise changed(key) from None
        except (BaseError, ValueError, OSError) as error:
            # A listing says it only in S3's own words.
            if "<Code>NoSuchBucket</Code>" in str(error):
                raise self._no_bucket() from None
            raise PlaneError(
                _code(error), f"{self._url}, {key or 'the list'}: {_summary(error)}"
            ) from error

    def _no_bucket(self) -> PlaneError:
        return PlaneError(
            Code.NOT_FOUND, f"{self._url} is not there; make the bucket or container first"
        )


def _stream(store: CloudStore, prefix: str) -> ListStream[Sequence[ObjectMeta]]:
    # Of its overloads, those for Arrow have types that are not installed.
    start: Any = obstore.list  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    found: ListStream[Sequence[ObjectMeta]] = start(
        store, prefix or None, chunk_size=_LISTED_AT_ONCE
    )
    return found


def _info(
    key: str, meta: ObjectMeta, digest: str | None, metadata: Mapping[str, str]
) -> ObjectInfo:
    return ObjectInfo(
        key,
        meta["size"],
        digest,
        _etag(meta["e_tag"]),
        meta["last_modified"].timestamp(),
        MappingProxyType(metadata),
    )


def _etag(found: str | None) -> str:
    # Azure lists them without the quotes that they have elsewhere.
    return f'"{found}"' if found and not found.endswith('"') else found or ""


def _written(key: str, found: Digest, etag: str, metadata: Mapping[str, str]) -> ObjectInfo:
    return ObjectInfo(key, found.size, found.hex, etag, time.time(), MappingProxyType(metadata))


def _code(error: Exception) -> Code:
    match error:
        case PermissionDeniedError():
            return Code.PERMISSION_DENIED
        case UnauthenticatedError():
            return Code.UNAUTHENTICATED
        case NotSupportedError():
            return Code.UNIMPLEMENTED
        case ValueError():
            return Code.INVALID_ARGUMENT
        case _:
            return Code.UNAVAILABLE


def _summary(error: Exception) -> str:
    """The first line; obstore goes on with what only its authors can read."""
    return str(error).partition("\n")[0].strip() or type(error).__name__
