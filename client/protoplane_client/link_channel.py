"""Calls over a link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, TypeVar

from protoplane_base import CallOptions, Code, MethodSpec, PlaneError
from protoplane_client.calls import Outgoing, decode, encode, full_metadata
from protoplane_client.link_calls import StreamingCall, UnaryCall
from protoplane_client.link_connection import LinkConnection
from protoplane_client.route import ConnectionState, ConnectionStats
from protoplane_runtime.calling import outgoing_timeout_s, serving
from protoplane_runtime.entities import EntityId
from protoplane_runtime.link.call import LinkCall
from protoplane_runtime.link.caller import Caller
from protoplane_runtime.link.headers import encode_open
from protoplane_runtime.link.settings import LinkSettings
from protoplane_runtime.tls import ClientTls

_Req = TypeVar("_Req")
_Res = TypeVar("_Res")

_MOST_HEADERS = 1024


class LinkChannel:
    """A `Route` over a link, opened by the first call and reopened when it is lost.

    Args:
        address: Where to; see `protoplane_runtime.link.carriers.opening`.
        settings: What this end is and takes.
        tls: Whom to trust.
        name: The instance at this address; what it says in its hello where absent.
        target: `EntityId` bytes of whom calls are for that name no entity; empty for whoever is
            there.

    Raises:
        PlaneError: INVALID_ARGUMENT where the address is no link's.
        MissingExtraError: Its carrier needs an extra that is not installed.
    """

    def __init__(
        self,
        address: str,
        *,
        settings: LinkSettings | None = None,
        tls: ClientTls | None = None,
        name: str | None = None,
        target: bytes = b"",
    ) -> None:
        self._connection = LinkConnection(address, settings or LinkSettings(), tls)
        self._name = name
        self._target = target
        self._learned = ""
        self._headers: dict[
            tuple[int, float | None, str | None], tuple[MethodSpec[Any, Any], bytes]
        ] = {}

    @property
    def address(self) -> str:
        """Where it leads; it changes when the instance moves."""
        return self._connection.address

    @property
    def name(self) -> str:
        """The instance that it leads to, or led to last; its address while that is not known."""
        if self._name is not None:
            return self._name
        session = self._connection.session
        if session is not None:
            self._learned = session.peer.name
        return self._learned or self.address

    @property
    def introduced(self) -> bool:
        """Whether it knows the name of the instance; see `Introducible`."""
        return self._name is not None or self.name == self._learned

    def introduce(self) -> None:
        """Begin to connect, where nothing else did; see `Introducible`."""
        self._connection.start()

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._connection.state

    @property
    def stats(self) -> ConnectionStats:
        """What the connection has counted, over all its links."""
        return self._connection.stats

    @property
    def outstanding(self) -> int:
        """Calls that are open."""
        return self._connection.open_calls

    @property
    def draining(self) -> bool:
        """Whether the instance said that it is going away, and has no link to elsewhere yet."""
        return self._connection.draining

    def move(self, address: str) -> None:
        """Use another address or carrier from now on; open calls finish where they are.

        Raises:
            PlaneError: INVALID_ARGUMENT where it is no link's address.
        """
        self._connection.move(address)

    async def unary(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> _Res:
        """One message there, one back; see `protoplane_base.Channel`."""
        data = encode(method, request)
        header, timeout_s = self._header(method, options)
        session = self._connection.session or await self._connection.ready(timeout_s)
        if len(data) > session.whole_bytes:
            return await self._unary_in_parts(session, method, header, data, timeout_s)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        call = UnaryCall(answer)
        session.open(call, header, data)
        timer = _timer(session, call, timeout_s)
        try:
            return decode(method, await answer)
        except (asyncio.CancelledError, PlaneError):
            session.cancel(call)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if call.held:
                session.discard(call)

    async def server_stream(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> AsyncIterator[_Res]:
        """One message there, any number back; the call starts when the first is asked for."""
        data = encode(method, request)
        header, timeout_s = self._header(method, options)
        session = self._connection.session or await self._connection.ready(timeout_s)
        call = StreamingCall(session)
        timer = _timer(session, call, timeout_s)
        try:
            if len(data) <= session.whole_bytes:
                session.open(call, header, data)
            else:
                session.check_size(len(data), "request")
                session.open(call, header, None)
                if await call.send(data, "request"):
                    session.half_close(call)
            while (answer := await call.receive()) is not None:
                yield decode(method, answer)
            if call.error is not None:
                raise call.error
        finally:
            session.cancel(call)
            if timer is not None:
                timer.cancel()

    async def client_stream(
        self, method: MethodSpec[_Req, _Res], requests: AsyncIterable[_Req], options: CallOptions
    ) -> _Res:
        """Any number there, one back; an error of ``requests`` ends the call and is raised."""
        header, timeout_s = self._header(method, options)
        session = self._connection.session or await self._connection.ready(timeout_s)
        call = StreamingCall(session)
        timer = _timer(session, call, timeout_s)
        outgoing = Outgoing(method, requests)
        sender: asyncio.Task[None] | None = None
        try:
            session.open(call, header, None)
            sender = asyncio.create_task(_send(session, call, outgoing))
            return decode(method, await _only_answer(call, outgoing))
        finally:
            session.cancel(call)
            if timer is not None:
                timer.cancel()
            await _stop(sender)

    async def bidi_stream(
        self, method: MethodSpec[_Req, _Res], requests: AsyncIterable[_Req], options: CallOptions
    ) -> AsyncIterator[_Res]:
        """Any number there and back; the call starts when the first answer is asked for."""
        header, timeout_s = self._header(method, options)
        session = self._connection.session or await self._connection.ready(timeout_s)
        call = StreamingCall(session)
        timer = _timer(session, call, timeout_s)
        outgoing = Outgoing(method, requests)
        sender: asyncio.Task[None] | None = None
        try:
            session.open(call, header, None)
            sender = asyncio.create_task(_send(session, call, outgoing))
            while (answer := await call.receive()) is not None:
                yield decode(method, answer)
            if outgoing.error is not None:
                raise outgoing.error
            if call.error is not None:
                raise call.error
        finally:
            session.cancel(call)
            if timer is not None:
                timer.cancel()
            await _stop(sender)

    async def aclose(self) -> None:
        """Cancel what is open and close the link; closing twice does nothing."""
        await self._connection.aclose()

    def _header(
        self, method: MethodSpec[Any, Any], options: CallOptions
    ) -> tuple[bytes, float | None]:
        """The header of a call's OPEN, and the seconds that the call has."""
        timeout_s: float | None = None
        entity: str | None = None
        if options:
            timeout_s, entity = options.get("timeout_s"), options.get("entity")
        if serving.get() is not None:
            timeout_s = outgoing_timeout_s(timeout_s)
        elif not options or not ("metadata" in options or "idempotency_key" in options):
            # By identity, because hashing a spec means hashing all that it says; it is kept, so
            # that no other gets its identity.
            known = self._headers.get((id(method), timeout_s, entity))
            if known is not None:
                return known[1], timeout_s
            header = encode_open(method.path, {}, timeout_s, self._target_of(entity))
            if len(self._headers) >= _MOST_HEADERS:
                self._headers.clear()
            self._headers[id(method), timeout_s, entity] = method, header
            return header, timeout_s
        metadata = dict(full_metadata(options))
        return encode_open(method.path, metadata, timeout_s, self._target_of(entity)), timeout_s

    def _target_of(self, entity: str | None) -> bytes:
        return self._target if entity is None else bytes(EntityId.of(entity))

    async def _unary_in_parts(
        self,
        session: Caller,
        method: MethodSpec[Any, _Res],
        header: bytes,
        data: bytes,
        timeout_s: float | None,
    ) -> _Res:
        """A call whose request is compressed, or takes more than a frame."""
        session.check_size(len(data), "request")
        call = StreamingCall(session)
        timer = _timer(session, call, timeout_s)
        try:
            session.open(call, header, None)
            if await call.send(data, "request"):
                session.half_close(call)
            return decode(method, await _only_answer(call))
        finally:
            session.cancel(call)
            if timer is not None:
                timer.cancel()


def _expire(session: Caller, call: LinkCall) -> None:
    session.cancel(call)
    call.failed(PlaneError(Code.DEADLINE_EXCEEDED, "the call took longer than its timeout"))


def _timer(session: Caller, call: LinkCall, timeout_s: float | None) -> asyncio.TimerHandle | None:
    if timeout_s is None:
        return None
    return asyncio.get_running_loop().call_later(timeout_s, _expire, session, call)


async def _only_answer(call: StreamingCall, outgoing: Outgoing | None = None) -> bytes:
    answer = await call.receive()
    if answer is None:
        if outgoing is not None and outgoing.error is not None:
            raise outgoing.error
        if call.error is not None:
            raise call.error
        answer = call.answer
    if answer is None:
        raise PlaneError(Code.INTERNAL, "the call ended well, but without an answer")
    return answer


async def _send(session: Caller, call: StreamingCall, outgoing: Outgoing) -> None:
    """Send the requests of a stream; what goes wrong with them ends the call."""
    messages = outgoing.encoded()
    try:
        async for message in messages:
            if not await call.send(message, "request"):
                return
        session.half_close(call)
    except PlaneError as error:
        session.cancel(call)
        call.failed(error)
    except Exception:  # noqa: BLE001  # it is in outgoing.error, and raised to the caller
        session.cancel(call)
        call.failed(PlaneError(Code.CANCELLED, "the requests failed"))


async def _stop(sender: asyncio.Task[None] | None) -> None:
    if sender is not None:
        sender.cancel()
        await asyncio.wait([sender])
