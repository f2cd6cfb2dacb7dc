"""Calling a method by its name, in JSON: over gRPC by reflection, over HTTP by Connect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from protoplane_base import (
    CallOptions,
    Channel,
    Code,
    DecodeError,
    MethodKind,
    MethodSpec,
    PlaneError,
)
from protoplane_client.dynamic import JsonCodec
from protoplane_client.http_session import HttpSession
from protoplane_client.reflection import choose, split_method


def http_method(path: str, kind: MethodKind) -> MethodSpec[str, str]:
    """A method that takes and gives JSON texts."""
    service, _, name = path.removeprefix("/").rpartition("/")
    codec = JsonCodec()
    return MethodSpec(service, name, name, kind, codec, codec)


async def http_path(session: HttpSession, name: str) -> str:
    """The full name of a method, looked up in the server's OpenAPI document if it is short.

    Raises:
        PlaneError: NOT_FOUND or INVALID_ARGUMENT as for reflection, UNIMPLEMENTED where the server
            has no such document.
    """
    service, method = split_method(name)
    if "." in service:
        return f"{service}/{method}"
    with session.errors():
        response = await session.client.get("/openapi.json")
    try:
        document: Any = response.json() if response.status_code == 200 else {}
        offered = _methods_of(document)
    except (ValueError, KeyError, TypeError, AttributeError):
        offered = []
    if not offered:
        raise PlaneError(
            Code.UNIMPLEMENTED,
            f"{session.base_url} has no /openapi.json to find {name} in; "
            "give the full name: package.Service/Method",
        )
    found = {
        path: path
        for path in offered
        if path.rpartition("/")[2] == method
        and (not service or path.rpartition("/")[0].endswith(f".{service}"))
    }
    return choose(name, found, offered)


def _methods_of(document: Any) -> list[str]:
    """Full names of the methods in one of our OpenAPI documents."""
    paths: dict[str, dict[str, Any]] = document["paths"]
    packages = {
        path.split("/")[1].rpartition(".")[0]
        for path in paths
        if path.count("/") == 2 and "." in path.split("/")[1] and "{" not in path
    } or {str(document["info"]["title"])}
    full: list[str] = []
    for path, operations in paths.items():
        for operation in operations.values():
            service, _, method = str(operation.get("operationId", "")).partition("_")
            if path.endswith(f".{service}/{method}"):
                full.append(path.removeprefix("/"))
            elif method:
                # A method that has a route of its own is listed under that route alone.
                full += [f"{package}.{service}/{method}" for package in sorted(packages)]
    return full


async def call_json(
    channel: Channel,
    method: MethodSpec[Any, Any],
    requests: AsyncIterable[str],
    options: CallOptions,
) -> AsyncIterator[str]:
    """Call a method with JSON texts and give its answers as JSON texts.

    Args:
        channel: Way to the component.
        method: What to call.
        requests: One text, or any number where the method streams.
        options: How to call.

    Raises:
        PlaneError: The call failed; INVALID_ARGUMENT where a request does not fit.
    """

    async def outgoing() -> AsyncIterator[Any]:
        async for text in requests:
            yield _request(method, text)

    write = method.response.model_dump_json
    kind = method.kind
    if kind is MethodKind.BIDI_STREAM:
        answers = channel.bidi_stream(method, outgoing(), options)
    elif kind is MethodKind.CLIENT_STREAM:
        yield write(await channel.client_stream(method, outgoing(), options))
        return
    else:
        request = await anext(outgoing())
        if kind is MethodKind.UNARY:
            yield write(await channel.unary(method, request, options))
            return
        answers = channel.server_stream(method, request, options)
    async with aclosing(cast("Any", answers)) as stream:
        async for answer in stream:
            yield write(answer)


def _request(method: MethodSpec[Any, Any], text: str) -> Any:
    try:
        json.loads(text)
        return method.request.model_validate_json(text)
    except (DecodeError, ValueError) as error:
        raise PlaneError(Code.INVALID_ARGUMENT, f"the request does not fit: {error}") from error
