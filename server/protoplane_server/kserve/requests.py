"""One ``ModelInferRequest`` as a backend gets it, and its answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from time import monotonic
from typing import Any

from protoplane_base import Code, Context, PlaneError
from protoplane_server.backends.interface import (
    Backend,
    BackendContext,
    Capability,
    SequenceStep,
    version_of,
)
from protoplane_server.backends.tensors import Tensor
from protoplane_server.kserve.schema import messages
from protoplane_server.kserve.tensors import add_outputs, check_settings, tensors_in

FINAL = "triton_final_response"
"""Parameter of an answer in a stream: whether it is the last one to its request."""

_EMPTY_FINAL = "triton_enable_empty_final_response"


class InferCall:
    """A request, read.

    Args:
        request: The message.
        ctx: The call that it came with.

    Attributes:
        model: Name of its model.

    Raises:
        PlaneError: INVALID_ARGUMENT or UNIMPLEMENTED; it asks for what cannot be.
    """

    def __init__(self, request: Any, ctx: Context) -> None:
        self.model: str = request.model_name
        if not self.model:
            raise PlaneError(
                Code.INVALID_ARGUMENT, "model_name is empty; RepositoryIndex says which there are"
            )
        self._id: str = request.id
        self._version: str = request.model_version
        self._inputs = tensors_in(request)
        self._outputs: list[str] = []
        for output in request.outputs:
            check_settings(output)
            self._outputs.append(output.name)
        parameters = request.parameters
        if parameters:
            settings = {name: _value(each) for name, each in parameters.items()}
            self._wants_empty_final = settings.get(_EMPTY_FINAL) is True
            self._ctx = _context(settings, sequence_of(request), self._id, ctx)
        else:
            self._wants_empty_final = False
            self._ctx = BackendContext.of(ctx, request_id=self._id)

    async def infer(self, backend: Backend) -> Any:
        """Run the model once, for a ``ModelInferResponse``."""
        return self._response(await self._run(backend))

    async def stream(self, backend: Backend) -> AsyncGenerator[Any, None]:
        """Run the model, for any number of ``ModelInferResponse``."""
        metadata = await backend.metadata(self.model, self._version)
        # Of one that is not loaded nothing is known; a backend may yet load it when it is asked.
        # One that can answer once does, as its configuration says that it is not decoupled.
        kinds = metadata.capabilities
        if Capability.INFER in kinds or (kinds and Capability.INFER_STREAM not in kinds):
            response = self._response(await self._run(backend))
            response.parameters[FINAL].bool_param = True
            yield response
            return
        results = backend.stream(
            self.model, self._inputs, self._ctx, version=self._version, outputs=self._outputs
        )
        async with aclosing(results):
            async for tensors in results:
                response = self._response(tensors)
                response.parameters[FINAL].bool_param = False
                yield response
        if self._wants_empty_final:
            last = self._response(())
            last.parameters[FINAL].bool_param = True
            yield last

    async def _run(self, backend: Backend) -> Sequence[Tensor]:
        return await backend.infer(
            self.model, self._inputs, self._ctx, version=self._version, outputs=self._outputs
        )

    def _response(self, tensors: Sequence[Tensor]) -> Any:
        response = messages.ModelInferResponse(
            model_name=self.model, model_version=version_of(tensors, self._version), id=self._id
        )
        add_outputs(response, tensors)
        return response


def sequence_of(request: Any) -> str:
    """The sequence that a request is part of, a number or a text; empty for none."""
    if "sequence_id" not in request.parameters:
        return ""
    value = _value(request.parameters["sequence_id"])
    # The number 0 means that there is none.
    return str(value) if value else ""


def _context(
    settings: dict[str, object], sequence: str, request_id: str, ctx: Context
) -> BackendContext:
    step = None
    if sequence:
        step = SequenceStep(
            sequence,
            start=settings.get("sequence_start") is True,
            end=settings.get("sequence_end") is True,
        )
    # The protocol counts the other way round: 1 goes first, and 0 is for those who do not care.
    level = _number(settings, "priority")
    made = BackendContext.of(ctx, priority=1 - max(1, level), sequence=step, request_id=request_id)
    timeout_us = _number(settings, "timeout")
    if timeout_us:
        until = monotonic() + timeout_us / 1e6
        made = replace(made, deadline=min(until, made.deadline or until))
    return made


def _value(parameter: Any) -> object:
    chosen = parameter.WhichOneof("parameter_choice")
    return None if chosen is None else getattr(parameter, chosen)


def _number(settings: dict[str, object], name: str) -> int:
    value = settings.get(name, 0)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53:
        return value
    raise PlaneError(
        Code.INVALID_ARGUMENT,
        f"parameter {name!r} is {value!r}; it takes a whole number that is not negative",
    )
