"""The component, as a user would write it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Self, TypeVar, cast

from protoplane.gateway.v1 import (
    Allowance,
    EmbedRequest,
    EmbedResponse,
    GatewayService,
    InferRequest,
    InferResponse,
    InferStreamResponse,
    ListModelsRequest,
    ListModelsResponse,
    WhoAmIRequest,
    WhoAmIResponse,
)
from protoplane.inference.v1 import EmbedRequest as TextsRequest
from protoplane.inference.v1 import InferenceClient, Usage
from protoplane.inference.v1 import ListModelsRequest as ModelsRequest
from protoplane_base import CallOptions, Code, PlaneError
from protoplane_client import BreakerPolicy, Policy, connect
from protoplane_components.gateway.access import GatewayAccess
from protoplane_components.gateway.accounting import Accounting, Entry
from protoplane_components.gateway.admission import Admission
from protoplane_components.gateway.audit import AuditLog
from protoplane_components.gateway.keys import KeyRing, plain_keys, read_keys
from protoplane_components.gateway.metrics import GatewayMetrics
from protoplane_components.gateway.rates import Rates, check_rate
from protoplane_components.gateway.reread import RereadFile
from protoplane_components.gateway.settings import GatewaySettings
from protoplane_components.gateway.upstream import Written, generate_request, tensor_request
from protoplane_server import Context, Host
from protoplane_server.access import Access

if TYPE_CHECKING:
    from protoplane_components.gateway.web_tokens import WebTokens
    from protoplane_server.http.beside import Beside
    from protoplane_server.http.state import DoorState

_log = logging.getLogger("protoplane.gateway")
_T = TypeVar("_T")

# What is behind is a door to many workers: that some requests fail says little of the others, and
# one caller's must not shut it for all. A connection that is lost is seen without a breaker.
_NEVER = BreakerPolicy(consecutive=sys.maxsize, minimum=sys.maxsize)


class Gateway(GatewayService):
    """Takes requests from outside to the models inside.

    Args:
        settings: How it is set up; by default by the environment.
    """

    def __init__(self, settings: GatewaySettings | None = None) -> None:
        self._settings = settings or GatewaySettings.from_environment(os.environ)
        self._host: Host | None = None
        self._accounts: Accounting | None = None
        self._client: InferenceClient | None = None
        self._stack = AsyncExitStack()

    def hosted(self, host: Host) -> None:
        """Remember the server, for its discovery and metrics."""
        self._host = host

    async def __aenter__(self) -> Self:
        settings, host = self._settings, self._host
        if host is None:
            raise PlaneError(Code.FAILED_PRECONDITION, "Gateway runs in a Server; give it to one")
        for rate in filter(None, (settings.requests, settings.tokens)):
            check_rate(rate)
        stack = self._stack
        try:
            audit = await stack.enter_async_context(AuditLog(settings))
            rates = await stack.enter_async_context(Rates(settings.rate_store))
            admission = Admission(settings, rates)
            metrics = GatewayMetrics(host.metrics, lambda: admission.open, lambda: audit.lost)
            self._accounts = accounts = Accounting(None, admission, audit, metrics)
            accounts.access = await self._access(accounts)
            plane = connect(
                settings.upstream,
                token=settings.upstream_token or None,
                policy=Policy(breaking=_NEVER),
                engine=host.discovery,
                namespace=host.namespace,
            )
            self._client = InferenceClient(await stack.enter_async_context(plane))
        except BaseException:
            await stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def who_may_call(self) -> Access | None:
        """Those with a key or a JWT; everybody where there are none."""
        access = self._accounting.access
        if access is None:
            _log.warning(
                "no keys and no JWKS file are configured, so everybody who reaches this gateway "
                "may call it"
            )
        return access

    def http_routes(self, state: DoorState) -> Beside:
        """OpenAI's API."""
        from protoplane_components.gateway.openai.routes import OpenAIRoutes

        return OpenAIRoutes(state, self.spec, self._accounting.turned_away)

    async def infer(self, request: InferRequest, ctx: Context) -> InferResponse:
        """Run a model; the answer comes whole."""
        async with self._accounting.request(ctx, request.model) as entry:
            if request.tensors is not None:
                asked = tensor_request(request, _priority(request, entry))
                answer = await self._inference.infer(asked, **self._options(ctx))
                entry.model = answer.model
                return InferResponse(
                    model=answer.model, outputs=answer.outputs, request_id=ctx.request_id
                )
            texts: list[str] = []
            response = InferResponse(model=request.model, request_id=ctx.request_id)
            async with aclosing(self._pieces(request, ctx, entry)) as pieces:
                async for piece in pieces:
                    texts.append(piece.text)
                    if piece.model:
                        response.model = piece.model
                    if piece.finish_reason:
                        response.finish_reason = piece.finish_reason
                    if piece.usage is not None:
                        response.usage = piece.usage
            response.text = "".join(texts)
            return response

    async def infer_stream(
        self, request: InferRequest, ctx: Context
    ) -> AsyncIterator[InferStreamResponse]:
        """Run a model; the answer comes in pieces."""
        async with self._accounting.request(ctx, request.model) as entry:
            stream = self._results if request.tensors is not None else self._pieces
            async with aclosing(stream(request, ctx, entry)) as pieces:
                async for piece in pieces:
                    yield piece

    async def embed(self, request: EmbedRequest, ctx: Context) -> EmbedResponse:
        """Give a vector for each text."""
        async with self._accounting.request(ctx, request.model) as entry:
            asked = TextsRequest(model=request.model, texts=request.texts)
            answer = await self._inference.embed(asked, **self._options(ctx))
            entry.model = answer.model
            usage = answer.usage or Usage()
            entry.prompt_tokens = usage.prompt_tokens
            return EmbedResponse(embeddings=answer.embeddings, usage=usage, model=answer.model)

    async def list_models(self, request: ListModelsRequest, ctx: Context) -> ListModelsResponse:
        """Tell which models the caller may use now."""
        async with self._accounting.request(ctx, None) as entry:
            asked = ModelsRequest(ready=True)
            answer = await self._inference.list_models(asked, **self._options(ctx))
            models = [model for model in answer.models if entry.caller.may_use(model.name)]
            return ListModelsResponse(models=models)

    async def who_am_i(self, request: WhoAmIRequest, ctx: Context) -> WhoAmIResponse:
        """Tell who the caller is; it counts for nothing."""
        accounting = self._accounting
        caller = accounting.caller(ctx)
        response = WhoAmIResponse(name=caller.name, models=[*caller.models])
        left = await accounting.admission.left(caller, accounting.counted_for(caller, ctx))
        for what, (rate, window) in left.items():
            allowance = Allowance(
                limit=str(check_rate(rate)),
                remaining=max(0, window.remaining),
                reset_seconds=round(window.reset_s, 3),
            )
            setattr(response, what, allowance)
        return response

    async def _pieces(
        self, request: InferRequest, ctx: Context, entry: Entry
    ) -> AsyncGenerator[InferStreamResponse, None]:
        asked = generate_request(request, _priority(request, entry))
        written = Written(asked)
        first = True
        answers = _closable(self._inference.generate(asked, **self._options(ctx)))
        try:
            async for answer in answers:
                written.add(answer)
                piece = InferStreamResponse(text=answer.text)
                if first:
                    first = False
                    entry.answered()
                    entry.model = piece.model = answer.model or request.model
                    piece.request_id = ctx.request_id
                if answer.finish_reason:
                    piece.finish_reason = answer.finish_reason
                if answer.usage is not None:
                    piece.usage = answer.usage
                yield piece
        finally:
            entry.prompt_tokens, entry.completion_tokens = written.tokens
            await answers.aclose()

    async def _results(
        self, request: InferRequest, ctx: Context, entry: Entry
    ) -> AsyncGenerator[InferStreamResponse, None]:
        asked = tensor_request(request, _priority(request, entry))
        first = True
        answers = _closable(self._inference.infer_stream(asked, **self._options(ctx)))
        async with aclosing(answers):
            async for answer in answers:
                piece = InferStreamResponse(outputs=answer.outputs)
                if first:
                    first = False
                    entry.answered()
                    entry.model = piece.model = answer.model
                    piece.request_id = ctx.request_id
                yield piece

    @property
    def _accounting(self) -> Accounting:
        assert self._accounts is not None
        return self._accounts

    @property
    def _inference(self) -> InferenceClient:
        assert self._client is not None
        return self._client

    def _options(self, ctx: Context) -> CallOptions:
        return {
            "timeout_s": self._settings.timeout_s,
            "metadata": {"x-request-id": ctx.request_id},
        }

    async def _access(self, accounting: Accounting) -> GatewayAccess | None:
        settings = self._settings
        if settings.is_open:
            return None
        tokens: WebTokens | None = None
        if settings.jwks_file is not None:
            from protoplane_components.gateway.web_tokens import WebTokens

            tokens = WebTokens(settings)
            await self._stack.enter_async_context(RereadFile(settings.jwks_file, tokens.use))
        plain = plain_keys(settings.api_keys)
        access = GatewayAccess(KeyRing(plain), tokens, accounting.refused)
        if settings.key_file is not None:
            place = str(settings.key_file)

            def use(text: str) -> None:
                access.keys = KeyRing([*plain, *read_keys(text, place)])

            await self._stack.enter_async_context(RereadFile(settings.key_file, use))
        return access


def _priority(request: InferRequest, entry: Entry) -> int:
    return min(request.priority, entry.caller.max_priority)


def _closable(stream: AsyncIterator[_T]) -> AsyncGenerator[_T, None]:
    """A stream of a client, all of which can be closed; that cancels the call."""
    return cast("AsyncGenerator[_T, None]", stream)
