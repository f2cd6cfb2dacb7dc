"""The paths of OpenAI's API: each is a call of the gateway's service, in other words."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import unquote

from protoplane.gateway.v1 import EmbedResponse, InferResponse, ListModelsRequest
from protoplane_base import Code, PlaneError
from protoplane_base.services import ServiceSpec
from protoplane_components.gateway.openai import answers
from protoplane_components.gateway.openai.answers import ChatShape, CompletionShape, Pieces
from protoplane_components.gateway.openai.faults import error_answer, error_body
from protoplane_components.gateway.openai.requests import (
    Embeddings,
    Generation,
    read_chat,
    read_completion,
)
from protoplane_server.context import CallContext
from protoplane_server.http.asgi import Exchange, Headers
from protoplane_server.http.body import close_unread, read_body
from protoplane_server.http.compression import MIN_BYTES, accepts_gzip, compress
from protoplane_server.http.departure import Departure, Disconnected, disconnection
from protoplane_server.http.event_stream import EventStream
from protoplane_server.http.faults import HttpError
from protoplane_server.http.metadata import metadata_headers
from protoplane_server.http.sse import HEADERS
from protoplane_server.http.state import DoorState

PREFIX = "/v1/"
"""What all paths begin with."""

DOOR = "openai"
"""What the calls' door is called in metrics and in the audit log."""

_log = logging.getLogger("protoplane.gateway")

TurnedAway = Callable[[CallContext, str, PlaneError], None]
"""Told of a request that becomes no call: its context, its path and why."""

_CHAT, _COMPLETION = ChatShape(), CompletionShape()


class OpenAIRoutes:
    """Serves what is below ``/v1/``; see `protoplane_server.http.beside.Beside`.

    Args:
        state: The door's state.
        spec: The gateway's service.
        turned_away: Told of requests that become no call.
    """

    def __init__(self, state: DoorState, spec: ServiceSpec, turned_away: TurnedAway) -> None:
        self._state = state
        self._methods = spec.methods
        self._turned_away = turned_away
        self._began = int(time.time())

    def serves(self, path: str) -> bool:
        """Whether a path, percent-encoded, is of the API."""
        return path.startswith(PREFIX)

    async def serve(self, exchange: Exchange) -> None:
        """Serve one request; an error is ``{"error": {…}}``."""
        call = _Call(self._state, exchange, self._methods, self._turned_away)
        try:
            await self._serve(exchange, call)
        except PlaneError as error:
            await call.fail(error)
        except (asyncio.CancelledError, Disconnected):
            raise
        except Exception:
            _log.exception("%s %s failed", exchange.scope["method"], exchange.scope["path"])
            if exchange.started:
                raise
            failed = PlaneError(Code.INTERNAL, "the gateway failed; its log says why")
            await call.fail(failed)

    async def _serve(self, exchange: Exchange, call: _Call) -> None:
        path = exchange.scope["raw_path"].decode("latin-1").removeprefix(PREFIX)
        verb = exchange.scope["method"]
        if path == "models" or path.startswith("models/"):
            _check_verb(exchange, verb, "GET")
            await self._models(call, unquote(path[len("models/") :]))
        elif path in ("chat/completions", "completions", "embeddings"):
            _check_verb(exchange, verb, "POST")
            body = await call.body()
            if path == "embeddings":
                await self._embed(call, Embeddings(body))
            elif path == "completions":
                await self._generate(call, read_completion(body), _COMPLETION)
            else:
                await self._generate(call, read_chat(body), _CHAT)
        else:
            raise HttpError(
                404,
                Code.NOT_FOUND,
                f"there is no {verb} {exchange.scope['path']} here; there are chat/completions, "
                "completions, embeddings and models",
            )

    async def _models(self, call: _Call, name: str) -> None:
        response = await call.unary("ListModels", ListModelsRequest())
        if not name:
            await call.answer(answers.models(response.models, self._began))
            return
        for model in response.models:
            if model.name == name:
                await call.answer(answers.model(model, self._began))
                return
        raise PlaneError(
            Code.NOT_FOUND,
            f"the model {name!r} does not exist or you do not have access to it; "
            "/v1/models lists those that you may use",
        )

    async def _embed(self, call: _Call, asked: Embeddings) -> None:
        response: EmbedResponse = await call.unary("Embed", asked.request)
        if response.embeddings:
            asked.check_dimensions(len(response.embeddings[0].values))
        await call.answer(answers.embeddings(response, base64=asked.base64))

    async def _generate(self, call: _Call, asked: Generation, shape: ChatShape) -> None:
        created = int(time.time())
        if asked.stream:
            await call.stream(asked, shape, created)
            return
        response: InferResponse = await call.unary("Infer", asked.request)
        await call.answer(answers.whole(shape, response, created))


class _Call:
    """One request of the API, and the call that it becomes."""

    __slots__ = (
        "_context",
        "_exchange",
        "_has_read",
        "_info",
        "_methods",
        "_state",
        "_turned_away",
    )

    def __init__(
        self, state: DoorState, exchange: Exchange, methods: Any, turned_away: TurnedAway
    ) -> None:
        self._state = state
        self._exchange = exchange
        self._methods = methods
        self._info = state.call_info(exchange, None)
        self._info.door = DOOR
        self._context: CallContext | None = None
        self._has_read = False
        self._turned_away = turned_away

    async def body(self) -> bytes:
        """Read what is asked, of those who may ask.

        Raises:
            PlaneError: UNAUTHENTICATED before anything is read; INVALID_ARGUMENT where it is not
                JSON, as a page of another origin could send without asking.
        """
        access = self._state.dispatcher.access
        if access is not None:
            asked = self._state.dispatcher.begin(self._methods["Infer"], self._info)
            # What is answered has the id that the audit log has.
            self._info.request_id = asked.request_id
            self._info.identity = access.of_call(asked)
        kind = self._exchange.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise HttpError(
                415,
                Code.INVALID_ARGUMENT,
                f"the content type is {kind.decode('latin-1')!r}; send application/json",
            )
        body = await read_body(self._exchange, self._state)
        self._has_read = True
        return body

    async def unary(self, name: str, request: Any) -> Any:
        """Call a method that has one answer.

        Raises:
            Disconnected: The client went away; the call is cancelled.
        """
        dispatcher, exchange = self._state.dispatcher, self._exchange
        self._context = context = dispatcher.begin(self._methods[name], self._info)
        answer: Any = None
        with Departure.of_call(self._state, exchange) as departure:
            answer = await dispatcher.unary(context, request)
        if departure.gone:
            raise Disconnected
        return answer

    async def stream(self, asked: Generation, shape: ChatShape, created: int) -> None:
        """Answer with pieces; a client that goes away cancels the call."""
        state, exchange = self._state, self._exchange
        dispatcher = state.dispatcher
        context = dispatcher.begin(self._methods["InferStream"], self._info)
        self._context = context
        headers: Headers = [(b"x-request-id", context.request_id.encode())]
        stream = EventStream(
            exchange,
            state.rounds,
            state.keep_alive_s,
            stall_s=dispatcher.limits.stall_s,
            headers=headers,
        )
        departure = Departure(state, disconnection(exchange.receive), at_once=True)
        pieces: Pieces | None = None
        tail = b""
        try:
            with departure, stream:
                async with aclosing(dispatcher.stream(context, asked.request)) as responses:
                    async for response in responses:
                        event = b""
                        if pieces is None:
                            # The handler tells before its first answer what is left of limits.
                            headers[:] = self._headers()
                            pieces = Pieces(
                                shape,
                                context.request_id,
                                response.model,
                                created,
                                include_usage=asked.include_usage,
                            )
                            event = pieces.first()
                        event += pieces.piece(response)
                        if response.finish_reason:
                            # What comes now comes at once, and leaves in one write.
                            tail += event
                        elif event:
                            await stream.write(event)
        except PlaneError as error:
            if not exchange.started:
                raise
            await exchange.finish(tail + b"data: " + error_body(error) + b"\n\n")
            return
        if departure.gone or stream.stalled:
            return
        if not exchange.started:
            await exchange.start(200, [*HEADERS, *headers])
        await exchange.finish(tail + answers.DONE)

    async def answer(self, body: bytes) -> None:
        """Answer with JSON."""
        headers: Headers = [(b"content-type", b"application/json"), *self._headers()]
        if len(body) >= MIN_BYTES and accepts_gzip(self._exchange.headers.get(b"accept-encoding")):
            body = compress(body)
            headers += [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]
        await self._exchange.answer(200, headers, body)

    async def fail(self, error: PlaneError) -> None:
        """Answer with an error."""
        if self._context is None and error.code is not Code.UNAUTHENTICATED:
            self._turned_away(self._begun(), self._exchange.scope["path"], error)
        status, headers = error_answer(error)
        if not self._has_read and (b"connection", b"close") not in headers:
            headers += close_unread(self._exchange)
        headers += [(b"content-type", b"application/json"), *self._headers()]
        await self._exchange.answer(status, headers, error_body(error))

    def _headers(self) -> Headers:
        """The request's id, and what is left of limits."""
        context = self._begun()
        return metadata_headers({"x-request-id": context.request_id, **context.trailers})

    def _begun(self) -> CallContext:
        """The call that came of it; where there is none, what one would have been."""
        if self._context is None:
            self._context = self._state.dispatcher.begin(self._methods["Infer"], self._info)
        return self._context


def _check_verb(exchange: Exchange, verb: str, wanted: str) -> None:
    if verb != wanted:
        raise HttpError(
            405,
            Code.UNIMPLEMENTED,
            f"{exchange.scope['path']} takes {wanted}, not {verb}",
            [(b"allow", wanted.encode())],
        )
