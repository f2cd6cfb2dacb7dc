"""Models of Triton: from their configuration to what a backend says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import (
    Capability,
    ModelMetadata,
    ModelState,
    SequenceStep,
)
from protoplane_server.backends.tensors import Datatype, TensorSpec
from protoplane_server.backends.triton.errors import plain_words
from protoplane_server.backends.triton.plain import PlainMessages
from protoplane_server.backends.triton.schema import config_messages

_UNARY = frozenset({Capability.INFER, Capability.INFER_STREAM})
_DECOUPLED = frozenset({Capability.INFER_STREAM})
CAPABILITIES = _UNARY | _DECOUPLED
"""What models of Triton can be asked for."""

READY = "READY"
"""The state of a model that can be used, in Triton's index."""

_STATES = {
    READY: ModelState.LOADED,
    "LOADING": ModelState.LOADING,
    "UNLOADING": ModelState.UNLOADING,
}


@dataclass(frozen=True, slots=True)
class TritonModel:
    """A model that is loaded, as its configuration says.

    Attributes:
        metadata: What there is to say of it to others; its version is that which was asked for.
        decoupled: Whether it gives any number of answers to a request.
        sequences: Whether its requests are parts of sequences.
        numbered: Whether it wants the id of a sequence as a number.
        priority_levels: Levels of its queue, 1 being the first served; 0 for none.
        default_level: The one of a request that asks for none.
        queue_limit: Most requests that wait for it; 0 for any number.
        sized: Whether the size of some output follows from its configuration and the batch.
        gpus: Numbers of the GPUs that it runs on; empty where an instance runs elsewhere.
        plain: Which messages about it can be passed on as they are.
    """

    metadata: ModelMetadata
    decoupled: bool
    sequences: bool
    numbered: bool
    priority_levels: int
    default_level: int
    queue_limit: int
    sized: bool
    gpus: frozenset[int]
    plain: PlainMessages = field(compare=False)

    @classmethod
    def of(cls, config: Any, version: str) -> TritonModel:
        """Read a ``ModelConfig``.

        Raises:
            PlaneError: INTERNAL; it has a datatype that there is not.
        """
        decoupled: bool = config.model_transaction_policy.decoupled
        batching = config.dynamic_batching
        controls = [
            control
            for each in config.sequence_batching.control_input
            for control in each.control
            if control.kind == control.CONTROL_SEQUENCE_CORRID
        ]
        outputs = _specs(config, config.output)
        first = 1 if config.max_batch_size else 0
        metadata = ModelMetadata(
            config.name,
            platform_of(config),
            _DECOUPLED if decoupled else _UNARY,
            version=version,
            inputs=_specs(config, config.input),
            outputs=outputs,
            max_batch_size=config.max_batch_size,
        )
        return cls(
            metadata,
            decoupled=decoupled,
            sequences=config.HasField("sequence_batching"),
            numbered=any(control.data_type != config_messages.TYPE_STRING for control in controls),
            priority_levels=batching.priority_levels,
            default_level=batching.default_priority_level,
            queue_limit=batching.default_queue_policy.max_queue_size,
            sized=any(
                spec.datatype is not Datatype.BYTES and min(spec.shape[first:], default=1) > 0
                for spec in outputs
            ),
            gpus=_gpus(config),
            plain=PlainMessages(metadata),
        )

    def level(self, priority: int) -> int:
        """Level of its queue for a request: higher priorities are lower levels; 0 for none."""
        if not self.priority_levels or not priority:
            return 0
        return min(max(self.default_level - priority, 1), self.priority_levels)

    def sequence_id(self, step: SequenceStep) -> int | str:
        """The id of a sequence as the model wants it.

        Raises:
            PlaneError: INVALID_ARGUMENT; it wants a number, from 1 to 2^63 - 1.
        """
        if not self.numbered:
            return step.id
        if not step.id.isascii() or not step.id.isdecimal() or not 0 < int(step.id) < 1 << 63:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{self.metadata.name} has numbers for sequences, from 1 to 2^63 - 1; "
                f"got {step.id!r}",
            )
        return int(step.id)


def platform_of(config: Any) -> str:
    """Who runs a model, ``triton_python`` for example."""
    return f"triton_{config.backend or config.platform}"


def state_of(entry: Any) -> tuple[ModelState, str]:
    """State of an entry of the repository's index, and why it failed."""
    state = _STATES.get(entry.state)
    if state is not None:
        return state, ""
    if entry.reason in ("", "unloaded"):
        return ModelState.UNLOADED, ""
    return ModelState.FAILED, plain_words(entry.reason)


def _gpus(config: Any) -> frozenset[int]:
    groups = config.instance_group
    if any(group.kind != group.KIND_GPU for group in groups):
        return frozenset()
    return frozenset(number for group in groups for number in group.gpus)


def _specs(config: Any, tensors: Any) -> tuple[TensorSpec, ...]:
    batch = (-1,) if config.max_batch_size else ()
    return tuple(
        TensorSpec(
            each.name,
            _datatype(config.name, each),
            (*batch, *each.dims),
            optional=getattr(each, "optional", False),
        )
        for each in tensors
    )


def _datatype(model: str, tensor: Any) -> Datatype:
    name = config_messages.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    try:
        return Datatype("BYTES" if name == "STRING" else name)
    except ValueError:
        raise PlaneError(
            Code.INTERNAL, f"tensor {tensor.name!r} of {model} has the unknown datatype {name}"
        ) from None
