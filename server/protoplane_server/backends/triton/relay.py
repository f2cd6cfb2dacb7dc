"""Requests that come in Triton's own protocol, and go on to it as they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protoplane_base import Context
from protoplane_server.backends.counting import ModelCounters
from protoplane_server.backends.interface import BackendContext
from protoplane_server.backends.relay import AnswerHead
from protoplane_server.backends.triton.messages import TIMEOUT, InferCall, read_tensors
from protoplane_server.backends.triton.model import TritonModel
from protoplane_server.kserve.forms import Form
from protoplane_server.kserve.schema import messages
from protoplane_server.kserve.tensors import add_outputs

_MAX_ANSWERS = 16


@dataclass(frozen=True, slots=True, eq=False)
class TritonRelay:
    """Takes plain requests; see `protoplane_server.backends.relay.Relay`.

    Those with parameters (sequences, priorities) or an id of their own, with byte strings, for
    shared memory, and to models that are decoupled or not known yet are not for it.

    Attributes:
        known: A model by its name and version, where it is known.
        counters: Where to count, by model.
        timeout_s: How long a request may take, in seconds.
        ask: Asks Triton, from bytes to bytes.
        below_bytes: From this size on tensors are not for it.
    """

    known: Callable[[str, str], TritonModel | None]
    counters: Mapping[str, ModelCounters]
    timeout_s: Callable[[BackendContext], float]
    ask: Callable[[InferCall, bytes], Awaitable[bytes]]
    below_bytes: int

    def kind(self, request: Any) -> TritonKind | None:
        """The kind of a request; see `protoplane_server.backends.relay.Relay`."""
        model = self.known(request.model_name, request.model_version)
        if model is None or model.decoupled or request.id:
            return None
        if not model.plain.takes(request, self.below_bytes):
            return None
        return TritonKind(self, model, request)


class TritonKind:
    """Requests of one kind; see `protoplane_server.backends.relay.RequestKind`.

    Args:
        relay: What takes them.
        model: The model.
        request: One of them.
    """

    def __init__(self, relay: TritonRelay, model: TritonModel, request: Any) -> None:
        self._relay = relay
        self._model = model
        self._version: str = request.model_version
        self._outputs = [output.name for output in request.outputs]
        self._form = Form.of_field(request, "raw_input_contents")
        self._answers: dict[int, tuple[Form, AnswerHead]] = {}

    @property
    def current(self) -> bool:
        """Whether the model is what it was."""
        return self._relay.known(self._model.metadata.name, self._version) is self._model

    async def ask(self, contents: Sequence[bytes], ctx: Context) -> tuple[AnswerHead, list[bytes]]:
        """Have a request answered; see `protoplane_server.backends.relay.RequestKind`."""
        relay, model = self._relay, self._model
        about = BackendContext.of(ctx)
        call = InferCall(model, self._version, (), self._outputs, about, relay.timeout_s(about))
        rest = messages.ModelInferRequest(id=about.request_id)
        rest.parameters[TIMEOUT].int64_param = call.timeout_us
        # Two encoded messages one after the other are one that says what both say.
        request = self._form.fill(contents) + rest.SerializeToString()
        with relay.counters[model.metadata.name].request():
            answer = await relay.ask(call, request)
            known = self._answers.get(len(answer))
            if known is not None:
                form, head = known
                found = form.match(answer)
                if found is not None:
                    return head, found[1:]
            return self._read(call, answer)

    def _read(self, call: InferCall, answer: bytes) -> tuple[AnswerHead, list[bytes]]:
        response = messages.ModelInferResponse.FromString(answer)
        request_id: str = response.id
        recurs = bool(request_id) and self._model.plain.answers(response, self._outputs)
        if not recurs:
            # It may turn out to be none.
            tensors = read_tensors(response, call)
            response = messages.ModelInferResponse(
                model_name=self._model.metadata.name, model_version=tensors.version
            )
            add_outputs(response, tensors)
        contents: list[bytes] = [*response.raw_output_contents]
        message = messages.ModelInferResponse(
            model_name=response.model_name,
            model_version=response.model_version,
            outputs=response.outputs,
        )
        head = AnswerHead(message, recurs)
        if recurs:

            def encode(found: Sequence[bytes]) -> bytes:
                response.id = found[0].decode()
                response.raw_output_contents[:] = found[1:]
                encoded: bytes = response.SerializeToString()
                return encoded

            if len(self._answers) >= _MAX_ANSWERS:
                self._answers.clear()
            form = Form(encode, [len(request_id), *map(len, contents)])
            self._answers[len(answer)] = form, head
        return head, contents
