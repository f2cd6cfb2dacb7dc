"""The protocol's REST paths: each is an rpc of the service, with JSON and paths around it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from protoplane_base import Code, PlaneError
from protoplane_base.services import ServiceSpec
from protoplane_server.errors import message_too_large
from protoplane_server.http.asgi import Exchange, Headers
from protoplane_server.http.body import read_body
from protoplane_server.http.departure import Departure, Disconnected
from protoplane_server.http.faults import HttpError, error_status
from protoplane_server.http.state import DoorState
from protoplane_server.kserve.rest_documents import (
    InferDocument,
    document_of,
    encode,
    read_change,
    read_index,
)
from protoplane_server.kserve.schema import messages

_HEADER_BYTES = b"inference-header-content-length"
_JSON = b"application/json"
_BINARY = b"application/octet-stream"

_NO = 400
"""What the protocol answers to a question after health whose answer is no."""

_PATH = re.compile(
    r"""/v2(?:/(?:
      health/(?P<health>live|ready)
    | models/(?P<all>stats)
    | models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?
      (?:/(?P<about>ready|config|stats|infer))?
    | repository/(?P<index>index)
    | repository/models/(?P<changed>[^/]+)/(?P<change>load|unload)
    | (?P<unanswered>(?:systemsharedmemory|cudasharedmemory|trace|logging)(?:/.*)?)
    )?)?""",
    re.VERBOSE,
)


class KserveRoutes:
    """Serves ``/v2`` and what is below it; see `protoplane_server.http.beside.Beside`.

    Args:
        state: The door's state.
        spec: The service.
    """

    def __init__(self, state: DoorState, spec: ServiceSpec) -> None:
        self._state = state
        self._methods = spec.methods

    def serves(self, path: str) -> bool:
        """Whether a path, percent-encoded, is of the protocol."""
        return _PATH.fullmatch(path) is not None

    async def serve(self, exchange: Exchange) -> None:
        """Serve one request; an error is ``{"error": "what is wrong"}``."""
        try:
            status, headers, body = await self._answer(exchange)
        except PlaneError as error:
            headers = [(b"content-type", _JSON)]
            if isinstance(error, HttpError):
                headers.extend(error.headers)
            status, body = error_status(error), encode({"error": error.message})
        await exchange.answer(status, headers, body)

    async def _answer(self, exchange: Exchange) -> tuple[int, Headers, bytes]:
        found = _PATH.fullmatch(exchange.scope["raw_path"].decode("latin-1"))
        assert found is not None
        path = {name: unquote(part) for name, part in found.groupdict().items() if part}
        posts = path.get("about") == "infer" or not path.keys().isdisjoint(("index", "change"))
        verb, wanted = exchange.scope["method"], "POST" if posts else "GET"
        if verb != wanted and "unanswered" not in path:
            raise HttpError(
                405,
                Code.UNIMPLEMENTED,
                f"{exchange.scope['path']} takes {wanted}, not {verb}",
                [(b"allow", wanted.encode())],
            )
        body = await read_body(exchange, self._state)
        model, version = path.get("model", ""), path.get("version", "")
        named: dict[str, str] = {"name": model, "version": version}
        json_type: Headers = [(b"content-type", _JSON)]
        match path:
            case {"about": "infer"}:
                return await self._infer(exchange, model, version, body)
            case {"health": "live"}:
                answer = await self._call(exchange, "ServerLive", messages.ServerLiveRequest())
                return _yes_or_no(answer.live, {"live": answer.live})
            case {"health": _}:
                answer = await self._call(exchange, "ServerReady", messages.ServerReadyRequest())
                return _yes_or_no(answer.ready, {"ready": answer.ready})
            case {"about": "ready"}:
                answer = await self._call(
                    exchange, "ModelReady", messages.ModelReadyRequest(**named)
                )
                return _yes_or_no(answer.ready, {"name": model, "ready": answer.ready})
            case {"about": "config"}:
                answer = await self._call(
                    exchange, "ModelConfig", messages.ModelConfigRequest(**named)
                )
                document: object = document_of(answer.config)
            case {"about": "stats"} | {"all": _}:
                answer = await self._call(
                    exchange, "ModelStatistics", messages.ModelStatisticsRequest(**named)
                )
                document = document_of(answer)
            case {"index": _}:
                answer = await self._call(exchange, "RepositoryIndex", read_index(body))
                document = document_of(answer)["models"]
            case {"change": "load", "changed": name}:
                request = read_change(messages.RepositoryModelLoadRequest, name, body)
                await self._call(exchange, "RepositoryModelLoad", request)
                return 200, json_type, b""
            case {"changed": name}:
                request = read_change(messages.RepositoryModelUnloadRequest, name, body)
                await self._call(exchange, "RepositoryModelUnload", request)
                return 200, json_type, b""
            case {"unanswered": name}:
                what = _UNANSWERED[name.partition("/")[0]]
                answer = await self._call(exchange, what, messages.Unanswered())
                document = {}
            case {"model": _}:
                answer = await self._call(
                    exchange, "ModelMetadata", messages.ModelMetadataRequest(**named)
                )
                document = document_of(answer)
            case _:
                answer = await self._call(
                    exchange, "ServerMetadata", messages.ServerMetadataRequest()
                )
                document = document_of(answer)
        return 200, json_type, encode(document)

    async def _infer(
        self, exchange: Exchange, model: str, version: str, body: bytes
    ) -> tuple[int, Headers, bytes]:
        document = InferDocument(body, _header_bytes(exchange))
        response = await self._call(exchange, "ModelInfer", document.request(model, version))
        answer, header_bytes = document.answer(response)
        limit = self._state.max_bytes
        if len(answer) > limit:
            raise message_too_large(len(answer), limit, "response")
        if header_bytes is None:
            return 200, [(b"content-type", _JSON)], answer
        return (
            200,
            [(b"content-type", _BINARY), (_HEADER_BYTES, b"%d" % header_bytes)],
            answer,
        )

    async def _call(self, exchange: Exchange, method: str, request: Any) -> Any:
        dispatcher = self._state.dispatcher
        ctx = dispatcher.begin(self._methods[method], self._state.call_info(exchange, None))
        answer: Any = None
        with Departure.of_call(self._state, exchange) as departure:
            answer = await dispatcher.unary(ctx, request)
        if departure.gone:
            raise Disconnected
        return answer


_UNANSWERED = {
    "systemsharedmemory": "SystemSharedMemoryStatus",
    "cudasharedmemory": "CudaSharedMemoryStatus",
    "trace": "TraceSetting",
    "logging": "LogSettings",
}


def _yes_or_no(yes: bool, document: object) -> tuple[int, Headers, bytes]:
    # Triton's clients look at the status, KServe's at the document.
    return (200 if yes else _NO), [(b"content-type", _JSON)], encode(document)


def _header_bytes(exchange: Exchange) -> int | None:
    text = exchange.headers.get(_HEADER_BYTES)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 10:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"inference-header-content-length is {text.decode('latin-1')!r}; it takes a whole "
            "number of at most ten digits",
        )
    return int(text)
