"""What does the numerical work behind a component: the contract that every backend keeps.

A backend knows models by name. What is asked of a model it cannot do is UNIMPLEMENTED; a model it
does not have is NOT_FOUND; one that is not loaded is FAILED_PRECONDITION; a full queue is
RESOURCE_EXHAUSTED with a ``google.rpc.RetryInfo``; a backend that is away is UNAVAILABLE.

Cancellation is that of asyncio: whoever waits on a call is cancelled, or closes its stream, and
the work stops at the next step, wherever it is done. Nothing of it is left then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from time import monotonic
from typing import Protocol, Self

from protoplane_base import Code, Context, PlaneError
from protoplane_runtime.tracing import TRACEPARENT
from protoplane_server.backends.tensors import Array, Tensor, TensorSpec


class Capability(StrEnum):
    """What can be asked of a model."""

    GENERATE = "generate"
    EMBED = "embed"
    INFER = "infer"
    INFER_STREAM = "infer_stream"


class ModelState(StrEnum):
    """Whether a model can be used."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"
    FAILED = "failed"


class FinishReason(Enum):
    """Why a model stopped writing."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class BackendCapabilities:
    """What a backend can do, whichever model is asked.

    Attributes:
        models: What its models can be asked for, all together.
        loading: Whether models can be loaded and unloaded.
        sources: Whether `Backend.load` takes files.
        batches: Whether its `Backend.infer` gains from a batcher in front of it; a backend that
            batches by itself does not.
    """

    models: frozenset[Capability]
    loading: bool = False
    sources: bool = False
    batches: bool = False


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """Which sequence a request is part of, for models that keep a state from one to the next.

    Attributes:
        id: What the requests of it have in common.
        start: Whether it is the first.
        end: Whether it is the last.
    """

    id: str
    start: bool = False
    end: bool = False


# Not frozen, though nobody changes one: that would make it three times as dear to make.
@dataclass(slots=True, kw_only=True, eq=False)
class BackendContext:
    """The request that a backend works for.

    Attributes:
        request_id: Identifier of the call.
        deadline: When it must be over, by ``time.monotonic``; ``None`` for never.
        traceparent: Its place in a trace (W3C Trace Context); empty where it has none.
        priority: Requests with a higher one go first.
        sequence: The sequence that it is part of; backends without such models pass over it.
    """

    request_id: str = ""
    deadline: float | None = None
    traceparent: str = ""
    priority: int = 0
    sequence: SequenceStep | None = None

    @classmethod
    def of(
        cls,
        call: Context,
        *,
        priority: int = 0,
        sequence: SequenceStep | None = None,
        request_id: str = "",
    ) -> Self:
        """The context of a call that a handler serves.

        Args:
            call: The call.
            priority: See the attribute.
            sequence: See the attribute.
            request_id: What the request is called where that is not what the call is.
        """
        left_s = call.time_remaining_s()
        trace = call.metadata.get(TRACEPARENT, "")
        return cls(
            request_id=request_id or call.request_id,
            deadline=None if left_s is None else monotonic() + left_s,
            traceparent=trace if isinstance(trace, str) else "",
            priority=priority,
            sequence=sequence,
        )

    def time_remaining_s(self) -> float | None:
        """Seconds until the deadline, never below zero; ``None`` where there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())

    def too_late(self) -> PlaneError:
        """The error of a request whose deadline has passed."""
        return PlaneError(
            Code.DEADLINE_EXCEEDED, f"request {self.request_id or '(unnamed)'} ran out of time"
        )


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A model, and whether it can be used.

    Attributes:
        name: Its name, one segment of a path.
        platform: Who runs it.
        capabilities: What can be asked of it.
        state: Whether it can be used.
        reason: Why it failed; empty otherwise.
        version: Its version; empty where the backend has none.
        inputs: What `Backend.infer` takes; empty until it is loaded.
        outputs: What it gives.
        max_batch_size: Most items along the first axis of every tensor; 0 where the first axis is
            no batch.
        context_tokens: Most tokens of a prompt and its answer; 0 where that is not known.
        dimensions: Length of its embeddings; 0 where it makes none.
    """

    name: str
    platform: str
    capabilities: frozenset[Capability]
    state: ModelState = ModelState.LOADED
    reason: str = ""
    version: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    max_batch_size: int = 0
    context_tokens: int = 0
    dimensions: int = 0


@dataclass(frozen=True, slots=True)
class ModelStats:
    """What a model has done since it was loaded.

    Attributes:
        succeeded: Requests that were answered.
        failed: Requests that failed.
        cancelled: Requests whose caller left, or whose time was up.
        in_flight: Requests that are worked on, or wait for it.
        executions: Batches, or steps, that it has made.
        items: Items in all of them together.
        tokens: Tokens that it has written.
    """

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    in_flight: int = 0
    executions: int = 0
    items: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen, and when to stop; see ``SamplingParameters`` of the schema.

    ``None`` leaves it to the backend. One that cannot do what is asked raises INVALID_ARGUMENT.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation.

    Attributes:
        role: Who said it: ``system``, ``user`` or ``assistant``.
        content: What was said.
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt as tokens of the model's own vocabulary."""

    ids: tuple[int, ...]


Prompt = str | Tokens | Sequence[ChatMessage]
"""What a model is to go on from."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How much was read and written, in tokens."""

    prompt_tokens: int
    completion_tokens: int = 0


# Not frozen, though nobody changes one: there is one for each token, and that would be the dearest
# part of making it.
@dataclass(slots=True)
class Chunk:
    """A piece of what a model writes.

    Attributes:
        text: What became certain with it; may be empty.
        tokens: The tokens of it, where the backend tells them.
        finish: Why it ended; only in the last.
        usage: Only in the last.
    """

    text: str
    tokens: tuple[int, ...] = ()
    finish: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Vectors of texts.

    Attributes:
        vectors: float32, ``[texts, dimensions]``, each of length one or zero.
        usage: How much was read.
    """

    vectors: Array
    usage: Usage


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        path: File or folder on this machine; ``None`` where the backend knows it by its name.
        parameters: Settings of the backend.
    """

    path: Path | None = None
    parameters: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)


class Outputs(list[Tensor]):
    """Outputs of a model that say which version of it ran, where a backend knows.

    Args:
        tensors: The outputs.
        version: The version.
    """

    def __init__(self, tensors: Sequence[Tensor], version: str) -> None:
        super().__init__(tensors)
        self.version = version


def version_of(outputs: Sequence[Tensor], asked: str) -> str:
    """The version of the model that gave outputs; what was asked for where that is not known."""
    return outputs.version if isinstance(outputs, Outputs) and outputs.version else asked


class Backend(Protocol):
    """Runs models; safe from any number of tasks of one event loop.

    A driver derives from `protoplane_server.backends.partial.PartialBackend`, and defines what it
    can do; the rest answers UNIMPLEMENTED. One that is `protoplane_server.Hosted` too is given its
    server, to publish events of its own.
    """

    @property
    def name(self) -> str:
        """What kind it is, ``embedded`` for example."""
        ...

    @property
    def capabilities(self) -> BackendCapabilities:
        """What it can do; known once it has started."""
        ...

    async def start(self) -> None:
        """Connect, or load what is to be there from the beginning.

        Raises:
            PlaneError: UNAVAILABLE where it is away.
        """
        ...

    async def stop(self) -> None:
        """End what is open with UNAVAILABLE and give back all resources; twice does no more."""
        ...

    async def warm_up(self) -> None:
        """Make the first request as fast as the second; does nothing where there is no need."""
        ...

    async def live(self) -> bool:
        """Whether it answers at all; never raises for one that is away."""
        ...

    async def ready(self, model: str, version: str = "") -> bool:
        """Whether a model can be used now; false for one that there is not."""
        ...

    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """What a model is.

        Raises:
            PlaneError: NOT_FOUND, UNAVAILABLE.
        """
        ...

    async def infer(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> Sequence[Tensor]:
        """Run a model once.

        Args:
            model: Its name.
            inputs: Its inputs, in any order.
            ctx: The request.
            version: Which version of it; empty for any.
            outputs: Names of the outputs that are wanted; all where empty.

        Returns:
            Its outputs, as `Outputs` where the backend knows which version ran.

        Raises:
            PlaneError: INVALID_ARGUMENT for tensors that the model does not take, with the name,
                what was expected and what came; DEADLINE_EXCEEDED; and as the module says.
        """
        ...

    def stream(
        self,
        model: str,
        inputs: Sequence[Tensor],
        ctx: BackendContext,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> AsyncGenerator[Sequence[Tensor], None]:
        """Run a model that gives any number of results; see `infer`.

        Closing the stream stops the model.
        """
        ...

    def generate(
        self, model: str, prompt: Prompt, sampling: Sampling, ctx: BackendContext
    ) -> AsyncGenerator[Chunk, None]:
        """Stream what a model writes after a prompt; the last chunk has a reason and the usage.

        Closing the stream stops the model.

        Raises:
            PlaneError: INVALID_ARGUMENT for a prompt or a sampling that the model cannot take;
                DEADLINE_EXCEEDED; and as the module says.
        """
        ...

    async def embed(self, model: str, texts: Sequence[str], ctx: BackendContext) -> Embeddings:
        """Vectors of texts, in their order.

        Raises:
            PlaneError: As `infer`.
        """
        ...

    async def load(self, model: str, source: ModelSource) -> ModelMetadata:
        """Load a model, or load it anew; returns once it can be used.

        One that fails to load anew stays as it was.

        Raises:
            PlaneError: NOT_FOUND where there is none, INVALID_ARGUMENT for files that are no
                model, UNIMPLEMENTED where the backend cannot.
        """
        ...

    async def unload(self, model: str) -> None:
        """Unload a model; what it is working on ends with UNAVAILABLE.

        One that is not loaded stays so.

        Raises:
            PlaneError: NOT_FOUND, UNIMPLEMENTED.
        """
        ...

    async def list(self) -> Sequence[ModelMetadata]:
        """All models that it knows, by name."""
        ...

    async def stats(self, model: str) -> ModelStats:
        """What a model has done.

        Raises:
            PlaneError: NOT_FOUND.
        """
        ...


class BackendDriver(Protocol):
    """A kind of backend: a module with this function, which its URLs' scheme names."""

    def open_backend(self, url: str) -> Backend:
        """A backend of a URL, not started.

        Raises:
            PlaneError: INVALID_ARGUMENT for a URL that is none of its own.
            MissingExtraError: Its extra is not installed.
        """
        ...
