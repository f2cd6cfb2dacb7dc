"""Workers that do what they are told: write what depends on what came before, wait, or die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from protoplane.inference.v1 import (
    Capability,
    Embedding,
    EmbedRequest,
    EmbedResponse,
    FinishReason,
    GenerateRequest,
    GenerateResponse,
    InferenceClient,
    InferenceService,
    InferRequest,
    InferResponse,
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    LoadModelResponse,
    Model,
    ModelState,
    ModelStats,
    ModelStatusRequest,
    ModelStatusResponse,
    SamplingParameters,
    UnloadModelRequest,
    UnloadModelResponse,
    Usage,
)
from protoplane.orchestrator.v1 import OrchestratorClient
from protoplane_base import Code, PlaneError
from protoplane_client import BreakerPolicy, Plane, Policy, RetryPolicy, connect
from protoplane_components.inference.announcing import announce, loaded
from protoplane_components.orchestrator import Orchestrator, OrchestratorSettings
from protoplane_server import Context, Host, Options, Server
from protoplane_server.backends.stops import StopText

ALL = (
    Capability.CAPABILITY_GENERATE,
    Capability.CAPABILITY_EMBED,
    Capability.CAPABILITY_INFER,
    Capability.CAPABILITY_INFER_STREAM,
)
LOST = PlaneError(Code.UNAVAILABLE, "the graphics card fell off")
GREEDY = SamplingParameters(temperature=0.0, max_tokens=20)


def written(text: str, count: int) -> str:
    """What a worker writes after a text, however much of it another one wrote."""
    whole = text
    for _ in range(count):
        whole += chr(97 + (len(whole) * 7 + ord(whole[-1]) * 3) % 26)
    return whole[len(text) :]


class Worker(InferenceService):
    """A worker of one model, ``m``, whose tokens are letters.

    Attributes:
        calls: Requests for texts that came.
        contexts: What they came with.
        active: Requests that it works on.
        peak: Most that it had at a time.
        cancelled: Requests that were cancelled.
        go: Requests wait for it before their first token.
        hang_after: Tokens after which a text goes on no more; ``None`` for never.
        die_after: Tokens after which a text is lost; ``None`` for never.
        refuse: What requests are refused with; ``None`` for not.
        loads: What was asked of it: ``+m`` to load, ``-m`` to unload.
    """

    def __init__(
        self,
        *models: str,
        capacity: int | None = 8,
        able: Sequence[Capability] = ALL,
        announces: bool = True,
    ) -> None:
        self.models = dict.fromkeys(models or ("m",), ModelState.MODEL_STATE_LOADED)
        self.capacity = capacity
        self.able = able
        self.announces = announces
        self.host: Host | None = None
        self.calls: list[GenerateRequest] = []
        self.contexts: list[Context] = []
        self.active = self.peak = self.cancelled = self.embedded = 0
        self.go = asyncio.Event()
        self.go.set()
        self.hang_after: int | None = None
        self.die_after: int | None = None
        self.refuse: PlaneError | None = None
        self.loads: list[str] = []
        self.sequences: list[str] = []

    def hosted(self, host: Host) -> None:
        """Say what it has."""
        self.host = host
        self._tell()

    def _tell(self) -> None:
        assert self.host is not None
        if self.announces:
            said = dict(announce(loaded(self._models()), self.capacity or 1))
            if self.capacity is None:
                del said["inference.capacity"]
            self.host.metadata.update(said)

    def _models(self) -> list[Model]:
        return [
            Model(name=name, state=state, capabilities=[*self.able], platform="scripted")
            for name, state in self.models.items()
        ]

    async def _begin(self, ctx: Context) -> None:
        self.contexts.append(ctx)
        if self.refuse is not None:
            raise self.refuse
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.active -= 1

    async def generate(
        self, request: GenerateRequest, ctx: Context
    ) -> AsyncIterator[GenerateResponse]:
        """Write letters."""
        self.calls.append(request)
        await self._begin(ctx)
        sampling = request.sampling or SamplingParameters(max_tokens=5)
        count = 20 if sampling.max_tokens is None else sampling.max_tokens
        prompt = request.prompt
        if request.token_ids is not None:
            prompt = "".join(map(chr, request.token_ids.ids))
        if request.conversation is not None:
            prompt = request.conversation.messages[-1].content
        assert prompt
        stops = StopText(sampling.stop)
        self.active += 1
        self.peak = max(self.peak, self.active)
        done = 0
        finish = FinishReason.FINISH_REASON_LENGTH
        try:
            for letter in written(prompt, count):
                if done == self.die_after:
                    raise LOST
                await (asyncio.sleep(3600) if done == self.hang_after else asyncio.sleep(0))
                done += 1
                answer = GenerateResponse(
                    text=stops.add(letter), token_ids=[ord(letter)], index=done - 1
                )
                if done == 1:
                    answer.model = request.model
                yield answer
                if stops.stopped:
                    finish = FinishReason.FINISH_REASON_STOP
                    break
            if done == self.die_after:
                raise LOST
            usage = Usage(prompt_tokens=len(prompt), completion_tokens=done)
            yield GenerateResponse(text=stops.end(), index=done, finish_reason=finish, usage=usage)
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += 1
            raise
        finally:
            self.active -= 1

    async def embed(self, request: EmbedRequest, ctx: Context) -> EmbedResponse:
        """Give each text its length."""
        await self._begin(ctx)
        self.embedded += 1
        vectors = [Embedding(values=[float(len(text))]) for text in request.texts]
        return EmbedResponse(embeddings=vectors, model=request.model)

    async def infer(self, request: InferRequest, ctx: Context) -> InferResponse:
        """Answer with the model's name."""
        await self._begin(ctx)
        if request.sequence is not None:
            self.sequences.append(request.sequence.id)
        return InferResponse(model=request.model)

    async def infer_stream(
        self, request: InferRequest, ctx: Context
    ) -> AsyncIterator[InferResponse]:
        """Answer three times."""
        await self._begin(ctx)
        for number in range(3):
            if number == self.die_after:
                raise LOST
            yield InferResponse(model=request.model, version=str(number))

    async def list_models(self, request: ListModelsRequest, ctx: Context) -> ListModelsResponse:
        """Tell its models."""
        ready = ModelState.MODEL_STATE_LOADED
        models = [each for each in self._models() if each.state == ready or not request.ready]
        return ListModelsResponse(models=models)

    async def model_status(self, request: ModelStatusRequest, ctx: Context) -> ModelStatusResponse:
        """Tell of one."""
        for model in self._models():
            if model.name == request.model:
                return ModelStatusResponse(model=model, stats=ModelStats(succeeded=7))
        raise PlaneError(Code.NOT_FOUND, f"there is no model {request.model!r}")

    async def load_model(self, request: LoadModelRequest, ctx: Context) -> LoadModelResponse:
        """Have a model from now on."""
        if self.refuse is not None:
            raise self.refuse
        await self._change(f"+{request.model}", request.model, ModelState.MODEL_STATE_LOADED)
        return LoadModelResponse(model=Model(name=request.model, state=self.models[request.model]))

    async def unload_model(self, request: UnloadModelRequest, ctx: Context) -> UnloadModelResponse:
        """Have it no more."""
        if request.model not in self.models:
            raise PlaneError(Code.NOT_FOUND, f"there is no model {request.model!r}")
        await self._change(f"-{request.model}", request.model, ModelState.MODEL_STATE_UNLOADED)
        return UnloadModelResponse(
            model=Model(name=request.model, state=self.models[request.model])
        )

    async def _change(self, note: str, model: str, state: ModelState) -> None:
        self.loads.append(note)
        self.models[model] = state
        self._tell()
        assert self.host is not None
        await self.host.reannounce()


class Fleet:
    """An orchestrator and its workers on one engine, in this process."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.engine = f"local:{folder / 'engine'}"
        self.servers: dict[str, Server] = {}
        self._stack = stack

    def options(self, name: str, **more: Any) -> Options:
        fields: Mapping[str, Any] = {
            "grpc": None,
            "http": None,
            "link": ("link+tcp://127.0.0.1:0",),
            "grace_s": 5,
            # How busy the machine is would decide who is the least loaded.
            "stats_interval_s": None,
            "engine": self.engine,
            "name": name,
            **more,
        }
        return Options(**fields)

    async def worker(self, id_: str, made: Worker | None = None) -> Worker:
        """Start a worker."""
        made = made or Worker()
        server = Server(made, self.options(f"protoplane/inference/{id_}"))
        self.servers[id_] = await self._stack.enter_async_context(server)
        return made

    async def orchestrator(
        self, settings: OrchestratorSettings | None = None, *, workers: int = 0, **more: Any
    ) -> Front:
        """Start an orchestrator, and wait until it knows so many workers."""
        made = Orchestrator(settings or OrchestratorSettings(), **more)
        options = self.options("protoplane/orchestrator/one")
        server = await self._stack.enter_async_context(Server([made.overseer, made], options))
        # Otherwise the caller would try again what the orchestrator is seen to try.
        breaking = BreakerPolicy(consecutive=10**6, minimum=10**6)
        policy = Policy(retries=RetryPolicy(max_attempts=1), breaking=breaking)
        plane = await self._stack.enter_async_context(
            connect(server.link_addresses[0], policy=policy)
        )
        front = Front(made, server, plane)
        await eventually(lambda: len(front.known) == workers)
        return front


class Front:
    """An orchestrator, and clients of it."""

    def __init__(self, made: Orchestrator, server: Server, plane: Plane) -> None:
        self.made = made
        self.server = server
        self.plane = plane
        self.inference = InferenceClient(plane)
        self.overseer = OrchestratorClient(plane)

    @property
    def known(self) -> list[str]:
        """Ids of the workers that said what they have."""
        return [each.id for each in self.made.pool.workers.values() if each.known]

    async def text(self, request: GenerateRequest, **options: Any) -> str:
        """All that is written after a prompt."""
        answers = self.inference.generate(request, **options)
        return "".join([answer.text async for answer in answers])


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds, half a minute at most."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # what is watched sets no event
            await asyncio.sleep(0.005)
