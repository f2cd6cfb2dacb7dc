"""Between the messages of the schema and the values of backends."""

from __future__ import annotations

from collections.abc import Sequence

from protoplane.inference.v1 import (
    Capability,
    DataType,
    FinishReason,
    GenerateRequest,
    GenerateResponse,
    Model,
    ModelState,
    ModelStats,
    SamplingParameters,
    SequenceStep,
    Usage,
)
from protoplane.inference.v1 import Tensor as TensorMessage
from protoplane.inference.v1 import TensorSpec as TensorSpecMessage
from protoplane_base import Code, PlaneError
from protoplane_server.backends import interface
from protoplane_server.backends.tensors import Datatype, Tensor, TensorSpec

DATATYPES = {DataType[f"DATA_TYPE_{each}"]: each for each in Datatype}
"""The datatypes by their numbers in the schema."""

DATA_TYPES = {datatype: number for number, datatype in DATATYPES.items()}
"""Their numbers."""

_FINISHES = {each: FinishReason[f"FINISH_REASON_{each.name}"] for each in interface.FinishReason}


def tensors_in(messages: Sequence[TensorMessage]) -> list[Tensor]:
    """Tensors of a request.

    Raises:
        PlaneError: INVALID_ARGUMENT with the tensor, what was expected of it and what it is.
    """
    found: list[Tensor] = []
    for message in messages:
        datatype = DATATYPES.get(message.datatype)
        if datatype is None:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"tensor {message.name!r} has the datatype {message.datatype.proto_name}; "
                f"expected one of {', '.join(Datatype)}",
            )
        found.append(Tensor.unpack(message.name, datatype, message.shape, message.contents))
    return found


def tensors_out(tensors: Sequence[Tensor]) -> list[TensorMessage]:
    """Tensors of an answer."""
    return [
        TensorMessage(
            name=tensor.name,
            datatype=DATA_TYPES[tensor.datatype],
            shape=list(tensor.shape),
            contents=tensor.pack(),
        )
        for tensor in tensors
    ]


def sequence_of(message: SequenceStep | None) -> interface.SequenceStep | None:
    """The place of a request in a sequence."""
    if message is None:
        return None
    return interface.SequenceStep(message.id, start=message.start, end=message.end)


def prompt_of(request: GenerateRequest) -> interface.Prompt:
    """What a model is to go on from.

    Raises:
        PlaneError: INVALID_ARGUMENT; the request says nothing of it.
    """
    if request.prompt is not None:
        return request.prompt
    if request.token_ids is not None:
        return interface.Tokens(tuple(request.token_ids.ids))
    if request.conversation is not None and request.conversation.messages:
        return [
            interface.ChatMessage(message.role, message.content)
            for message in request.conversation.messages
        ]
    raise PlaneError(
        Code.INVALID_ARGUMENT,
        "there is nothing to go on from; give one of prompt, token_ids or conversation",
    )


def sampling_of(message: SamplingParameters | None) -> interface.Sampling:
    """How tokens are to be chosen."""
    if message is None:
        return interface.Sampling()
    return interface.Sampling(
        temperature=message.temperature,
        top_p=message.top_p,
        top_k=message.top_k,
        seed=message.seed,
        max_tokens=message.max_tokens,
        stop=tuple(message.stop),
        stop_tokens=tuple(message.stop_token_ids),
        repetition_penalty=message.repetition_penalty,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
    )


def response_of(chunk: interface.Chunk, index: int, model: str) -> GenerateResponse:
    """A message of a text's stream; the first one names its model."""
    answer = GenerateResponse(text=chunk.text, token_ids=list(chunk.tokens), index=index)
    if index == 0:
        answer.model = model
    if chunk.finish is not None:
        answer.finish_reason = _FINISHES[chunk.finish]
    if chunk.usage is not None:
        answer.usage = usage_of(chunk.usage)
    return answer


def usage_of(usage: interface.Usage) -> Usage:
    """How much was read and written."""
    return Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)


def state_of(state: interface.ModelState) -> ModelState:
    """Whether a model can be used."""
    return ModelState[f"MODEL_STATE_{state.name}"]


def model_of(metadata: interface.ModelMetadata) -> Model:
    """A model."""
    return Model(
        name=metadata.name,
        version=metadata.version,
        platform=metadata.platform,
        capabilities=sorted(
            Capability[f"CAPABILITY_{each.name}"] for each in metadata.capabilities
        ),
        state=state_of(metadata.state),
        reason=metadata.reason,
        inputs=[_spec(spec) for spec in metadata.inputs],
        outputs=[_spec(spec) for spec in metadata.outputs],
        max_batch_size=metadata.max_batch_size,
        context_tokens=metadata.context_tokens,
        dimensions=metadata.dimensions,
    )


def stats_of(stats: interface.ModelStats) -> ModelStats:
    """What a model has done."""
    return ModelStats(
        succeeded=stats.succeeded,
        failed=stats.failed,
        cancelled=stats.cancelled,
        in_flight=stats.in_flight,
        executions=stats.executions,
        items=stats.items,
        tokens=stats.tokens,
    )


def _spec(spec: TensorSpec) -> TensorSpecMessage:
    return TensorSpecMessage(
        name=spec.name,
        datatype=DATA_TYPES[spec.datatype],
        shape=list(spec.shape),
        optional=spec.optional,
    )
