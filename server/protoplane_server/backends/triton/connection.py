"""The connection to Triton: one long-lived channel, and the calls that are open on it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc.aio

from protoplane_base import Code, PlaneError
from protoplane_server.backends.triton.errors import error_of_call
from protoplane_server.backends.triton.schema import SERVICE, messages
from protoplane_server.backends.triton.settings import TritonSettings

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # One that comes back is to be found soon.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
]


class OpenCall:
    """An rpc that is open while it is entered; leaving it by an error takes it back from Triton.

    Args:
        connection: Whose it is.
        model: What it asks.
        call: The call of gRPC's.
    """

    __slots__ = ("_connection", "_model", "call", "why")

    def __init__(self, connection: Connection, model: str, call: Any) -> None:
        self.call = call
        self.why: PlaneError | None = None
        self._connection = connection
        self._model = model

    def __enter__(self) -> None:
        self._connection.opened[self._model].add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        opened = self._connection.opened
        entries = opened[self._model]
        entries.discard(self)
        if not entries:
            del opened[self._model]
        if error is None:
            return
        # Whatever ended it here, nothing of it is to go on there.
        self.call.cancel()
        if isinstance(error, grpc.aio.AioRpcError):
            raise error_of_call(error, self._connection.address) from error
        if isinstance(error, asyncio.CancelledError) and self.why is not None:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                raise self.why from None

    def end(self, why: PlaneError) -> None:
        """Let who waits for it have this error."""
        self.why = why
        self.call.cancel()


class Connection:
    """Speaks to one Triton; belongs to one event loop.

    Args:
        settings: Where it is.

    Attributes:
        address: Where it is.
        opened: The rpcs that are open, by model.
    """

    def __init__(self, settings: TritonSettings) -> None:
        self.address = settings.address
        if settings.tls is None:
            self._channel = grpc.aio.insecure_channel(settings.address, _OPTIONS)
        else:
            credentials = settings.tls.grpc_credentials()
            self._channel = grpc.aio.secure_channel(settings.address, credentials, _OPTIONS)
        self._methods: dict[str, Any] = {}
        self._infer: Any = self._channel.unary_unary(f"{SERVICE}/ModelInfer")
        self._stream: Any = self._channel.stream_stream(
            f"{SERVICE}/ModelStreamInfer",
            messages.ModelInferRequest.SerializeToString,
            messages.ModelStreamInferResponse.FromString,
        )
        self.opened: defaultdict[str, set[OpenCall]] = defaultdict(set)

    async def ask(self, method: str, timeout_s: float, **fields: Any) -> Any:
        """Call a method of Triton that is about itself or its models.

        Args:
            method: Its name; its messages are called after it.
            timeout_s: How long it may take.
            **fields: Those of its request.

        Raises:
            PlaneError: What Triton says, or UNAVAILABLE where it is away.
        """
        call = self._methods.get(method)
        if call is None:
            call = self._methods[method] = self._method(method)
        request = getattr(messages, f"{method}Request")(**fields)
        try:
            return await call(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, self.address) from error

    async def infer(
        self, model: str, request: bytes, timeout_s: float, metadata: Sequence[tuple[str, str]]
    ) -> bytes:
        """One message there, one back, both encoded; cancelling takes it back from Triton too.

        Raises:
            PlaneError: See `ask`, and that of `end`.
        """
        call = self._infer(request, timeout=timeout_s, metadata=metadata)
        with OpenCall(self, model, call):
            answer: bytes = await call
            return answer

    async def stream(
        self, model: str, request: Any, timeout_s: float, metadata: Sequence[tuple[str, str]]
    ) -> AsyncGenerator[Any, None]:
        """One message there, any number back, each a ``ModelStreamInferResponse``.

        Closing it takes the request back from Triton.

        Raises:
            PlaneError: See `infer`.
        """
        call = self._stream(_once(request), timeout=timeout_s, metadata=metadata)
        with OpenCall(self, model, call):
            async for answer in call:
                yield answer

    def end(self, why: PlaneError, model: str | None = None) -> None:
        """End the requests to a model, or to all of them, with this error."""
        of_models = [*self.opened.values()] if model is None else [self.opened.get(model, set())]
        for entry in [entry for entries in of_models for entry in entries]:
            entry.end(why)

    async def close(self) -> None:
        """End what is open, and the connection."""
        self.end(PlaneError(Code.UNAVAILABLE, "the backend was stopped"))
        await self._channel.close()

    def _method(self, method: str) -> Any:
        request = getattr(messages, f"{method}Request")
        response = getattr(messages, f"{method}Response")
        return self._channel.unary_unary(
            f"{SERVICE}/{method}", request.SerializeToString, response.FromString
        )


async def _once(request: Any) -> Any:
    yield request
