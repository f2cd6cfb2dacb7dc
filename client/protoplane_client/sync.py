"""The plane for code that is not asynchronous: a facade over the one async core.

All planes of a process share one event loop in a background thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import cache
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from protoplane_base import CallOptions, Client, Message, MethodSpec
from protoplane_client.addressing import Whom
from protoplane_client.events import Place
from protoplane_client.grpc_channel import DEFAULT_MAX_MESSAGE_BYTES
from protoplane_client.plane import Plane, connect
from protoplane_client.policy import Policy
from protoplane_client.stats import TIMEOUT_S, CollectedStats
from protoplane_client.subscription import Received, Reconnect
from protoplane_client.tls import Tls
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Discovery
from protoplane_runtime.engines.interface import EventId, Gap

_T = TypeVar("_T")
_Req = TypeVar("_Req")
_Res = TypeVar("_Res")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="protoplane", daemon=True).start()
    return loop


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except BaseException:  # Ctrl-C in this thread must end the work in the other.
        future.cancel()
        raise


class SyncStream(Iterator[_T]):
    """A stream as a plain iterator; leaving its ``with`` block, or `close`, cancels the call."""

    def __init__(self, items: AsyncIterator[_T]) -> None:
        self._items = items

    def __next__(self) -> _T:
        async def following() -> tuple[bool, Any]:
            try:
                return True, await anext(self._items)
            except StopAsyncIteration:
                return False, None

        found, item = _run(following())
        if not found:
            raise StopIteration
        result: _T = item
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream; closing twice does nothing."""
        aclose: Callable[[], Coroutine[Any, Any, None]] | None
        aclose = getattr(self._items, "aclose", None)
        if aclose is not None:
            _run(_awaited(aclose))


class SyncClient:
    """A generated client whose methods block.

    Each takes what the async one takes; streams of requests are plain iterables, answers of
    streams are `SyncStream`.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._methods: dict[str, MethodSpec[Any, Any]] = {
            method.python_name: method for method in client.spec.methods.values()
        }

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *self._methods]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = self._methods.get(name)
        if method is None:
            raise AttributeError(f"{type(self._client).__name__} has no method {name!r}")
        call = getattr(self._client, name)

        def blocking(request: Any, **options: Unpack[CallOptions]) -> Any:
            outgoing = _fed(request) if method.kind.client_streaming else request
            if method.kind.server_streaming:
                return SyncStream(call(outgoing, **options))
            return _run(_awaited(call, outgoing, **options))

        blocking.__name__, blocking.__doc__ = name, method.doc
        return blocking


class SyncPlane:
    """A plane whose methods block; made by `connect_sync`."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def client(self, client: type[Client]) -> Any:
        """A generated client whose methods block; see `SyncClient`."""
        return SyncClient(client(self._plane))

    @overload
    def request(
        self,
        entity: Whom | None,
        method: MethodSpec[_Req, _Res],
        message: _Req | bytes,
        /,
        **options: Unpack[CallOptions],
    ) -> _Res: ...

    @overload
    def request(
        self,
        entity: Whom | None,
        method: str,
        message: Message | bytes,
        /,
        **options: Unpack[CallOptions],
    ) -> bytes: ...

    def request(
        self,
        entity: Whom | None,
        method: MethodSpec[Any, Any] | str,
        message: Any,
        /,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Ask somebody something; see `Plane.request`."""
        plane: Any = self._plane
        return _run(_awaited(plane.request, entity, method, message, **options))

    def collect_stats(
        self, entity: Whom | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> CollectedStats:
        """Ask instances for their numbers, all at once; see `Plane.collect_stats`."""
        return _run(self._plane.collect_stats(entity, timeout_s=timeout_s))

    def publish(
        self,
        key: str,
        message: Message,
        *,
        entity: Whom | None = None,
        publisher: str | None = None,
        number: int | None = None,
    ) -> EventId:
        """Publish an event; see `Plane.publish`."""
        return _run(
            self._plane.publish(key, message, entity=entity, publisher=publisher, number=number)
        )

    def subscribe(
        self,
        key_expression: str | Sequence[str],
        *,
        entity: Whom | None = None,
        after: Place | Mapping[str, Place] | None = None,
        latest: bool = False,
        on_reconnect: Callable[[Reconnect], object] | None = None,
        give_up_s: float | None = None,
    ) -> SyncStream[Received | Gap]:
        """Follow events; see `Plane.subscribe`."""
        return SyncStream(
            self._plane.subscribe(
                key_expression,
                entity=entity,
                after=after,
                latest=latest,
                on_reconnect=on_reconnect,
                give_up_s=give_up_s,
            )
        )

    def close(self) -> None:
        """Close all connections; closing twice does nothing."""
        _run(self._plane.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def connect_sync(
    target: str | Sequence[str] | Mapping[str, str],
    *,
    http: str | Sequence[str] | Mapping[str, str] | None = None,
    tls: Tls | None = None,
    token: str | None = None,
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    keepalive_s: float | None = None,
    policy: Policy | None = None,
    engine: str | Discovery | None = None,
    namespace: str = DEFAULT_NAMESPACE,
) -> SyncPlane:
    """Reach a component from code that is not asynchronous; arguments as for `connect`."""

    async def opened() -> Plane:
        return connect(
            target,
            http=http,
            tls=tls,
            token=token,
            max_message_bytes=max_message_bytes,
            keepalive_s=keepalive_s,
            policy=policy,
            engine=engine,
            namespace=namespace,
        )

    return SyncPlane(_run(opened()))


async def _awaited(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return await call(*args, **options)


async def _fed(items: Iterable[_T]) -> AsyncIterator[_T]:
    iterator = iter(items)
    nothing = object()
    while True:
        # The source may block, so it is asked in a thread of its own.
        item: Any = await asyncio.to_thread(next, iterator, nothing)
        if item is nothing:
            return
        yield item
